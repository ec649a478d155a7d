"""Tied: one table, read at both ends."""

import torch
from torch.nn import functional as F

from ramen.nn.embedding.tied import Tied
from ramen.nn.parameter import initialise


def test_the_head_is_the_table_itself():
    module = Tied(37, 16, init_std=0.02, pad_to_multiple=64)
    initialise(module, 0)
    ((name, table),) = module.named_parameters()
    assert module.head() is table and (name, table.role) == ("weight", "embedding")


def test_both_ends_give_the_table_a_gradient():
    module = Tied(8, 4, init_std=1.0, pad_to_multiple=1)
    initialise(module, 0)
    logits = F.linear(module(torch.tensor([2])), module.head())
    logits[0, 5].backward()
    assert module.weight.grad.any(dim=1).nonzero().flatten().tolist() == [2, 5]

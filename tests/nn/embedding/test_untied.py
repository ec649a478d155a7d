"""Untied: two tables, each with a start and a role of its own."""

import pytest
import torch
from torch.nn import functional as F

from ramen.nn.embedding.untied import Untied
from ramen.nn.parameter import initialise


def make(**changed):
    module = Untied(500, 64, **{"init_std": 0.02, "head_init_std": 0.005, "pad_to_multiple": 64} | changed)
    initialise(module, 0)
    return module


def test_the_head_is_another_table():
    module = make()
    assert {name: value.role for name, value in module.named_parameters()} == {
        "weight": "embedding",
        "head_weight": "head",
    }
    assert module.head().data_ptr() != module.weight.data_ptr()


def test_each_table_has_its_standard_deviation():
    module = make(init_std=0.3, head_init_std=0.01)
    assert module.weight.std().item() == pytest.approx(0.3, rel=0.02)
    assert module.head().std().item() == pytest.approx(0.01, rel=0.02)


def test_each_end_gives_its_own_table_a_gradient():
    module = make()
    logits = F.linear(module(torch.tensor([2])), module.head())
    logits[0, 5].backward()
    assert module.weight.grad.any(dim=1).nonzero().flatten().tolist() == [2]
    assert module.head_weight.grad.any(dim=1).nonzero().flatten().tolist() == [5]


def test_the_input_table_is_that_of_a_tied_model_with_the_same_seed():
    """So that tying is all that a comparison compares."""
    from ramen.nn.embedding.tied import Tied

    tied = Tied(500, 64, init_std=0.02, pad_to_multiple=64)
    initialise(tied, 0)
    assert torch.equal(make().weight, tied.weight)

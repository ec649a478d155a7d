"""What a model costs, worked out without running it: FLOPs a token (memory: ramen.build.memory).

It takes a sketch: the model built and called under torch's FakeTensorMode, with shapes and types but no storage.
"""

import math
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

ATTENTION_FLOPS = 12  # a visible key: 4 D forward (logits and mix), twice that backward, for each of the D dimensions

# torch's counter knows the out-of-place form alone.
IN_PLACE = {
    product: lambda total, a, b, **more: 2 * math.prod(a) * b[-1]
    for product in (torch.ops.aten.addmm_, torch.ops.aten.baddbmm_)
}


def flops_per_token(model: nn.Module, length: int) -> float:
    """Training FLOPs a token (forward and backward, 2 a multiply-add) in rows of `length` tokens; `model` is a sketch.

    The matrix products of one token in the layers are counted by torch, those of the head are 6 a weight. Attention is added for
    the mean number of visible keys, since the counter knows neither causality nor windows.
    """
    made: Any = model
    token = torch.zeros((1, 1), dtype=torch.long)
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        made.hidden(token).sum().backward()
    model.zero_grad(set_to_none=True)
    counted = {op: flops for op, flops in counter.get_flop_counts()["Global"].items() if "attention" not in str(op)}
    keys = sum(attention.visible_keys(length) for attention in made.attentions)
    return sum(counted.values()) + 6 * made.embedding.head().numel() + ATTENTION_FLOPS * made.dim * keys

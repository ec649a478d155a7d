"""A block: attention, then the MLP, each through a residual connection of its own."""

import torch
from torch import nn

from ramen.nn.contracts import Attention, ComponentFactories, Residual
from ramen.nn.gpt import Block
from ramen.nn.norm.rms import RMS
from ramen.ops.document_mask import DocumentMask
from ramen.ops.rms_norm import rms_norm


class Scaled(Attention):
    """A branch that is easy to follow, and notes what it was given."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor, self.given = factor, []

    def forward(self, x, *more):
        self.given.append((x, *more))
        return self.factor * x


class Weighted(Residual):
    """A residual connection of its own weight."""

    def __init__(self, weight: float):
        super().__init__(8, 0)
        self.weight = weight

    def connect(self, h, branch):
        return self.weight * h + branch(h)


class Noting(nn.Module):
    """A value embedding that hands on what it was asked for."""

    def forward(self, layer, rows, x):
        return layer, rows


INPUTS = DocumentMask(torch.zeros(2, 4)), nn.Identity(), Noting(), (torch.zeros(2, 4, 8),)


def make_block(layer, attention, mlp, *weights):
    """A block of these sublayers; the connections have the weights in turn."""
    connections = iter(map(Weighted, weights))
    parts = {
        "attention": lambda *runtime: attention,
        "mlp": lambda dim, linear: mlp,
        "norm": RMS,
        "residual": lambda dim, sublayer: next(connections),
    }
    return Block(ComponentFactories(parts), layer, 4, 8, 2, 4)


def test_each_sublayer_reads_the_stream_at_rms_one_through_its_own_connection():
    attention, mlp = Scaled(2.0), Scaled(-3.0)
    block = make_block(3, attention, mlp, 0.5, 0.25)
    h = torch.randn(2, 4, 8) * 10
    middle = 0.5 * h + 2 * rms_norm(h)
    torch.testing.assert_close(block(h, *INPUTS), 0.25 * middle - 3 * rms_norm(middle))
    ((x, *more),) = attention.given
    assert more == [INPUTS[1], INPUTS[0], (3, INPUTS[3])]
    torch.testing.assert_close(x.square().mean(-1), torch.ones(2, 4))
    assert len(mlp.given) == 1 and len(mlp.given[0]) == 1


def test_a_layer_without_attention_is_its_mlp_alone():
    absent = Scaled(2.0)
    absent.kind = "N"
    block = make_block(0, absent, Scaled(-3.0), 0.25)
    assert block.attention is None and block.attention_residual is None
    h = torch.randn(2, 4, 8)
    torch.testing.assert_close(block(h, *INPUTS), 0.25 * h - 3 * rms_norm(h))

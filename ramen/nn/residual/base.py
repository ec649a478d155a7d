"""Connections with several streams: a sublayer reads the streams h (B, T, S, D), mixes them, and its result is written to them.

    x = sum_s read_s h_s;  h'_t = sum_s mix_ts h_s + write_t branch(x)

The weights may depend on the token. Mixing is h + (mix - I) h, so that a mix of I returns the very bits it was given,
and all of it is float32 whatever the branch's type: nothing is rounded into the stream. `open` copies x to all streams,
`close` takes their mean, which is a sum up to a factor that the final norm takes away.
"""

from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor

from ramen.nn.contracts import Branch, Residual
from ramen.nn.parameter import constant, parameter
from ramen.ops.bank import upcast
from ramen.ops.checks import check_one_of
from ramen.ops.streams import normed_linear, read_and_mix, write

Init = Literal["paper", "identity"]
OFF_DIAGONAL = -8.0  # logit: a doubly stochastic mix starts with exp(-8) = 3e-4 off its diagonal
SCALE = 0.01  # of the dynamic part of a weight at the start, in all papers


class Streams(Residual):
    """S streams, each cut into `fractions` slots of D / fractions that are mixed as if they were streams."""

    def __init__(self, dim: int, sublayer: int, streams: int, fractions: int):
        super().__init__(dim, sublayer)
        self.streams, self.fractions, self.width = streams, fractions, dim // fractions
        self.slots = streams * fractions

    @abstractmethod
    def weights(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of h (N, slots, width): read (N, fractions, slots), mix - I (N, slots, slots), write (N, slots); N or 1."""

    def open(self, x: Tensor) -> Tensor:  # (B, T, D) -> (B, T, S, D)
        x = upcast(x)
        return x.unsqueeze(-2).expand(*x.shape[:-1], self.streams, x.shape[-1]).contiguous()

    def connect(self, h: Tensor, branch: Branch) -> Tensor:  # (B, T, S, D) -> (B, T, S, D)
        with torch.autocast(h.device.type, enabled=False):
            slots = h.reshape(-1, self.slots, self.width)  # (N, slots, width), N = B T
            tokens = slots.shape[0]
            read, shift, weight = self.weights(slots)
            x, mixed = read_and_mix(slots, read.expand(tokens, -1, -1), shift.expand(tokens, -1, -1))
        delta = branch(x.reshape(*h.shape[:-2], -1)).to(h.dtype)  # (B, T, D)
        parts = self.streams, self.fractions, self.width
        weight = weight.expand(tokens, -1).unflatten(1, parts[:2])
        return write(mixed.view(-1, *parts), weight, delta.reshape(-1, *parts[1:])).view(h.shape)

    def close(self, h: Tensor) -> Tensor:  # (B, T, S, D) -> (B, T, D)
        return h.mean(dim=-2)


class Manifold(Streams):
    """Weights made from all streams of a token: read = sigmoid, write = 2 sigmoid, mix by the subclass.

    [read | write | mix] logits = scale * W rms_norm(vec h) + bias; W starts at zero. Stream `sublayer` modulo S is the
    sublayer's own: biases of +1 for it and -1 for the others. With init identity the read weights sum to 1 and every
    write weight is 1, so that a network starts as with a standard stream.
    """

    def __init__(self, dim: int, sublayer: int, streams: int, mix_bias: Tensor, *, dynamic: bool, init: Init):
        super().__init__(dim, sublayer, streams, 1)
        check_one_of("paper", "identity", init=init)
        assigned = torch.arange(streams) == sublayer % streams
        reading = writing = 2.0 * assigned - 1
        if init == "identity":
            rest = (1 - torch.sigmoid(torch.ones(()))) / (streams - 1)
            reading, writing = torch.where(assigned, 1.0, torch.logit(rest)), torch.zeros(streams)
        bias = torch.cat([reading, writing, mix_bias.flatten()])
        self.sizes = (streams, streams, mix_bias.numel())
        self.bias = parameter((bias.numel(),), constant(bias), "scalar")
        self.weight = self.scale = None
        if dynamic:
            self.weight = parameter((bias.numel(), streams * dim), constant(0.0), "gate")
            self.scale = parameter((3,), constant(SCALE), "scalar")  # of read, write, mix

    @abstractmethod
    def mix(self, logits: Tensor) -> Tensor:
        """(N, mix logits) -> (N, S, S): row t holds the weights that make up the new stream t."""

    def weights(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = self.bias.unsqueeze(0)
        if self.weight is not None and self.scale is not None:
            scale = torch.cat([part.expand(size) for part, size in zip(self.scale, self.sizes, strict=True)])
            logits = torch.addcmul(logits, normed_linear(h.flatten(1), self.weight), scale)
        reading, writing, mixing = logits.split(self.sizes, dim=-1)
        mix = self.mix(mixing)
        return torch.sigmoid(reading).unsqueeze(1), mix - eye_like(mix), 2 * torch.sigmoid(writing)


def eye_like(mix: Tensor) -> Tensor:
    """The identity (S, S) of mix's type and device."""
    return torch.eye(mix.shape[-1], dtype=mix.dtype, device=mix.device)

"""Hyper-connections: learned, token-dependent weights from S streams to a sublayer, from it, and between the streams.

    x = sum_s A[s, 0] h_s;  h'_t = sum_s A[s, t] h_s + b_t branch(x)
    A = static A + c_a tanh(n_s W_a),  b = static b + c_b tanh(n_s w_b),  n_s = rms_norm(h_s)

Static A starts as [e_k | I], k = sublayer mod S, static b at 1 and W at zero: the network starts exactly as one with a
standard stream. With `fractions` f every stream is cut into f slots of D / f; slots are mixed as streams are, and the
branch reads f weighted sums of slots, one a part of its input, and writes each part to the S slots of its fraction.
Sources: hyper-connections, Zhu et al. 2024, arXiv 2409.19606, algorithm 2; frac-connections (one stream), arXiv
2503.14125.
Cost: 4 D S (S + 2) FLOPs a token and sublayer with f = 1, S times the stream's memory.
Differs from the sources: norm without gain (W follows it); output maps are not scaled by sqrt(S) at the start; streams
are averaged at the end, not summed (the final norm takes the factor away).
"""

import torch
from torch import Tensor

from ramen.nn.parameter import constant, parameter
from ramen.nn.residual.base import SCALE, Streams, eye_like
from ramen.ops.checks import check_range
from ramen.ops.streams import normed_linear


class HC(Streams):
    """A connection whose weights are free in sign and size."""

    def __init__(self, dim: int, sublayer: int, *, streams: int, fractions: int, dynamic: bool):
        check_range("[1, inf)", streams=streams)
        if fractions < 1 or dim % fractions:
            raise ValueError(f"fractions must be >= 1 and divide the model width {dim}, got {fractions}")
        if streams * fractions < 2:
            raise ValueError(f"streams must be >= 2 when fractions is 1, got {streams}")
        super().__init__(dim, sublayer, streams, fractions)
        self.sizes = (fractions, self.slots, 1)  # read, mix, write
        assigned = torch.eye(self.slots)[sublayer % streams * fractions :][:fractions]  # (fractions, slots)
        start = torch.cat([assigned.T, torch.eye(self.slots), torch.ones(self.slots, 1)], dim=1)
        self.static = parameter(tuple(start.shape), constant(start), "scalar")  # (slots, fractions + slots + 1)
        self.weight = self.scale = None
        if dynamic:
            self.weight = parameter((sum(self.sizes), self.width), constant(0.0), "gate")
            self.scale = parameter((2,), constant(SCALE), "scalar")  # c_a, c_b

    def weights(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        table = self.static.unsqueeze(0)  # (1, slots, fractions + slots + 1)
        if self.weight is not None and self.scale is not None:
            alpha, beta = self.scale
            scale = torch.cat([alpha.expand(sum(self.sizes) - 1), beta.expand(1)])
            table = torch.addcmul(table, torch.tanh(normed_linear(h, self.weight)), scale)
        read, mix, write = table.split(self.sizes, dim=-1)
        return read.mT, mix.mT - eye_like(mix), write.squeeze(-1)

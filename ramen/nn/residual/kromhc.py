"""KromHC: mHC with H_res a Kronecker product of 2 x 2 doubly stochastic matrices, exact without iterations.

    H_res = U_1 (x) ... (x) U_K,  U_k = [[p, 1 - p], [1 - p, p]],  (p, 1 - p) = softmax of two logits, S = 2^K

Reading and writing are mHC's. H_res has K degrees of freedom, is symmetric, and all such matrices commute.
Source: Zhou et al. 2026, arXiv 2601.21579, https://github.com/wz1119/KromHC.
Cost: 2 S D (2 S + 2 K) FLOPs a token and sublayer for the weights, 2 S D (S + 2) for their use; S streams' memory.
Differs from the source: one connection for each sublayer; norm without gain; the streams are averaged at the end; weights that do
not depend on the token (dynamic: false) and init identity are options.
In the first sublayer all streams are equal, so H_res moves nothing there; in the last one the mean does not see it.
"""

from typing import Any

import torch
from torch import Tensor

from ramen.nn.residual.base import OFF_DIAGONAL, Manifold
from ramen.ops.doubly_stochastic import kronecker


class KromHC(Manifold):
    """A connection with H_res = U_1 (x) ... (x) U_K."""

    def __init__(self, dim: int, sublayer: int, *, streams: int, **base: Any):
        if streams < 2 or streams & (streams - 1):
            raise ValueError(f"streams must be a power of two >= 2, got {streams}")
        start = torch.tensor([0.0, OFF_DIAGONAL]).repeat(streams.bit_length() - 1, 1)  # (K, 2)
        super().__init__(dim, sublayer, streams, start, **base)

    def mix(self, logits: Tensor) -> Tensor:
        pairs = torch.softmax(logits.unflatten(-1, (-1, 2)), dim=-1)  # (N, K, 2): p, 1 - p
        return kronecker(torch.stack([pairs, pairs.flip(-1)], dim=-2))

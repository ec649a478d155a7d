"""mHC, manifold-constrained hyper-connections: the streams are mixed by a doubly stochastic matrix.

    h' = H_res h + H_post^T branch(H_pre h);  H_pre = sigmoid(.), H_post = 2 sigmoid(.), H_res = Sinkhorn(exp(.))
    . = c W rms_norm(vec h) + bias, with a c of 0.01 for each of the three

H_res keeps the mean of the streams and cannot enlarge them, at any depth. It starts near I: logits 0 and -8.
Source: Xie et al. 2025, arXiv 2512.24880.
Cost: 2 S D (S^2 + 2 S) FLOPs a token and sublayer for the weights, 2 S D (S + 2) for their use; S streams' memory.
Differs from the source: the projection is finished to be exact (ramen/ops/doubly_stochastic.py); orthostochastic
projection, identity mix (1 - a) I + a H with an a for each token as H is, and weights that do not depend on the token
(dynamic: false) are options; the streams are averaged at the end.
In the first sublayer all streams are equal, so H_res moves nothing there; in the last one the mean does not see it.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from ramen.nn.residual.base import OFF_DIAGONAL, Manifold, eye_like
from ramen.ops.checks import COUNTS, check_one_of, check_range
from ramen.ops.doubly_stochastic import orthostochastic, sinkhorn_knopp

Projection = Literal["sinkhorn", "orthostochastic"]


class MHC(Manifold):
    """A connection with H_res = projection(S x S logits)."""

    def __init__(
        self,
        dim: int,
        sublayer: int,
        *,
        streams: int,
        projection: Projection,
        iterations: int,
        identity_mix: float | None,
        **base: Any,
    ):
        check_range("[2, inf)", streams=streams)
        check_range(COUNTS, iterations=iterations)
        check_one_of("sinkhorn", "orthostochastic", projection=projection)
        check_range("(0, 1) or null", identity_mix=identity_mix)
        start = _start(streams, projection, near_identity=identity_mix is None).flatten()
        if identity_mix is not None:  # a is the sigmoid of a logit of its own, behind those of H
            start = torch.cat((start, torch.tensor([math.log(identity_mix / (1 - identity_mix))])))
        super().__init__(dim, sublayer, streams, start, **base)
        self.project = sinkhorn_knopp if projection == "sinkhorn" else orthostochastic
        self.iterations = iterations

    def mix(self, logits: Tensor) -> Tensor:
        logits, identity = logits.tensor_split((self.streams**2,), dim=-1)
        mix = self.project(logits.unflatten(-1, (self.streams, self.streams)), self.iterations)
        return torch.lerp(eye_like(mix), mix, torch.sigmoid(identity).unsqueeze(-1)) if identity.numel() else mix


def _start(streams: int, projection: Projection, *, near_identity: bool) -> Tensor:
    """Logits whose projection is near I, or far from it: at I itself the orthostochastic one has no gradient."""
    identity = torch.eye(streams)
    if projection == "sinkhorn":
        return OFF_DIAGONAL * (1 - identity) if near_identity else torch.zeros_like(identity)
    upper = torch.ones_like(identity).triu(1)
    return identity + (math.exp(OFF_DIAGONAL / 2) if near_identity else 1.0) * (upper - upper.T)

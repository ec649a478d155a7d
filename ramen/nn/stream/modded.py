"""The stream of modded-nanogpt: smear gate, x0 and residual lambdas, bigram embeddings, a gated skip connection, backout.

smear     e_t += s sigmoid(W e_t[:12]) e_(t-1), not across documents: a token may carry its predecessor from the start
lambdas   before layer i: h = r_i h + m_i x0, the normalised embedding
bigram    before layer i: h += l_i T[hash(token, predecessor) mod rows], T at zero; a document's first token is its own predecessor
skip      at depth `skip_to`: h += 2 sigmoid(W x0[:12]) sigmoid(g) h_(skip_from)
backout   at the end: h -= b h_(backout_at): what the first layers wrote for later layers only is taken out again

Source: https://github.com/KellerJordan/modded-nanogpt.
Cost: a few passes over (B, T, D) a layer. Parameters: 3 L + 27 at most, and the bigram table, of role `embedding`.
Differs from the source: the smear stops at document borders; places are fractions of the depth, so they fit any model.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ramen.nn.contracts import Stream
from ramen.nn.parameter import constant, parameter
from ramen.ops.checks import check_range

HASH = 92_821, 68_917  # primes that spread pairs of tokens over the rows
GATE_INPUTS = 12  # leading dimensions a gate reads, as in the source


class Modded(Stream):
    """Null switches a part off. All parts are scalars and small gates, trained by the auxiliary optimizer."""

    def __init__(
        self,
        dim: int,
        layers: int,
        *,
        smear_init: float | None,
        residual_init: float | None,
        x0_init: float | None,
        bigram_rows: int | None,
        bigram_init: float,
        skip_from: float | None,
        skip_to: float | None,
        skip_init: float,
        backout_at: float | None,
        backout_init: float,
    ):
        super().__init__(dim, layers)
        check_range("[0, 1) or null", skip_from=skip_from, skip_to=skip_to, backout_at=backout_at)
        check_range("[1, inf) or null", bigram_rows=bigram_rows)
        if (skip_from is None) != (skip_to is None):
            raise ValueError(f"skip_from and skip_to must both be given or both be null, got {skip_from} and {skip_to}")
        if backout_at is not None and layers < 2:
            raise ValueError(f"backout_at needs at least two layers, got {layers}")
        self.inputs = min(GATE_INPUTS, dim)
        self.skip_from, self.skip_to = (None if at is None else int(at * layers) for at in (skip_from, skip_to))
        if self.skip_from is not None and self.skip_to is not None and self.skip_from >= self.skip_to:
            raise ValueError(
                f"skip_from must be a layer before skip_to, got {skip_from} and {skip_to} of {layers} layers"
            )
        # Never the last layer: the final norm would undo it.
        self.backout_at = None if backout_at is None else min(int(backout_at * layers), layers - 2)
        self.smear = _scalars(1, smear_init)
        self.residual = _scalars(layers, residual_init)
        self.x0 = _scalars(layers, x0_init)
        self.bigram = _scalars(layers, bigram_init if bigram_rows else None)
        self.skip = _scalars(1, skip_init if skip_to is not None else None)
        self.backout = _scalars(1, backout_init if backout_at is not None else None)
        if smear_init is not None:
            self.smear_gate = parameter((1, self.inputs), constant(0.0), "gate")
        if skip_to is not None:
            self.skip_gate = parameter((1, self.inputs), constant(0.0), "gate")
        if bigram_rows:
            self.bigram_table = parameter((bigram_rows, dim), constant(0.0), "embedding")

    def enter(self, embedded: Tensor, tokens: Tensor, opens: Tensor, memory: dict[str, Tensor]) -> Tensor:
        if self.bigram is not None:
            predecessor = torch.where(opens, tokens, torch.cat((tokens[:, :1], tokens[:, :-1]), dim=1)).long()
            row = (HASH[0] * tokens.long()) ^ (HASH[1] * predecessor)
            memory["bigram"] = F.embedding(row % len(self.bigram_table), self.bigram_table)
        if self.smear is None:
            return embedded
        before = torch.cat((torch.zeros_like(embedded[:, :1]), embedded[:, :-1]), dim=1)
        gate = self.smear * torch.sigmoid(embedded[..., : self.inputs] @ self.smear_gate.T)  # (B, T, 1)
        return embedded + (gate * ~opens.unsqueeze(-1)).to(embedded.dtype) * before

    def before(self, layer: int, h: Tensor, start: Tensor, x0: Tensor, memory: dict[str, Tensor]) -> Tensor:
        if layer == self.skip_to:
            gate = 2 * torch.sigmoid(x0[..., : self.inputs] @ self.skip_gate.T) * torch.sigmoid(self.skip)  # (B, T, 1)
            saved = memory["skip"]
            h = h + gate.to(h.dtype).view(*gate.shape[:2], *(1,) * (h.dim() - 2)) * saved
        if self.residual is not None:
            h = self.residual[layer].to(h.dtype) * h
        if self.x0 is not None:
            h = h + self.x0[layer].to(h.dtype) * start
        if self.bigram is not None:
            pair = memory["bigram"]  # (B, T, D), the same for all streams
            pair = pair.view(*pair.shape[:2], *(1,) * (h.dim() - 3), -1)
            h = h + (self.bigram[layer] * pair).to(h.dtype)
        return h

    def after(self, layer: int, h: Tensor, memory: dict[str, Tensor]) -> None:
        if layer == self.skip_from:
            memory["skip"] = h
        if layer == self.backout_at:
            memory["backout"] = h

    def leave(self, h: Tensor, memory: dict[str, Tensor]) -> Tensor:
        return h if self.backout is None else h - self.backout.to(h.dtype) * memory["backout"]


def _scalars(count: int, start: float | None) -> Any:
    return None if start is None else parameter((count,), constant(start), "scalar")

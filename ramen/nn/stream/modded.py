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

HASH = 92_821, 68_917  # primes that spread pairs of tokens over the rows
GATE_INPUTS = 12  # leading dimensions a gate reads, as in the source


class Modded(Stream):
    """Null switches a part off. All parts are scalars and small gates, trained by the auxiliary optimizer."""

    smear: Any
    smear_gate: Any
    residual: Any
    x0: Any
    bigram: Any
    bigram_table: Any
    skip: Any
    skip_gate: Any
    backout: Any

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
        self.inputs = min(GATE_INPUTS, dim)
        self.skip_from, self.skip_to = self._pair(layers, skip_from, skip_to)
        middle = _place("backout_at", backout_at, layers)
        if middle is not None and layers < 2:
            raise ValueError(f"backout_at needs at least two layers, got {layers}")
        # Never the last layer: the final norm would undo it.
        self.backout_at = None if middle is None else min(middle, layers - 2)
        if bigram_rows is not None and bigram_rows < 1:
            raise ValueError(f"bigram_rows must be >= 1 or null, got {bigram_rows}")
        starts: dict[str, Any] = {"smear": smear_init, "residual": residual_init, "x0": x0_init}
        starts["bigram"] = bigram_init if bigram_rows else None
        starts["skip"] = skip_init if self.skip_to is not None else None
        starts["backout"] = backout_init if self.backout_at is not None else None
        for name, start in starts.items():
            shape = (layers,) if name in ("residual", "x0", "bigram") else (1,)
            self.register_parameter(name, None if start is None else parameter(shape, constant(start), "scalar"))
        for name, used in (("smear_gate", smear_init is not None), ("skip_gate", self.skip_to is not None)):
            self.register_parameter(name, parameter((1, self.inputs), constant(0.0), "gate") if used else None)
        table = parameter((bigram_rows, dim), constant(0.0), "embedding") if bigram_rows else None
        self.register_parameter("bigram_table", table)

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

    def _pair(self, layers: int, first: float | None, second: float | None) -> tuple[int | None, int | None]:
        if (first is None) != (second is None):
            raise ValueError(f"skip_from and skip_to must both be given or both be null, got {first} and {second}")
        places = _place("skip_from", first, layers), _place("skip_to", second, layers)
        if places[0] is not None and places[1] is not None and places[0] >= places[1]:
            raise ValueError(f"skip_from must be a layer before skip_to, got {first} and {second} of {layers} layers")
        return places


def _place(name: str, fraction: float | None, layers: int) -> int | None:
    """The layer at a fraction of the depth."""
    if fraction is None:
        return None
    if not 0 <= fraction < 1:
        raise ValueError(f"{name} must be in [0, 1) or null, got {fraction}")
    return int(fraction * layers)

"""Multi-head causal self-attention with merged QKVO, QK norm and token-exact sliding windows, long and short by layer.

Query, key, value and output maps are one bank of four matrices, each of them orthogonalised by itself. Queries and keys are
normalised to RMS 1 before the rotation, so logits are bounded by scale x sqrt(K).
pattern       one letter a layer, repeated over the depth: L long window, S short window, N no attention in this layer
gate          each head's output times sigmoid(W_g x[:gate_inputs]), half of it at the start: a head can be switched off by token
key offset    on long layers, the dimensions that do not turn with the position are the predecessor's: a key says what came before
paired heads  in chosen layers, head i and head i + H / 2 share one softmax over the keys of both, the second's after the first's
xsa           y -= tanh(a) (y v / v v) v with a token's own value v and a number a head, 0 at first: attention is for the others
qk matrices   query and key maps of so many heads are one matrix each, orthogonalised by itself; value and output maps stay whole
Sources: Vaswani et al. 2017, arXiv 1706.03762; QK norm: Henry et al. 2020, arXiv 2010.04245; windows: Beltagy et al. 2020,
arXiv 2004.05150; merged QKVO, key offset, sparse gate, paired heads, gated XSA, matrices of head pairs: modded-nanogpt.
Cost: 8 D^2 FLOPs a token for the maps and 4 D for each visible key, of which paired heads see twice as many.
Differs from the source: paired heads are both at their token's position (there a place of the doubled row is a position), and see
exactly the window's tokens.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ramen.nn.contracts import Attention, Position
from ramen.nn.parameter import constant, parameter
from ramen.ops.attention import Backend, attention, exclude_self, prepare
from ramen.ops.checks import check_range
from ramen.ops.document_mask import DocumentMask


class MultiHead(Attention):
    """Attention of layer `layer` of `layers`; `turning` dimensions of a head, its first ones, depend on the position.

    `kind` is the layer's letter of the pattern, and `window` the number of tokens it sees (None: all of its document); the model
    moves the window as the run goes on. A layer of kind N has no parameters and is not called.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        linear: Callable[..., Any],
        layer: int,
        layers: int,
        turning: int,
        *,
        pattern: str,
        long_window_tokens: int | None,
        short_window_tokens: int | None,
        key_offset: bool,
        gate_inputs: int | None,
        paired_layers: list[int],
        xsa: bool,
        qk_matrix_heads: int | None,
        qk_norm: bool,
        scale: float,
        init_scale: float,
        output_init_scale: float,
        backend: Backend,
    ):
        super().__init__()
        width = dim // heads
        check_range("[1, inf) or null", long_window_tokens=long_window_tokens, short_window_tokens=short_window_tokens)
        _check_pattern(pattern, layers, long_window_tokens, short_window_tokens)
        check_range("(0, inf)", scale=scale, init_scale=init_scale)
        check_range("[0, inf)", output_init_scale=output_init_scale)
        check_range(f"[1, {dim}] or null", gate_inputs=gate_inputs)
        if key_offset and "L" not in pattern:
            raise ValueError(f"key_offset is for long layers, of which pattern {pattern} has none")
        if key_offset and turning == width:
            raise ValueError(
                "key_offset needs a position that leaves dimensions unturned: half_rope, yarn, learned or none"
            )
        _check_heads(heads, pattern, layers, paired_layers, qk_matrix_heads)
        self.kind = pattern[layer % len(pattern)]  # type: ignore[assignment]
        self.window = long_window_tokens if self.kind == "L" else short_window_tokens
        self.key_offset = turning if key_offset and self.kind == "L" else None
        self.heads, self.paired, self.split = heads, layer in paired_layers, qk_matrix_heads is not None
        both: Any = dict(paired=self.paired, backend=backend)
        self.attend: Any = partial(
            attention, scale=scale * width**-0.5, qk_norm=qk_norm, key_offset=self.key_offset, **both
        )
        self.prepare_mask: Any = partial(prepare, width=width, **both)
        if self.kind != "N":
            std, output_std = init_scale * dim**-0.5, output_init_scale * dim**-0.5
            if qk_matrix_heads is None:
                self.qkvo = linear(dim, dim, (std, std, std, output_std))
            else:
                self.qk = linear(qk_matrix_heads * width, dim, (std,) * (2 * heads // qk_matrix_heads))
                self.vo = linear(dim, dim, (std, output_std))
            self.gate: Any = None
            if gate_inputs is not None:
                self.gate = parameter((heads, gate_inputs), constant(0.0), "gate")
            self.xsa: Any = parameter((heads,), constant(0.0), "scalar") if xsa else None

    def forward(self, x: Tensor, position: Position, mask: DocumentMask, value: Tensor | None = None) -> Tensor:
        """x (B, T, D) -> what to add to the stream (B, T, D); `value` (B, T, D) is added to the heads' values."""
        batch, time, dim = x.shape
        qkv = torch.cat((self.qk(x), self.vo(x, 0, 1)), dim=-1) if self.split else self.qkvo(x, 0, 3)
        qkv = qkv.view(batch, time, 3, self.heads, -1)  # (B, T, 3, H, K)
        value = None if value is None else value.view(batch, time, self.heads, -1)
        y = self.attend(qkv, position, mask, window=self.window, value=value)  # (B, T, H, K)
        if self.xsa is not None:
            v = qkv[:, :, 2]
            y = exclude_self(y, v if value is None else v + value.to(v.dtype), torch.tanh(self.xsa))
        if self.gate is not None:
            opened = torch.sigmoid(x[..., : self.gate.shape[1]] @ self.gate.T)  # (B, T, H)
            y = y * opened.unsqueeze(-1).to(y.dtype)
        y = y.reshape(batch, time, dim)
        return self.vo(y, 1) if self.split else self.qkvo(y, 3)

    def prepare(self, x: Tensor, mask: DocumentMask) -> None:
        self.prepare_mask(x, mask, window=self.window, compiling=self.compiled)

    def visible_keys(self, length: int) -> float:
        window = self.window or length + 1
        if self.paired:  # two queries a token, in half as many heads, of a row twice as long
            window, length = 2 * window - 1, 2 * length
        window = min(window, length)
        return window - (window - 1) * window / 2 / length


def _check_heads(heads: int, pattern: str, layers: int, paired: list[int], matrix_heads: int | None) -> None:
    attending = [layer for layer in range(layers) if pattern[layer % len(pattern)] != "N"]
    if wrong := sorted(set(paired) - set(attending)) or (paired if len(set(paired)) < len(paired) else []):
        raise ValueError(f"paired_layers must be different layers that have attention, of {attending}, got {wrong}")
    if paired and heads % 2:
        raise ValueError(f"paired_layers needs an even number of heads, got {heads}")
    if matrix_heads is not None and (matrix_heads < 1 or heads % matrix_heads):
        raise ValueError(f"qk_matrix_heads must divide model.heads = {heads}, or null, got {matrix_heads}")


def _check_pattern(pattern: str, layers: int, long_window: int | None, short_window: int | None) -> None:
    if not pattern or set(pattern) - set("LSN"):
        raise ValueError(f"pattern must be letters L (long window), S (short) and N (no attention), got {pattern!r}")
    if len(pattern) > layers:
        raise ValueError(f"pattern has {len(pattern)} letters for {layers} layers (model.layers), got {pattern}")
    if ("S" in pattern) != (short_window is not None):
        raise ValueError(f"short_window_tokens belongs to the S layers of a pattern, got {short_window} and {pattern}")
    if long_window is not None and "L" not in pattern:
        raise ValueError(f"long_window_tokens belongs to the L layers of a pattern, got {long_window} and {pattern}")
    if short_window is not None and long_window is not None and short_window > long_window:
        raise ValueError(
            f"short_window_tokens must not be above long_window_tokens, got {short_window} > {long_window}"
        )

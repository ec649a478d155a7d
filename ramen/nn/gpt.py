"""A GPT: embedding, blocks, final norm, head. It is given factories for its parts and knows no method by name.

Source: Radford et al. 2019 (GPT-2), with RMS norms without gain, no biases and the components of the config.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ramen.nn.block import Block, Reading
from ramen.ops.checks import check_at_least, check_counts
from ramen.ops.cross_entropy import linear_cross_entropy
from ramen.ops.document_mask import DocumentMask
from ramen.ops.multi_token_prediction import mtp_targets
from ramen.ops.rms_norm import rms_norm
from ramen.ops.softcap import Softcap, SoftcapForm

Factory = Callable[..., Any]
Windows = tuple[int | None, int | None]  # tokens that long and short layers see; None: all, or no such layers
TABLES = ("embedding", "head", "value_embedding")  # roles of parameters that have a row a token


@dataclass(frozen=True)
class Parts:
    """Factories of a model's components; each is called with its run-time arguments."""

    attention: Factory  # (dim, heads, linear, layer, layers, turning dimensions of a head)
    mlp: Factory  # (dim, linear)
    residual: Factory  # (dim, sublayer index)
    position: Factory  # (head width, sequence length)
    stream: Factory  # (dim, layers)
    embedding: Factory  # (vocabulary, dim)
    value_embedding: Factory  # (vocabulary, dim, heads, layers that have attention)
    linear: Factory  # (rows, columns, stds)


@dataclass(frozen=True)
class Text:
    """What a model must know of its data: number of token ids, the id that opens a document, tokens of a row at most."""

    vocabulary: int
    bos: int
    sequence_length: int


class GPT(nn.Module):
    """`model(tokens, targets)` is the summed loss in nats, `model(tokens)` the logits."""

    def __init__(
        self,
        text: Text,
        parts: Parts,
        *,
        layers: int,
        dim: int,
        heads: int,
        softcap: SoftcapForm | None,
        ahead_weights: list[float],
    ):
        super().__init__()
        check_counts(layers=layers)
        check_at_least(1, dim=dim, heads=heads)
        if dim % heads or (dim // heads) % 2:
            raise ValueError(f"dim must be heads x an even head width, got dim={dim}, heads={heads}")
        if any(weight <= 0 for weight in ahead_weights) or len(ahead_weights) >= text.sequence_length:
            raise ValueError(f"ahead_weights must be > 0, and fewer than tokens of a row, got {ahead_weights}")
        self.text, self.dim = text, dim
        self.softcap = Softcap(**softcap) if softcap else None
        self.ahead, self.ahead_share = tuple(ahead_weights), 1.0
        self.register_buffer("ahead_now", torch.tensor(self.ahead), persistent=False)
        self.ahead_now: Tensor
        self.embedding: Any = parts.embedding(text.vocabulary, dim)
        self.stream: Any = parts.stream(dim, layers)
        self.position: Any = parts.position(dim // heads, text.sequence_length)
        blocks = [self._block(parts, layer, layers, dim, heads) for layer in range(layers)]
        self.blocks: Any = nn.ModuleList(blocks)
        attending: dict[int, Any] = {block.layer: block.attention for block in blocks if block.attention is not None}
        self.value_embedding: Any = parts.value_embedding(text.vocabulary, dim, heads, tuple(attending))
        windows: dict[str, int | None] = {attention.kind: attention.window for attention in attending.values()}
        self.register_buffer("saved_windows", torch.zeros(2, dtype=torch.long, device="cpu"))
        self.saved_windows: Tensor
        self.begin((windows.get("L"), windows.get("S")))
        self.register_load_state_dict_post_hook(_loaded)

    def _block(self, parts: Parts, layer: int, layers: int, dim: int, heads: int) -> Block:
        attention = parts.attention(dim, heads, parts.linear, layer, layers, self.position.turning)
        attends = attention.kind != "N"
        return Block(
            layer,
            attention if attends else None,
            parts.residual(dim, 2 * layer) if attends else None,
            parts.mlp(dim, parts.linear),
            parts.residual(dim, 2 * layer + 1),
        )

    def hidden(self, tokens: Tensor, documents: int | None = None) -> Tensor:
        """(B, T) token ids, of so many documents, -> (B, T, D) normalised outputs of the last block."""
        opens = tokens == self.text.bos
        mask, rows = DocumentMask(opens.cumsum(-1), documents), self.value_embedding.read(tokens)
        reading = Reading(mask, self.position, self.value_embedding, rows)
        kept: dict[str, Tensor] = {}
        x0 = rms_norm(self.stream.enter(self.embedding(tokens), tokens, opens, kept))
        h = start = self.blocks[0].mlp_residual.open(x0)
        for block in self.blocks:
            if hasattr(block.attention, "prepare"):
                block.attention.prepare(x0, reading.mask)
        for layer, block in enumerate(self.blocks):
            h = block(self.stream.before(layer, h, start, x0, kept), reading)
            self.stream.after(layer, h, kept)
        return rms_norm(self.blocks[-1].mlp_residual.close(self.stream.leave(h, kept)))

    def forward(self, tokens: Tensor, targets: Tensor | None = None, documents: int | None = None) -> Tensor:
        """Summed cross-entropy over targets (B, T) other than -100 (float32, nats), or logits (B, T, V) without targets.

        In training mode the weighted losses of the tokens after the next one are part of it. How many `documents` there are
        changes no result: see ramen.ops.document_mask.
        """
        x = self.hidden(tokens, documents)
        if targets is None:
            logits = (x @ self.embedding.head().to(x.dtype).T)[..., : self.text.vocabulary].float()
            return self.softcap(logits) if self.softcap else logits
        ahead = None
        if self.training and self.ahead:
            of_token = (tokens == self.text.bos).cumsum(-1)
            ahead = mtp_targets(targets, of_token, len(self.ahead)).flatten(0, 1), self.ahead_now
        return linear_cross_entropy(
            x.flatten(0, 1), self.embedding.head(), targets.flatten(), self.text.vocabulary, self.softcap, ahead=ahead
        )

    def weigh_ahead(self, share: float) -> None:
        """Count so much of the configured losses on tokens after the next one from now on."""
        if share != self.ahead_share:
            self.ahead_share = share
            for place, weight in enumerate(self.ahead):  # a copy from the host would wait for the device
                self.ahead_now[place].fill_(weight * share)

    def embedding_parameters(self) -> int:
        """Elements in tables and head: what a comparison of architectures leaves out."""
        return sum(value.numel() for value in self.parameters() if getattr(value, "role", None) in TABLES)

    def begin(self, windows: Windows) -> None:
        """Take the windows of the first step, with a position that follows the long one as if there had been no other."""
        if hasattr(self.position, "start"):
            self.position.start(windows[0] or self.text.sequence_length)
        self.set_windows(windows)

    def set_windows(self, windows: Windows) -> None:
        """What long and short layers see from now on."""
        self.windows = windows
        self.saved_windows.copy_(torch.tensor([window or 0 for window in windows]))
        for block in self.blocks:
            if block.attention is not None:
                block.attention.window = windows[block.attention.kind == "S"]

    def move_windows(self, windows: Windows) -> None:
        """Set the windows as training goes on, and let a position that follows the long one do so."""
        (old, _), (new, _) = self.windows, windows
        if old != new and old and new and hasattr(self.position, "rescale"):
            self.position.rescale(old, new)
        self.set_windows(windows)

    @torch.no_grad()
    def after_step(self) -> None:
        """Let every part restore what it keeps true of its weights."""
        for module in self.modules():
            restore: Any = getattr(module, "after_step", None)
            if restore is not None and module is not self:
                restore()


def _loaded(module: nn.Module, keys: Any) -> None:
    assert isinstance(module, GPT)
    if module.saved_windows.any():
        long, short = module.saved_windows.tolist()
        module.set_windows((long or None, short or None))

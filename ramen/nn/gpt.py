"""A GPT: embedding, blocks of attention and MLP, final norm, head. It is given factories for its parts and knows none by name.

Source: Radford et al. 2019 (GPT-2), without biases of maps and with the components of the config.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ramen.nn.contracts import (
    Attention,
    ComponentFactories,
    Embedding,
    Norm,
    Position,
    Residual,
    RestoresWeights,
    Stream,
    ValueEmbedding,
)
from ramen.nn.parameter import Component, named_roles
from ramen.ops.checks import COUNTS, check_range
from ramen.ops.cross_entropy import Softcap, SoftcapForm, linear_cross_entropy, mtp_targets
from ramen.ops.document_mask import DocumentMask

Windows = tuple[int | None, int | None]  # tokens that long and short layers see; None: all, or no such layers
ATTENTION_FLOPS = 12
TABLES = ("embedding", "head", "value_embedding")  # roles of parameters that have a row a token


@dataclass(frozen=True)
class DataSpec:
    """The properties of its data that a model must know."""

    vocabulary: int  # number of token ids
    bos: int  # the id that opens a document
    sequence_length: int  # tokens of a row at most
    document_mask: bool = True  # False: a row is one document, whatever it holds

    def opens(self, tokens: Tensor) -> Tensor:
        """(B, T) ids -> (B, T) bool, True where a document opens."""
        return tokens == self.bos if self.document_mask else torch.zeros_like(tokens, dtype=torch.bool)


class Block(nn.Module):
    """Up to two sublayers; each has a connection and a norm of its own. Attention may be left out."""

    def __init__(self, factories: ComponentFactories, layer: int, layers: int, dim: int, heads: int, turning: int):
        super().__init__()
        self.layer, linear = layer, partial(factories.make, "linear")
        self.attention: Attention | None = None
        self.attention_residual: Residual | None = None
        self.attention_norm: Norm | None = None
        attention = factories.make("attention", dim, heads, linear, layer, layers, turning)
        if attention.kind != "N":
            self.attention, self.attention_residual = attention, factories.make("residual", dim, 2 * layer)
            self.attention_norm = factories.make("norm", dim)
        self.mlp: nn.Module = factories.make("mlp", dim, linear)
        self.mlp_residual: Residual = factories.make("residual", dim, 2 * layer + 1)
        self.mlp_norm: Norm = factories.make("norm", dim)

    def forward(
        self,
        h: Tensor,
        mask: DocumentMask,
        position: Position,
        value_embedding: ValueEmbedding,
        rows: tuple[Tensor, ...],
    ) -> Tensor:
        """The stream after this layer; `rows` are what the value embedding has read of the tokens."""
        attention, connection, norm = self.attention, self.attention_residual, self.attention_norm
        if attention is not None and connection is not None and norm is not None:

            def attend(x: Tensor) -> Tensor:
                x = norm(x)
                return attention(x, position, mask, value_embedding(self.layer, rows, x))

            h = connection.connect(h, attend)
        return self.mlp_residual.connect(h, lambda x: self.mlp(self.mlp_norm(x)))


RunBlock = Callable[..., Tensor]


def run(block: Block, h: Tensor, *inputs: Any) -> Tensor:
    """The stream after a block; `inputs` are the same for all blocks."""
    return block(h, *inputs)


class GPT(Component):
    """`model(tokens, targets)` is the summed loss in nats, `model(tokens)` the logits."""

    def __init__(
        self,
        data: DataSpec,
        factories: ComponentFactories,
        *,
        layers: int,
        dim: int,
        heads: int,
        embedding_norm: bool,
        softcap: SoftcapForm | None,
        mtp_weights: list[float],
    ):
        super().__init__()
        check_range(COUNTS, layers=layers)
        check_range("[1, inf)", dim=dim, heads=heads)
        if dim % heads or (dim // heads) % 2:
            raise ValueError(f"dim must be heads x an even head width, got dim={dim}, heads={heads}")
        if any(weight <= 0 for weight in mtp_weights) or len(mtp_weights) >= data.sequence_length:
            raise ValueError(f"mtp_weights must be > 0, and fewer than tokens of a row, got {mtp_weights}")
        self.data, self.dim = data, dim
        self.softcap = Softcap(**softcap) if softcap else None
        self.mtp_weights, self.mtp_share = tuple(mtp_weights), 1.0
        self.register_buffer("mtp_weights_now", torch.tensor(mtp_weights), persistent=False)
        self.mtp_weights_now: Tensor
        self.embedding: Embedding = factories.make("embedding", data.vocabulary, dim)
        self.stream: Stream = factories.make("stream", dim, layers)
        self.embedding_norm: Norm | None = factories.make("norm", dim) if embedding_norm else None
        self.final_norm: Norm = factories.make("norm", dim)
        self.position: Position = factories.make("position", dim // heads, data.sequence_length, dim)
        shared = layers, dim, heads, self.position.turning
        self.blocks: Any = nn.ModuleList(Block(factories, layer, *shared) for layer in range(layers))
        attending = tuple(block.layer for block in self.blocks if block.attention is not None)
        self.value_embedding: ValueEmbedding = factories.make("value_embedding", data.vocabulary, dim, heads, attending)
        windows = {attention.kind: attention.window for attention in self.attentions}
        self.register_buffer("saved_windows", torch.zeros(2, dtype=torch.long, device="cpu"))
        self.saved_windows: Tensor
        self.begin((windows.get("L"), windows.get("S")))
        self.register_load_state_dict_post_hook(GPT._restore_windows)

    @property
    def attentions(self) -> list[Attention]:
        """Of the layers that have one."""
        return [block.attention for block in self.blocks if block.attention is not None]

    def hidden(self, tokens: Tensor, documents: int | None = None, run_block: RunBlock = run) -> Tensor:
        """(B, T) token ids, of so many documents, -> (B, T, D) normalised outputs of the last block."""
        opens = self.data.opens(tokens)
        mask = DocumentMask(opens.cumsum(-1), documents)
        inputs = mask, self.position, self.value_embedding, self.value_embedding.read(tokens)
        memory: dict[str, Tensor] = {}
        x0 = self.stream.enter(self.embedding(tokens), tokens, opens, memory)
        x0 = self.position.embed(x0, mask.starts)
        x0 = self.embedding_norm(x0) if self.embedding_norm else x0
        h = start = self.blocks[0].mlp_residual.open(x0)
        for attention in self.attentions:
            attention.prepare(x0, mask)
        for layer, block in enumerate(self.blocks):
            h = run_block(block, self.stream.before(layer, h, start, x0, memory), *inputs)
            self.stream.after(layer, h, memory)
        return self.final_norm(self.blocks[-1].mlp_residual.close(self.stream.leave(h, memory)))

    def forward(
        self, tokens: Tensor, targets: Tensor | None = None, documents: int | None = None, run_block: RunBlock = run
    ) -> Tensor:
        """Summed cross-entropy over targets (B, T) other than -100 (float32, nats), or logits (B, T, V) without targets.

        In training mode the weighted losses of the tokens after the next one are part of it. How many `documents` there are
        changes no result: see ramen.ops.document_mask. `run_block` calls each block: it may compile it or compute it again.
        """
        x = self.hidden(tokens, documents, run_block)
        if targets is None:
            logits = (x @ self.embedding.head().to(x.dtype).T)[..., : self.data.vocabulary].float()
            return self.softcap(logits) if self.softcap else logits
        mtp = None
        if self.training and self.mtp_weights:
            of_token = self.data.opens(tokens).cumsum(-1)
            mtp = mtp_targets(targets, of_token, len(self.mtp_weights)).flatten(0, 1), self.mtp_weights_now
        return linear_cross_entropy(
            x.flatten(0, 1), self.embedding.head(), targets.flatten(), self.data.vocabulary, self.softcap, mtp=mtp
        )

    def set_mtp_share(self, share: float) -> None:
        """Multiply the configured weights of losses on tokens after the next one by `share` from now on."""
        if share != self.mtp_share:
            self.mtp_share = share
            for index, weight in enumerate(self.mtp_weights):  # a copy from the host would wait for the device
                self.mtp_weights_now[index].fill_(weight * share)

    def embedding_parameters(self) -> int:
        """Elements in tables and head: what a comparison of architectures leaves out."""
        return sum(value.numel() for _, value, role in named_roles(self) if role in TABLES)

    def attention_flops(self) -> float:
        """Training FLOPs a token of attention, in rows of one document: 12 for each visible key and dimension.

        They are 4 forward (logits and mix) and twice as many backward.
        """
        keys = sum(attention.visible_keys(self.data.sequence_length) for attention in self.attentions)
        return ATTENTION_FLOPS * self.dim * keys

    def begin(self, windows: Windows) -> None:
        """Take the windows of the first step, with a position that follows the long one as if there had been no other."""
        self.position.start(windows[0] or self.data.sequence_length)
        self.set_windows(windows)

    def set_windows(self, windows: Windows) -> None:
        """Let long and short layers see so many tokens from now on."""
        self.windows = windows
        self.saved_windows.copy_(torch.tensor([window or 0 for window in windows]))
        for attention in self.attentions:
            attention.window = windows[attention.kind == "S"]

    def move_windows(self, windows: Windows) -> None:
        """Set the windows as training goes on, and let a position that follows the long one do so."""
        (old, _), (new, _) = self.windows, windows
        if old != new and old and new:
            self.position.rescale(old, new)
        self.set_windows(windows)

    def _restore_windows(self, keys: Any) -> None:
        if self.saved_windows.any():
            long, short = self.saved_windows.tolist()
            self.set_windows((long or None, short or None))

    @torch.no_grad()
    def after_step(self) -> None:
        """Let every part restore the properties of its weights."""
        for module in self.modules():
            if isinstance(module, RestoresWeights) and module is not self:
                module.after_step()

"""The contract of each kind of component: a base class whose optional methods have defaults.

A component subclasses the class of its kind, defines what is abstract there, and overrides what it needs. Its constructor takes
the run-time arguments listed in the class by position, and its options, which the yaml holds, by keyword. An MLP owes no more than
`forward(x (B, T, D)) -> what is added to the stream (B, T, D)`, so any nn.Module serves: (dim, linear) are its run-time arguments,
and `linear(rows, columns, stds)` makes its maps. Any module, however deep, may have an `after_step()` (see RestoresWeights).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from ramen.errors import ConfigError
from ramen.nn.parameter import Component
from ramen.ops.document_mask import DocumentMask

Branch = Callable[[Tensor], Tensor]


@runtime_checkable
class RestoresWeights(Protocol):
    """A module that restores a property of its weights, such as unit rows, after every optimizer step and before the first."""

    def after_step(self) -> None: ...


class Linear(Component, ABC):
    """A bank of N independent maps from `columns` to `rows` dimensions, one for each of the initial standard deviations.

    Run-time arguments: rows, columns, stds.
    """

    @abstractmethod
    def forward(self, x: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        """(..., columns) -> (..., n x rows): maps `first` to `last` of x, side by side."""

    def matrices(self) -> Tensor | None:
        """The maps as one tensor (N, rows, columns), or None where they are stored in another form."""
        return None

    def normalise(self, axis: int) -> None:
        """Scale rows (axis -1) or columns (axis -2) of every map to unit length, in place. ConfigError if that cannot be."""
        raise ConfigError(
            "linear: this form of map cannot keep its rows at unit length, which mlp=nff needs, "
            f"got {type(self).__name__}; allowed is linear=dense"
        )


class Norm(Component, ABC):
    """Brings vectors to one size: the embedding, each sublayer's input, the head's input. Run-time arguments: dim."""

    def __init__(self, dim: int):
        super().__init__()

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D) in x's type."""


class Position(Component, ABC):
    """Turns queries and keys by their positions, or adds to embeddings. Run-time arguments: head width, sequence length, dim.

    One whose whole work is `ramen.ops.rotary.rotate(x, table)` has the attribute `table`, which faster kernels read.
    """

    turning: int  # the first dimensions of a head, which depend on the position
    gain = 1.0  # factor of all attention logits

    def __init__(self, head_width: int, sequence_length: int, dim: int):
        super().__init__()

    def embed(self, x: Tensor, starts: Tensor) -> Tensor:
        """Embedded tokens (B, T, D) before their norm; `starts` (B, T) is the place in the row where a token's document starts."""
        return x

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Queries and keys (B, T, 2, H, K) -> same."""

    def check_windows(self, windows: Sequence[int | None]) -> None:
        """ConfigError if this position does not suit the long windows of a run, in order."""

    def start(self, window: int) -> None:
        """Begin at a long window of so many tokens, whatever came before."""

    def rescale(self, old: int, new: int) -> None:
        """Follow the long window from `old` to `new` tokens."""


class Attention(Component, ABC):
    """Causal attention within documents. Run-time arguments: dim, heads, linear, layer, layers, turning dimensions of a head.

    `kind` is L for a layer with the long window, S for the short one, N for a layer without attention, which is never called.
    """

    kind: Literal["L", "S", "N"] = "L"
    window: int | None = None  # tokens a query sees, itself included; None: all of its document. The model sets it.
    compiled = False  # True: the layer is compiled by itself, while the model is not

    @abstractmethod
    def forward(self, x: Tensor, position: Position, mask: DocumentMask, value: Tensor | None = None) -> Tensor:
        """x (B, T, D) -> what is added to the stream (B, T, D); `value` (B, T, D) is added to the heads' values."""

    def prepare(self, x: Tensor, mask: DocumentMask) -> None:
        """Compute what this layer will ask of the mask, before any layer runs; x (B, T, D) has the layer's device and type."""

    def visible_keys(self, length: int) -> float:
        """Mean number of keys that a query sees in a row of `length` tokens of one document: FLOPs grow with it."""
        window = min(self.window or length, length)
        return window - (window - 1) * window / 2 / length


class Residual(Component, ABC):
    """Connects one sublayer to the stream. Run-time arguments: dim, sublayer index.

    The first connection opens the stream of a forward pass, the last one closes it.
    """

    def __init__(self, dim: int, sublayer: int):
        super().__init__()

    def open(self, x: Tensor) -> Tensor:
        """The embedding (B, T, D) -> the stream, (B, T, D) or (B, T, S, D)."""
        return x

    @abstractmethod
    def connect(self, h: Tensor, branch: Branch) -> Tensor:
        """The stream after a sublayer; `branch` maps its input (B, T, D) to its addition (B, T, D), and is called once."""

    def close(self, h: Tensor) -> Tensor:
        """The stream -> (B, T, D)."""
        return h


class Stream(Component):
    """Changes of the stream between layers; by default none. Run-time arguments: dim, layers.

    `memory` is the forward pass's own: name -> tensor.
    """

    def __init__(self, dim: int, layers: int):
        super().__init__()

    def enter(self, embedded: Tensor, tokens: Tensor, opens: Tensor, memory: dict[str, Tensor]) -> Tensor:
        """Embedded tokens (B, T, D) before their first norm; `opens` (B, T) marks the first token of each document."""
        return embedded

    def before(self, layer: int, h: Tensor, start: Tensor, x0: Tensor, memory: dict[str, Tensor]) -> Tensor:
        """The stream as layer `layer` reads it; `start` is the opened stream, x0 (B, T, D) the normalised embedding."""
        return h

    def after(self, layer: int, h: Tensor, memory: dict[str, Tensor]) -> None:
        """Store in `memory` what later layers need of this layer's output."""

    def leave(self, h: Tensor, memory: dict[str, Tensor]) -> Tensor:
        """The stream before it is closed and normalised."""
        return h


class Embedding(Component, ABC):
    """Token ids to vectors, and the matrix of the output head. Run-time arguments: vocabulary, dim."""

    split_at: float | None = None  # progress at which tied tables are split into two; None: never
    is_split = False

    @abstractmethod
    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) -> (B, T, D)."""

    @abstractmethod
    def head(self) -> Tensor:
        """The output matrix (V padded, D)."""

    def split(self) -> tuple[Tensor, Tensor]:
        """Split the tables; returns the parameter whose optimizer state is to be copied, and the one that receives it."""
        raise NotImplementedError


class ValueEmbedding(Component):
    """Additions to the values of attention that depend on the token alone; by default none.

    Run-time arguments: vocabulary, dim, heads, layers that have attention.
    """

    def __init__(self, vocabulary: int, dim: int, heads: int, layers: tuple[int, ...]):
        super().__init__()

    def read(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """Tensors that the layers need of tokens (B, T), read once for all layers."""
        return ()

    def forward(self, layer: int, rows: tuple[Tensor, ...], x: Tensor) -> Tensor | None:
        """Values (B, T, D) to add in `layer`, or None. `rows` come from `read`, x (B, T, D) is the normalised input."""
        return None


CONTRACTS: Mapping[str, type[nn.Module]] = {
    "attention": Attention, "norm": Norm, "residual": Residual, "stream": Stream, "position": Position,
    "embedding": Embedding, "value_embedding": ValueEmbedding, "linear": Linear,
}  # fmt: skip


@dataclass(frozen=True)
class ComponentFactories:
    """A function for each kind that builds a component anew from its run-time arguments."""

    by_kind: Mapping[str, Callable[..., Any]]

    def make(self, kind: str, *runtime: Any) -> Any:
        """A component. ConfigError if it is not of its kind's class: any nn.Module where the kind has none."""
        component, contract = self.by_kind[kind](*runtime), CONTRACTS.get(kind, nn.Module)
        if not isinstance(component, contract):
            needed = f"{contract.__module__}.{contract.__name__}"
            raise ConfigError(f"{kind}._target_: must be a subclass of {needed}, got {type(component).__name__}")
        return component

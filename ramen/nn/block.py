"""One layer: attention and MLP, each a branch from the residual stream."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ramen.ops.document_mask import DocumentMask
from ramen.ops.rms_norm import rms_norm


@dataclass(frozen=True)
class Reading:
    """What every layer may want to know of the text it is applied to."""

    mask: DocumentMask
    position: nn.Module
    value_embedding: nn.Module  # (layer, rows, x) -> what is added to the values, or None
    rows: tuple[Tensor, ...]  # what it has read of the tokens


class Block(nn.Module):
    """Up to two sublayers; each has a connection of its own and reads the stream at RMS 1. Attention may be left out."""

    def __init__(
        self,
        layer: int,
        attention: nn.Module | None,
        attention_residual: nn.Module | None,
        mlp: nn.Module,
        mlp_residual: nn.Module,
    ):
        super().__init__()
        self.layer = layer
        self.attention: Any = attention  # Any: what a factory made is known by its contract, not by its class
        self.attention_residual: Any = attention_residual
        self.mlp: Any = mlp
        self.mlp_residual: Any = mlp_residual

    def forward(self, h: Tensor, reading: Reading) -> Tensor:
        if self.attention is not None:
            h = self.attention_residual.connect(h, lambda x: self._attend(rms_norm(x), reading))
        return self.mlp_residual.connect(h, lambda x: self.mlp(rms_norm(x)))

    def _attend(self, x: Tensor, reading: Reading) -> Tensor:
        value = reading.value_embedding(self.layer, reading.rows, x)
        return self.attention(x, reading.position, reading.mask, value)

"""One layer: attention and MLP, each a branch from the residual stream."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from ramen.nn.contracts import Attention, Position, Residual, ValueEmbedding
from ramen.ops.document_mask import DocumentMask
from ramen.ops.rms_norm import rms_norm


@dataclass(frozen=True)
class BlockInputs:
    """What every layer is given beside the stream."""

    mask: DocumentMask
    position: Position
    value_embedding: ValueEmbedding
    value_rows: tuple[Tensor, ...]  # what the value embedding has read of the tokens


class Block(nn.Module):
    """Up to two sublayers; each has a connection of its own and reads the stream at RMS 1. Attention may be left out."""

    def __init__(
        self,
        layer: int,
        attention: Attention | None,
        attention_residual: Residual | None,
        mlp: nn.Module,
        mlp_residual: Residual,
    ):
        super().__init__()
        self.layer = layer
        self.attention, self.attention_residual = attention, attention_residual
        self.mlp, self.mlp_residual = mlp, mlp_residual

    def forward(self, h: Tensor, inputs: BlockInputs) -> Tensor:
        attention, connection = self.attention, self.attention_residual
        if attention is not None and connection is not None:

            def attend(x: Tensor) -> Tensor:
                x = rms_norm(x)
                value = inputs.value_embedding(self.layer, inputs.value_rows, x)
                return attention(x, inputs.position, inputs.mask, value)

            h = connection.connect(h, attend)
        return self.mlp_residual.connect(h, lambda x: self.mlp(rms_norm(x)))


RunBlock = Callable[[Block, Tensor, BlockInputs], Tensor]


def run(block: Block, h: Tensor, inputs: BlockInputs) -> Tensor:
    """The stream after a block."""
    return block(h, inputs)

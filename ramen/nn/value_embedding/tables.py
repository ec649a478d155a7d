"""Value embeddings from tables: the first and last layers add a gated row of a table, the token's, to their attention's values.

    v_(layer, head) += 2 sigmoid(W_layer x[:gate_inputs])_head table_(of layer)[token]_head

A table may serve several layers: `first: [1, 2], last: [0, 1, 2]` gives table 1 to the first layer and to the last but one. Layers
are counted among those that have attention. Gates start at a factor of 1, on exactly the layers that have a table.
Sources: Zhou et al. 2024, arXiv 2410.17897 (value residual); tables and their places: modded-nanogpt.
Cost: a row read a token and layer, nearly no FLOPs. Parameters: V D a table, a role of their own (routing.value_embedding).
Differs from the source: gates are where the tables are; it had them on the layers numbered like the tables.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ramen.device import compute_dtype
from ramen.nn.contracts import ValueEmbedding
from ramen.nn.parameter import constant, normal, parameter
from ramen.ops.checks import check_range


class Tables(ValueEmbedding):
    """Tables (V, D), and a gate (H, gate_inputs) for each layer that reads one."""

    def __init__(
        self,
        vocabulary: int,
        dim: int,
        heads: int,
        layers: tuple[int, ...],
        *,
        first: list[int],
        last: list[int],
        init_std: float,
        gate_inputs: int | None,
    ):
        super().__init__(vocabulary, dim, heads, layers)
        used = sorted({*first, *last})
        if not used or used != list(range(len(used))):
            raise ValueError(f"first and last must name tables 0, 1, 2 ... without a gap, got {first} and {last}")
        if len(first) + len(last) > len(layers):
            raise ValueError(
                f"first and last name {len(first) + len(last)} layers, but {len(layers)} have attention, got {first} and {last}"
            )
        check_range(f"[1, {dim}] or null", gate_inputs=gate_inputs)
        check_range("[0, inf)", init_std=init_std)
        places = (*layers[: len(first)], *layers[len(layers) - len(last) :])
        self.heads = heads
        self.table_of = dict(zip(places, (*first, *last), strict=True))
        self.tables = nn.ParameterList(parameter((vocabulary, dim), normal(init_std), "value_embedding") for _ in used)
        self.gates = nn.ParameterDict()
        if gate_inputs is not None:
            self.gates.update({str(at): parameter((heads, gate_inputs), constant(0.0), "gate") for at in places})

    def read(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """The row of each of the tokens (B, T) in each table: (B, T, D), once for all layers that share a table."""
        return tuple(F.embedding(tokens, table).to(compute_dtype(table)) for table in self.tables)

    def forward(self, layer: int, rows: tuple[Tensor, ...], x: Tensor) -> Tensor | None:
        if layer not in self.table_of:
            return None
        value = rows[self.table_of[layer]]  # (B, T, D)
        if not self.gates:
            return value
        weight = self.gates[str(layer)]
        gate = 2 * torch.sigmoid(x[..., : weight.shape[1]] @ weight.T).to(value.dtype)  # (B, T, H)
        return (value.unflatten(-1, (self.heads, -1)) * gate.unsqueeze(-1)).flatten(-2)

"""Parameters, with and without tables, and FLOPs, against counts by hand."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from torch._subclasses.fake_tensor import FakeTensorMode

from ramen.build.dry_run import count_matrix_flops
from ramen.nn.gpt import GPT

D, H, V, T = 16, 2, 37, 32
TABLE = V * D
A, M = 4 * D * D, 2 * D * 4 * D  # weights of attention and of the MLP of a layer
SIZE = ("embedding.pad_to_multiple=1",)


def seen(window: int = T, length: int = T) -> float:
    """Mean visible keys of a row: a query sees itself and what is before it, `window` tokens at most."""
    return sum(min(query, window) for query in range(1, length + 1)) / length


@dataclass(frozen=True)
class Count:
    """Of a model: weights that multiply each token, keys seen in all layers, parameters besides, tables, more FLOPs."""

    weights: int
    keys: float
    besides: int = 0
    tables: int = TABLE
    flops: int = 0


# A hyper-connection of S = 2 streams: (S + 2) x D dynamic weights meet each stream; reading, mixing (6 a product) and the backward
# pass of writing (4) are small products too; static weights S (S + 2), two scales.
S, SUBLAYERS = 2, 4
HC = SUBLAYERS * S * D * (6 * (S + 2) + 6 * 1 + 6 * S + 4)

COUNTS = {
    "default": ((), Count(2 * (A + M), 2 * seen())),
    "window": (("attention.long_window_tokens=4",), Count(2 * (A + M), 2 * seen(4))),
    "long_short": (
        (
            "model.layers=3",
            "attention.pattern=SSL",
            "attention.long_window_tokens=9",
            "attention.short_window_tokens=4",
        ),
        Count(3 * (A + M), 2 * seen(4) + seen(9)),
    ),
    "without_attention": (("model.layers=4", "attention.pattern=LN"), Count(2 * A + 4 * M, 2 * seen())),
    "swiglu": (("mlp.activation=swiglu",), Count(2 * (A + 3 * D * 43), 2 * seen())),
    "gates_and_values": (
        ("attention.gate_inputs=12", "value_embedding=tables"),
        Count(2 * (A + M + 2 * H * 12), 2 * seen(), tables=2 * TABLE),
    ),
    "low_rank": (("linear=low_rank",), Count(2 * (4 * 4 * (D + D) + 2 * 4 * (D + 4 * D)), 2 * seen())),
    "hyper_connections": (
        ("residual=hc", f"residual.streams={S}"),
        Count(2 * (A + M), 2 * seen(), besides=SUBLAYERS * ((S + 2) * D + S * (S + 2) + 2), flops=HC),
    ),
    # two gates of 12 inputs; a lambda a layer for the residual, x0 and bigrams; one each for smear, skip and backout
    "modded": (
        ("stream=modded", "stream.bigram_rows=50"),
        Count(2 * (A + M) + 2 * 12, 2 * seen(), besides=3 * 2 + 3, tables=TABLE + 50 * D),
    ),
    "untied": (("embedding=untied",), Count(2 * (A + M), 2 * seen(), tables=2 * TABLE)),
    "split": (("embedding=split",), Count(2 * (A + M), 2 * seen(), tables=2 * TABLE)),
    "paired": (
        ("attention.paired_layers=[1]", "attention.long_window_tokens=5"),
        Count(2 * (A + M), seen(5) + seen(9, 2 * T)),
    ),
    "xsa": (("attention.xsa=true",), Count(2 * (A + M), 2 * seen(), besides=2 * H)),
    "head_pairs": (("attention.qk_matrix_heads=1",), Count(2 * (A + M), 2 * seen())),
    "ahead": (("model.mtp_weights=[0.5,0.25]",), Count(2 * (A + M), 2 * seen())),
}


@pytest.mark.parametrize(("overrides", "count"), COUNTS.values(), ids=COUNTS)
def test_cost_equals_the_count_by_hand(build_gpt: Callable[..., GPT], overrides: tuple[str, ...], count: Count) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = build_gpt(*SIZE, *overrides, vocabulary=V, length=T)
        flops = count_matrix_flops(model) + model.attention_flops()
    assert flops == pytest.approx(6 * (count.weights + TABLE) + 12 * D * count.keys + count.flops)
    assert model.embedding_parameters() == count.tables
    assert sum(value.numel() for value in model.parameters()) == count.weights + count.besides + count.tables

"""FLOPs against counts by hand."""

from collections.abc import Callable

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ramen.model.gpt import GPT
from ramen.trainer.cost import flops_per_token

DIM, LAYERS, VOCABULARY, LENGTH = 16, 2, 37, 32
SIZE = ("embedding.pad_to_multiple=1",)


@pytest.mark.parametrize(
    ("overrides", "hidden", "maps", "keys"),
    [
        ((), 64, 2, (LENGTH + 1) / 2),
        (("attention.long_window_tokens=4",), 64, 2, (1 + 2 + 3 + 29 * 4) / 32),
        (("mlp.activation=swiglu",), 43, 3, (LENGTH + 1) / 2),
    ],
)
def test_flops_a_token_equal_the_count_by_hand(
    build_gpt: Callable[..., GPT], overrides: tuple[str, ...], hidden: int, maps: int, keys: float
) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        counted = flops_per_token(build_gpt(*SIZE, *overrides, vocabulary=VOCABULARY, length=LENGTH), LENGTH)
    matrices = LAYERS * (4 * DIM * DIM + maps * DIM * hidden) + VOCABULARY * DIM
    assert counted == pytest.approx(6 * matrices + LAYERS * 12 * DIM * keys)

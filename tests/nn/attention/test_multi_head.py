"""Multi-head attention against an explicit softmax, and what each of its options does."""

import pytest
import torch
from torch import Tensor

from ramen.config.registry import factory
from ramen.nn.parameter import initialise
from ramen.ops.document_mask import DocumentMask

DIM, HEADS, TIME, LAYERS = 16, 2, 11, 4
DOCUMENTS = torch.tensor([[1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2], [0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1]])


@pytest.fixture
def make(compose):
    """make(*overrides): MultiHead with output weights alive, and the chosen position."""

    def build(*overrides: str, seed: int = 0, layer: int = 0):
        config = compose("attention=multi_head", "attention.output_init_scale=1.0", *overrides)
        position = factory(config["position"])(DIM // HEADS, TIME, DIM)
        runtime = (DIM, HEADS, factory(config["linear"]), layer, LAYERS, position.turning)
        module = factory(config["attention"])(*runtime)
        initialise(module, seed)
        return module, position

    return build


def inputs(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, TIME, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def oracle(module, position, x: Tensor, *, qk_norm: bool, window: int | None, scale: float) -> Tensor:
    """Head by head, token by token, softmax over the list of visible keys."""
    wq, wk, wv, wo = module.qkvo.weight.double()
    width = DIM // HEADS
    q, k, v = ((x @ w.T).view(2, TIME, HEADS, width) for w in (wq, wk, wv))
    if qk_norm:
        q, k = (z / z.square().mean(-1, keepdim=True).sqrt() for z in (q, k))
    q, k = position(q), position(k)
    y = torch.zeros(2, TIME, HEADS, width, dtype=torch.float64)
    for b in range(2):
        for h in range(HEADS):
            for t in range(TIME):
                first = 0 if window is None else max(0, t - window + 1)
                keys = [s for s in range(first, t + 1) if DOCUMENTS[b, s] == DOCUMENTS[b, t]]
                weights = (k[b, keys, h] @ q[b, t, h] * scale / width**0.5).softmax(0)
                y[b, t, h] = weights @ v[b, keys, h]
    return y.reshape(2, TIME, DIM) @ wo.T


@pytest.mark.parametrize("position", ["none", "rope", "half_rope"])
@pytest.mark.parametrize(("qk_norm", "window", "scale"), [(True, None, 1.0), (False, 3, 1.0), (True, 4, 1.7)])
def test_equals_an_explicit_softmax(make, position, qk_norm, window, scale):
    module, turn = make(
        f"position={position}",
        f"attention.qk_norm={qk_norm}",
        f"attention.long_window_tokens={'null' if window is None else window}",
        f"attention.scale={scale}",
    )
    module.double()
    x = inputs(torch.float64)
    y = module(x, turn, DocumentMask(DOCUMENTS))
    expected = oracle(module, turn, x, qk_norm=qk_norm, window=window, scale=scale)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-6)  # eps of the norm is not in the oracle


@pytest.mark.parametrize("index", [0, 1], ids=["queries", "keys"])
def test_with_qk_norm_the_size_of_query_and_key_maps_does_not_matter(make, index):
    changes = {}
    for qk_norm in (True, False):
        module, turn = make(f"attention.qk_norm={qk_norm}")
        before = module(inputs(), turn, DocumentMask(DOCUMENTS))
        with torch.no_grad():
            module.qkvo.weight[index] *= 7
        changes[qk_norm] = (module(inputs(), turn, DocumentMask(DOCUMENTS)) - before).abs().max().item()
    assert changes[True] < 1e-5 < 1e-2 < changes[False]


def test_every_option_changes_the_result(make):
    """No option is dead, and none equals another."""
    changed = ["qk_norm=false", "long_window_tokens=3", "scale=0.5", "init_scale=2.0", "output_init_scale=0.5"]
    result = []
    for overrides in [[], *([f"attention.{option}"] for option in changed)]:
        module, turn = make(*overrides)
        result.append(module(inputs(), turn, DocumentMask(DOCUMENTS)))
    for i, first in enumerate(result):
        for j, second in enumerate(result[:i]):
            assert (first - second).abs().max() > 1e-3, (i, j)


def test_starts_by_adding_nothing_and_learns_from_the_first_step(make):
    module, turn = make("attention.output_init_scale=0.0")
    y = module(inputs(), turn, DocumentMask(DOCUMENTS))
    assert not y.any()
    y.sum().backward()
    assert module.qkvo.weight.grad[3].any()


def test_is_one_bank_of_four_matrices_at_their_standard_deviations(make):
    module, _ = make("attention.init_scale=2.0", "attention.output_init_scale=0.5")
    ((name, weight),) = module.named_parameters()
    assert (name, weight.shape, weight.role) == ("qkvo.weight", (4, DIM, DIM), "matrix")
    expected = [2.0 * DIM**-0.5] * 3 + [0.5 * DIM**-0.5]
    assert weight.std(dim=(1, 2)).tolist() == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("scale", [0.0, -1.0])
def test_refuses_a_scale_that_is_not_positive(make, scale):
    with pytest.raises(ValueError, match=f"scale must be > 0, got {scale}"):
        make(f"attention.scale={scale}")

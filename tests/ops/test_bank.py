"""Banks: the two passes over memory against float64, by kernel and by torch."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from ramen.kernels import plain_torch
from ramen.ops.bank import accumulate, descend, frobenius, stack, unstack

SHAPES = [(5, 7), (2, 5, 7), (1, 5, 7), (3, 2, 5, 7)]  # of one bank of 10 matrices
DTYPES = [torch.float32, torch.bfloat16, torch.float64]


@pytest.fixture(params=["kernel", "torch"])
def by(request):
    return nullcontext if request.param == "kernel" else plain_torch


def values(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def tensors(dtype=torch.float32, seed=0, shapes=SHAPES):
    return [values(*shape, seed=seed + k, dtype=dtype) for k, shape in enumerate(shapes)]


def tolerance(dtype):
    return {torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float64: 1e-12}[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_stacking_and_back(dtype):
    result = tensors(dtype)
    bank = stack(result)
    assert bank.shape == (10, 5, 7) and bank.dtype == torch.promote_types(dtype, torch.float32)
    back = unstack(bank, result)
    assert all(torch.equal(a.to(dtype), b) and a.data_ptr() != b.data_ptr() for a, b in zip(back, result, strict=True))
    assert [view.shape for view in unstack(bank.new_ones(10), result)] == [t.shape[:-2] for t in result]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("beta", [0.0, 0.5, 0.95])
def test_accumulate(by, dtype, nesterov, beta):
    gradients, momentum = tensors(dtype), values(10, 5, 7, seed=9).to(torch.promote_types(dtype, torch.float32))
    before = [g.clone() for g in gradients]
    expected = beta * momentum.double() + (1 - beta) * stack(gradients).double()
    with by():
        used = accumulate(gradients, momentum, beta=beta, nesterov=nesterov)
    torch.testing.assert_close(momentum.double(), expected, rtol=1e-6, atol=1e-6)
    wanted = (1 - beta) * stack(gradients).double() + beta * expected if nesterov else expected
    torch.testing.assert_close(used.double(), wanted, rtol=1e-6, atol=1e-6)
    assert (used is momentum) == (not nesterov)
    assert all(torch.equal(a, b) for a, b in zip(gradients, before, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cautious", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("special", [None, "decay_target", "step_scale", "radius"])
def test_descend(by, dtype, cautious, decay, special):
    wide = torch.promote_types(dtype, torch.float32)
    weights, direction = tensors(dtype, seed=20), values(10, 5, 7, seed=3, dtype=wide)
    direction[::3, 1] = 0  # no step: there cautious decay decays
    w, d = stack(weights).double(), direction.double()
    more = {
        "decay_target": values(10, 5, 7, seed=4, dtype=wide),
        "step_scale": values(10, 1, 1, seed=5, dtype=wide).abs(),
    }
    more |= {"radius": torch.tensor([0.0, 2.0] * 5, dtype=wide)}
    arguments = {key: value if key == special else None for key, value in more.items()}
    mask = (d * w >= 0).double() if cautious else 1.0
    x = more["decay_target"].double() if special == "decay_target" else w
    step_scale = more["step_scale"].double() if special == "step_scale" else 1.0
    expected = w - decay * mask * x - 0.3 * step_scale * d
    if special == "radius":
        norm = expected.norm(dim=(1, 2), keepdim=True)
        radius = more["radius"].double()[:, None, None]
        expected = expected * torch.where(radius > 0, radius / norm, (5**0.5 / norm).clamp_max(1))
    with by():
        descend(weights, direction, rate=0.3, decay=decay, cautious=cautious, **arguments)
    torch.testing.assert_close(stack(weights).double(), expected, rtol=tolerance(dtype), atol=tolerance(dtype))


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_frobenius(scale):
    x = values(10, 5, 7) * scale
    torch.testing.assert_close(frobenius(x).double().flatten(), x.double().norm(dim=(1, 2)), rtol=1e-6, atol=0.0)
    assert frobenius(torch.zeros(2, 3, 4)).flatten().tolist() == [0.0, 0.0]


def test_large_ones_in_blocks():
    shapes = [(3, 90, 101), (1, 90, 101), (90, 101)]
    runs = []
    for by in (nullcontext, plain_torch):
        weights, momentum = [nn.Parameter(t) for t in tensors(shapes=shapes)], values(5, 90, 101, seed=7)
        with by(), torch.no_grad():
            used = accumulate(tensors(shapes=shapes, seed=5), momentum, beta=0.9, nesterov=True)
            step_scale = torch.arange(1.0, 6.0)[:, None, None]
            descend(
                weights, used, rate=0.1, decay=0.1, cautious=True, decay_target=used, step_scale=step_scale, radius=None
            )
        runs.append([momentum, used, *weights])
    torch.testing.assert_close(*runs, rtol=1e-5, atol=1e-6)


def test_threads_change_nothing():
    runs, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            weights, momentum = tensors(shapes=[(2, 300, 200), (300, 200)]), values(3, 300, 200)
            used = accumulate(tensors(shapes=[(2, 300, 200), (300, 200)], seed=5), momentum, beta=0.9, nesterov=True)
            descend(weights, used, rate=0.1, decay=0.1, cautious=True, decay_target=None, step_scale=None, radius=None)
            runs.append([momentum, used, *weights])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_strides_are_torchs():
    weights, direction = [values(7, 5).T], values(1, 7, 5).mT
    expected = weights[0] - 0.5 * direction[0]
    descend(weights, direction, rate=0.5, decay=0.0, cautious=True, decay_target=None, step_scale=None, radius=None)
    torch.testing.assert_close(weights[0], expected)


def test_whole_numbers_are_numbers():
    """A hyperparameter may be an int in a yaml."""
    weights, momentum = tensors(), torch.zeros(10, 5, 7)
    used = accumulate(tensors(seed=5), momentum, beta=0, nesterov=False)
    torch.testing.assert_close(used, stack(tensors(seed=5)))
    descend(weights, used, rate=1, decay=0, cautious=True, decay_target=None, step_scale=None, radius=None)
    torch.testing.assert_close(stack(weights), stack(tensors()) - used)

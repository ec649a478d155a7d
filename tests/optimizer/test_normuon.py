"""NorMuon: even rows, the restored norm, both scalings, the float32 second moment."""

from itertools import pairwise

import pytest
import torch
from torch import nn

SHAPES = [(48, 12), (12, 48), (20, 20)]


def rows(x: torch.Tensor) -> torch.Tensor:
    return x.double().norm(dim=-1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("beta2", [0.0, 0.5, 0.95, 0.999])
def test_first_step_has_even_rows_and_muons_norm(track, random, shape, beta2):
    changes = {"lr": 1.0, "scaling": "none"}
    muon = track("muon", torch.zeros(shape), [random(*shape)], **changes)[0]
    step = track("normuon", torch.zeros(shape), [random(*shape)], beta2=beta2, **changes)[0]
    assert rows(step).tolist() == pytest.approx([muon.norm().item() / shape[0] ** 0.5] * shape[0], rel=1e-4)


def test_rows_stay_even_under_a_constant_gradient(track, random):
    values = track("normuon", torch.zeros(20, 8), [random(20, 8)] * 6, lr=1.0)
    for before, value in pairwise(values):
        length = rows(value - before)
        assert (length.max() / length.min()).item() == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_frobenius_norm_is_muons(track, random, shape):
    gradients = [random(*shape, seed=k) * torch.linspace(0.1, 3, shape[0])[:, None] for k in range(4)]
    runs = [track(name, torch.zeros(shape), gradients, lr=1.0) for name in ("muon", "normuon")]
    for k in range(1, 4):
        muon, normuon = ((values[k] - values[k - 1]).norm().item() for values in runs)
        assert normuon == pytest.approx(muon, rel=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_rms_scaling_is_the_papers(track, random, shape):
    values = track("normuon", torch.zeros(shape), [random(*shape, seed=k) for k in range(3)], lr=1.0, scaling="rms")
    for before, value in zip([torch.zeros(shape), *values], values, strict=False):
        assert (value - before).square().mean().sqrt().item() == pytest.approx(0.2, rel=1e-5)


def test_second_moment_against_float64(build, random):
    p = nn.Parameter(torch.zeros(10, 4))
    optimizer = build("normuon", [p], beta2=0.9)
    muon = build("muon", [q := nn.Parameter(torch.zeros(10, 4))], lr=1.0, scaling="none", weight_decay=0.0)
    expected, before = torch.zeros(10, dtype=torch.float64), q.detach().clone()
    for step in range(20):
        p.grad = random(10, 4, seed=step)
        q.grad = p.grad.clone()
        optimizer.step()
        muon.step()
        expected = 0.9 * expected + 0.1 * (q.detach() - before).double().square().mean(-1)
        before = q.detach().clone()
    torch.testing.assert_close(optimizer.state[p]["second_moment"].double().squeeze(-1), expected, rtol=1e-4, atol=1e-8)


def test_long_axis_has_a_number_for_each_slice_of_the_longer_side(build, track, random):
    for shape, state_shape in (((12, 5), (12, 1)), ((5, 12), (1, 12)), ((6, 6), (6, 1))):
        p = nn.Parameter(torch.zeros(shape))
        optimizer = build("normuon", [p], axis="long")
        p.grad = random(*shape)
        optimizer.step()
        assert optimizer.state[p]["second_moment"].shape == state_shape
    step = track("normuon", torch.zeros(5, 12), [random(5, 12)], axis="long", lr=1.0)[0]
    columns = step.norm(dim=0)
    assert (columns.max() / columns.min()).item() == pytest.approx(1.0, rel=1e-4)


def test_zero_rows_stay_zero(track, random):
    gradient = random(12, 6)
    gradient[3] = 0
    values = track("normuon", torch.zeros(12, 6), [gradient] * 3)
    assert not values[-1][3].any() and values[-1].isfinite().all()


def test_beta2_of_one_is_refused(build):
    with pytest.raises(ValueError, match=r"beta2 must be in \[0, 1\), got 1"):
        build("normuon", [nn.Parameter(torch.zeros(2, 2))], beta2=1.0)

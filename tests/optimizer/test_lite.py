"""LITE: Muon as a special case, the projector, its threshold, the two gains, the ramps."""

import pytest
import torch
from torch import nn

from ramen.config.check import schedules
from ramen.config.registry import factory
from ramen.ops.polar_express import polar_express

SHAPES = [(48, 12), (12, 48), (20, 20)]
MUON = {"beta1": 0.0, "beta2": 0.0, "chi": 1.0}


@pytest.mark.parametrize("shape", [*SHAPES, (3, 10, 6)])
@pytest.mark.parametrize("ratio", [0.1, 0.5])
@pytest.mark.parametrize("cautious", [True, False])
def test_without_gains_is_muon(track, random, shape, ratio, cautious):
    gradients = [random(*shape, seed=k) for k in range(4)]
    changes = {"steps": 6, "scaling": "rms", "lr": 0.1, "weight_decay": 0.3, "cautious": cautious}
    muon = track("muon", random(*shape), gradients, **changes)
    assert torch.equal(track("lite", random(*shape), gradients, ratio=ratio, **changes, **MUON)[-1], muon[-1])
    ramps = {"beta1": 0.0, "beta_ramp": 0.0, "chi_ramp": 0.0}  # and so it is before its ramps begin, with beta1 = 0
    assert torch.equal(track("lite", random(*shape), gradients, ratio=ratio, **changes, **ramps)[-1], muon[-1])


def spectrum(orthogonal, m: int, n: int, values: list[float]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    u, v = orthogonal(m)[:, : len(values)], orthogonal(n, seed=1)[:, : len(values)]
    return (u * torch.tensor(values, dtype=torch.float64)) @ v.T, u, v


@pytest.mark.parametrize("shape", [(64, 32), (32, 64), (32, 32)])
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 0.06), ("bfloat16", 0.12)])
def test_projector_keeps_the_directions_above_its_threshold(build, orthogonal, shape, dtype, bound):
    """On a spectrum with a gap at the threshold: sigma / t from 2 to 3, and below 0.5.

    In bf16 a direction under a hundredth of the norm is one of rounding errors; there P is what it may be.
    """
    lowest = 0.0 if dtype == "float32" else 0.1
    sharp, values = 6, torch.cat([torch.linspace(3, 2, 6), torch.linspace(0.5, lowest, 26)]).tolist()
    used, u, v = spectrum(orthogonal, *shape, values)
    optimizer = build("lite", [nn.Parameter(torch.zeros(shape))], iteration_dtype=dtype)
    group = optimizer.param_groups[0]
    bank = used.float()[None]
    step = polar_express(bank, steps=6, dtype=getattr(torch, dtype))
    level = torch.tensor([1 / used.norm().item()])
    top = optimizer._top(bank, step, level.clone(), group)[0].double()
    expected = u[:, :sharp] @ v[:, :sharp].T
    assert torch.linalg.matrix_norm(top - expected, 2) < bound
    flat = torch.eye(shape[1], dtype=torch.float64) - top.T @ top
    eigenvalues = torch.linalg.eigvalsh(flat)
    assert eigenvalues.min() > -2 * bound and eigenvalues.max() < 1 + 1e-6


@pytest.mark.parametrize("ratio", [0.1, 0.3])
def test_threshold_finds_the_rank(build, orthogonal, ratio):
    used, _, _ = spectrum(orthogonal, 60, 40, [0.9**k for k in range(40)])
    p = nn.Parameter(torch.zeros(60, 40))
    optimizer = build("lite", [p], ratio=ratio, lr=0.0)
    ranks = []
    for _ in range(200):
        p.grad = used.float()
        optimizer.step()
        threshold = optimizer.state[p]["threshold"].clone().view(1)
        step = polar_express(p.grad[None], steps=6, dtype=torch.float32)
        ranks.append(optimizer._top(p.grad[None], step, threshold, optimizer.param_groups[0]).square().sum().item())
    k = int(ratio * 40) + 1
    assert all(abs(rank - k) <= 0.3 * k for rank in ranks[-20:])


def test_threshold_starts_at_the_root_mean_square_and_moves_by_a_twentieth(build, random):
    p = nn.Parameter(torch.zeros(2, 30, 20, dtype=torch.float64))
    optimizer = build("lite", [p])
    before = torch.full((2,), 20**-0.5, dtype=torch.float64)
    for step in range(5):
        p.grad = random(2, 30, 20, seed=step, dtype=torch.float64)
        optimizer.step()
        ratio = optimizer.state[p]["threshold"] / before
        assert all(r == pytest.approx(1.05, rel=1e-12) or r == pytest.approx(0.95, rel=1e-12) for r in ratio.tolist())
        before = optimizer.state[p]["threshold"].clone()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("gains", [(-0.25, 1.0, 2.0), (0.0, 1.0, 1.0), (-0.25, -0.25, 2.0)])  # of H, H F and D F
def test_step_is_the_formula(track, build, random, relative, shape, gains):
    """Against float64, with P of the optimizer's own threshold; H is of the gradient itself, not of Nesterov's."""
    gradients = [random(*shape, seed=k) for k in range(2)]
    start, lr, decay, (b1, b2, chi) = random(*shape, seed=7), 0.1, 0.3, gains
    changes = {"beta1": b1, "beta2": b2, "chi": chi, "cautious": False, "scaling": "none"}
    values = track("lite", start, gradients, lr=lr, weight_decay=decay, **changes)
    momentum = torch.zeros(shape, dtype=torch.float64)
    rho, w = torch.tensor([min(shape) ** -0.5], dtype=torch.float64), start.double()
    optimizer = build("lite", [nn.Parameter(torch.zeros(shape))])
    for gradient, value in zip(gradients, values, strict=True):
        g = gradient.double()
        momentum = 0.95 * momentum + 0.05 * g
        used = 0.05 * g + 0.95 * momentum
        s, h = (polar_express(x, steps=6, dtype=torch.float64) for x in (used, g))
        p = optimizer._top(used[None], s[None], rho, optimizer.param_groups[0])[0]
        flat = torch.eye(shape[1], dtype=torch.float64) - p.T @ p
        d = s + b1 * h + (b2 - b1) * h @ flat
        d = d + (chi - 1) * d @ flat
        w = w - lr * decay * (w + (chi - 1) * w @ flat) - lr * d
        assert relative(value, w) < 1e-4


@pytest.mark.parametrize(("ratio", "strong", "over"), [(0.2, 6, False), (0.17, 6, True), (0.99, 31, True)])
def test_rank_that_is_steered_for(build, orthogonal, ratio, strong, over):
    """k = int(32 ratio) + 1, but not all: 7, 6 and 31. A direction at the threshold is half kept, and counts a quarter."""
    used, _, _ = spectrum(orthogonal, 40, 32, ([3.0] * strong + [1.0] + [0.1] * 25)[:32])
    optimizer = build("lite", [nn.Parameter(torch.zeros(40, 32, dtype=torch.float64))], ratio=ratio)
    threshold = torch.tensor([1 / used.norm().item()], dtype=torch.float64)
    step, before = polar_express(used[None], steps=6, dtype=torch.float64), threshold.clone()
    optimizer._top(used[None], step, threshold, optimizer.param_groups[0])
    assert (threshold > before).item() == over


def test_threshold_does_not_pass_the_norm(build, random):
    """A matrix of one direction has no lower rank to keep: every step would raise its threshold."""
    p = nn.Parameter(torch.zeros(1, 9))
    optimizer = build("lite", [p])
    for step in range(3):
        p.grad = random(1, 9, seed=step)
        optimizer.step()
    assert optimizer.state[p]["threshold"].item() == 1.0


def test_limits_of_the_projector(track, build, random, relative):
    """Nothing above the threshold: all is flat, D = chi (S + beta H). Everything above: D = S + beta1 H."""
    gradient = random(24, 10, dtype=torch.float64)
    s = polar_express(gradient, steps=6, dtype=torch.float64)  # and H is the same, for a first gradient
    for threshold, factor in ((1.0, 2.0 * (1 + 1.0)), (1e-6, 1 - 0.25)):
        p = nn.Parameter(torch.zeros(24, 10, dtype=torch.float64))
        optimizer = build("lite", [p], lr=1.0, scaling="none", weight_decay=0.0)
        p.grad = torch.zeros_like(p)
        optimizer.step()  # makes the state
        optimizer.state[p]["threshold"].fill_(threshold)
        p.grad = gradient.clone()
        optimizer.step()
        assert relative(-p.detach(), factor * s) < 0.05


def test_rotation_equivariance(track, random, orthogonal, relative):
    left, right = orthogonal(14), orthogonal(9, seed=1)
    start = torch.zeros(14, 9, dtype=torch.float64)
    gradients = [random(14, 9, seed=k, dtype=torch.float64) for k in range(3)]
    plain = track("lite", start, gradients, lr=1.0)[-1]
    assert (
        relative(track("lite", start, [left @ g @ right for g in gradients], lr=1.0)[-1], left @ plain @ right) < 1e-8
    )


def test_ramps_of_the_yaml(compose):
    """beta waits for the warm-up and rises to its end; chi rises beside it and has returned at the end."""
    curves = {key: factory(node) for key, node in schedules(compose("optimizer=lite")["optimizer"]).items()}
    assert set(curves) == {"momentum", "beta_ramp", "chi_ramp"}
    assert [curves["beta_ramp"](x) for x in (0.0, 0.02, 0.51, 1.0)] == [0.0, 0.0, 1.0, 1.0]
    assert curves["beta_ramp"](0.265) == pytest.approx(0.5)
    assert [curves["chi_ramp"](x) for x in (0.0, 0.02, 1.0)] == [0.0, 0.0, 0.0]
    chi = [curves["chi_ramp"](k / 100) for k in range(101)]
    assert 0.9 < max(chi) <= 1 and chi.index(max(chi)) == 51


def test_rank_deficient_and_tiny_shapes(track, random):
    for shape in ((1, 5), (5, 1), (1, 1), (2, 2)):
        assert track("lite", torch.zeros(shape), [random(*shape)] * 3)[-1].isfinite().all()
    deficient = random(20, 2) @ random(2, 12, seed=1)
    assert track("lite", torch.zeros(20, 12), [deficient] * 3)[-1].isfinite().all()

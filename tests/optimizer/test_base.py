"""The base of the matrix optimizers, seen through Muon: momentum, scaling, decay, hyperball, banks."""

import math
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from ramen.kernels import plain_torch
from ramen.nn.parameter import declare_factors
from ramen.ops.polar_express import polar_express
from ramen.optimizer.base import iteration_type, shape_scale
from ramen.optimizer.normuon import NorMuon

SHAPES = [(24, 8), (8, 24), (12, 12), (3, 10, 6)]
NAMES = ["muon", "normuon", "bam", "lite", "aro_sinkhorn", "contra_muon", "soap_muon"]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("nesterov", [True, False])
def test_momentum_against_float64(track, random, relative, shape, nesterov):
    gradients = [random(*shape, seed=k) for k in range(4)]
    values = track("muon", random(*shape, seed=9), gradients, lr=0.1, nesterov=nesterov, scaling="none")
    momentum = torch.zeros(shape, dtype=torch.float64)
    before = random(*shape, seed=9)
    for gradient, value in zip(gradients, values, strict=True):
        momentum = 0.95 * momentum + 0.05 * gradient.double()
        used = 0.05 * gradient.double() + 0.95 * momentum if nesterov else momentum
        step = polar_express(used, dtype=torch.float64)
        assert relative((before - value) / 0.1, step) < 2e-4
        before = value


def test_both_momentum_conventions_give_the_same_step(track, random, relative):
    """B <- mu B + G and U = G + mu B is the EMA's U / (1 - mu), which the polar factor does not see."""
    gradients = [random(16, 8, seed=k) for k in range(5)]
    value = track("muon", torch.zeros(16, 8), gradients, lr=1.0, scaling="none")
    classical, total = torch.zeros(16, 8, dtype=torch.float64), torch.zeros(16, 8, dtype=torch.float64)
    for gradient in gradients:
        classical = 0.95 * classical + gradient.double()
        total -= polar_express(gradient.double() + 0.95 * classical, dtype=torch.float64)
    assert relative(value[-1], total) < 1e-5


@pytest.mark.parametrize(("scaling", "shape", "factor"), [
    ("spectral", (24, 6), 2.0), ("spectral", (6, 24), 1.0), ("spectral", (9, 9), 1.0),
    ("rms", (24, 6), 0.2 * 24**0.5), ("rms", (6, 24), 0.2 * 24**0.5), ("none", (24, 6), 1.0),
])  # fmt: skip
def test_scaling(track, random, relative, scaling, shape, factor):
    assert shape_scale(scaling, *shape) == pytest.approx(factor)
    changes = {"lr": 1.0, "steps": 10}
    plain = track("muon", torch.zeros(shape), [random(*shape)], scaling="none", **changes)[0]
    scaled = track("muon", torch.zeros(shape), [random(*shape)], scaling=scaling, **changes)[0]
    assert relative(scaled, factor * plain) < 1e-6
    if scaling == "rms":
        assert scaled.square().mean().sqrt().item() == pytest.approx(0.2, rel=1e-3)
    if scaling == "spectral":
        expected = math.sqrt(max(1, shape[0] / shape[1]))
        assert torch.linalg.matrix_norm(scaled, 2).item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("power", [1, 2])
def test_plain_decay_is_apart_from_the_step(track, random, relative, power):
    """By lr, or as in modded-nanogpt by lr^2 and the factor that the step has for its shape."""
    start, gradient = random(10, 6), random(10, 6, seed=1)
    step = track("muon", start, [gradient], lr=0.1)[0] - start
    decayed = track("muon", start, [gradient], lr=0.1, weight_decay=0.5, cautious=False, decay_lr_power=power)[0]
    rate = 0.1 if power == 1 else 0.1**2 * (10 / 6) ** 0.5
    assert relative(decayed, start * (1 - rate * 0.5) + step) < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_cautious_decay_is_where_step_and_weight_agree(track, random, name):
    start, gradient = random(10, 6), random(10, 6, seed=1)
    changes = {"beta_ramp": 0.0, "chi_ramp": 0.0} if name == "lite" else {}
    free = track(name, start, [gradient], lr=0.05, **changes)[0]
    cautious = track(name, start, [gradient], lr=0.05, weight_decay=0.5, cautious=True, **changes)[0]
    direction = start - free
    agree = direction * start >= 0
    assert agree.any() and not agree.all()
    torch.testing.assert_close(cautious[~agree], free[~agree], rtol=0, atol=0)
    torch.testing.assert_close(cautious[agree], (free - 0.05 * 0.5 * start)[agree], rtol=1e-5, atol=1e-6)
    same_sign = agree & (free * start > 0) & (cautious * start > 0)
    assert (cautious[same_sign].abs() <= free[same_sign].abs()).all()


def test_cautious_mask_is_of_the_direction_not_the_gradient(track):
    """Second gradient against the momentum: the step still follows the momentum, and so does the mask."""
    start = torch.ones(4, 4)
    gradients = [torch.eye(4) + 0.3, -0.01 * (torch.eye(4) + 0.3)]
    free = track("muon", start, gradients, lr=0.01)
    cautious = track("muon", start, gradients, lr=0.01, weight_decay=1.0)
    moved = free[1] - free[0]
    assert (moved.diagonal() < 0).all()
    assert (cautious[1].diagonal() < free[1].diagonal()).all()


def test_a_decay_of_zero_weighs_nothing(track, random):
    start, gradients = random(6, 4), [random(6, 4, seed=k) for k in range(3)]
    runs = [track("muon", start, gradients, cautious=cautious)[-1] for cautious in (True, False)]
    assert torch.equal(*runs)


@pytest.mark.parametrize("by", [nullcontext, plain_torch])
@pytest.mark.parametrize("name", NAMES)
def test_a_weight_without_a_step_decays(track, random, name, by):
    """D W >= 0 includes 0: cautious decay spares what a step pulls away from zero, nothing else."""
    start = random(9, 6)
    with by():
        (value,) = track(name, start, [torch.zeros(9, 6)], lr=0.1, weight_decay=0.5)
    chi = 2 if name == "lite" else 1  # all is flat, which decays by it
    torch.testing.assert_close(value, (1 - 0.1 * 0.5 * chi) * start)


@pytest.mark.parametrize("name", NAMES)
def test_hyperball_keeps_every_matrix_at_its_first_norm(track, random, name):
    start = random(3, 12, 8) * torch.tensor([0.1, 1.0, 5.0])[:, None, None]
    values = track(name, start, [random(3, 12, 8, seed=k) for k in range(5)], lr=0.1, weight_decay=0.1, hyperball=True)
    for value in values:
        torch.testing.assert_close(value.norm(dim=(1, 2)), start.norm(dim=(1, 2)))
    assert not torch.equal(values[-1], start)


def test_hyperball_lets_a_matrix_grow_from_zero_to_its_ball(track, random):
    start = torch.zeros(2, 9, 6)
    gradients = [random(2, 9, 6, seed=k // 100) for k in range(100)]
    values = track("muon", start, gradients, lr=0.02, hyperball=True)
    norms = torch.stack([value.norm(dim=(1, 2)) for value in values])
    free = track("muon", start, gradients[:3], lr=0.02)
    assert torch.equal(values[2], free[2])  # inside, nothing changes
    assert (norms <= 3.0 + 1e-5).all() and norms[-1].tolist() == pytest.approx([3.0, 3.0])


def test_hyperball_survives_a_checkpoint(build, random):
    p = nn.Parameter(random(6, 4))
    optimizer = build("muon", [p], hyperball=True)
    p.grad = random(6, 4, seed=1)
    optimizer.step()
    with torch.no_grad():
        p *= 2
    other = build("muon", [p], hyperball=True)
    other.load_state_dict(optimizer.state_dict())
    other.step()
    assert p.norm().item() == pytest.approx(random(6, 4).norm().item())


@pytest.mark.parametrize("elements", [1, 48, 1 << 24])  # a matrix a bank, two, all
def test_banks_follow_the_parameters_that_have_gradients(build, random, monkeypatch, elements):
    """Stacking is of no consequence: same-shape matrices step as they would alone, whoever joins or leaves."""
    monkeypatch.setattr(NorMuon, "cpu_bank_elements", elements)
    together = [nn.Parameter(random(6, 4, seed=k)) for k in range(4)]
    alone = [nn.Parameter(p.detach().clone()) for p in together]
    shared, single = build("normuon", together), [build("normuon", [p]) for p in alone]
    present = [(0, 1, 2, 3), (0, 2), (2, 3), (0, 1, 2, 3), (1,), (1, 2, 3), (0, 1, 2, 3)]
    for step, who in enumerate(present):
        for k in range(4):
            together[k].grad = random(6, 4, seed=10 * step + k) if k in who else None
            alone[k].grad = None if together[k].grad is None else together[k].grad.clone()
            single[k].step()
        shared.step()
        for p, q in zip(together, alone, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


def test_state_is_what_the_pages_say(build, random):
    sizes = {
        "muon": lambda m, n: m * n,
        "normuon": lambda m, n: m * n + m,
        "bam": lambda m, n: m * n,
        "lite": lambda m, n: m * n + 1,
        "aro_sinkhorn": lambda m, n: m * n + min(m, n) ** 2,
        "contra_muon": lambda m, n: m * n + m,
        "soap_muon": lambda m, n: 2 * m * n + 2 * m * m + 2 * n * n + 1,
        "adamw": lambda m, n: 2 * m * n,
    }
    changed = {
        ("normuon", ("axis", "long")): lambda m, n: m * n + max(m, n),
        ("soap_muon", ("sides", "short")): lambda m, n: 2 * m * n + 2 * min(m, n) ** 2 + 1,
        ("muon", ("hyperball", True)): lambda m, n: m * n + 1,
    }
    cases = [(name, {}, size) for name, size in sizes.items()]
    cases += [(name, {key: value}, size) for (name, (key, value)), size in changed.items()]
    for name, changes, size in cases:
        for m, n in ((10, 6), (6, 10)):
            p = nn.Parameter(random(2, m, n))
            optimizer = build(name, [p], **changes)
            p.grad = random(2, m, n, seed=1)
            optimizer.step()
            values_of_state = [value for key, value in optimizer.state[p].items() if key != "step"]  # adamw's count
            assert sum(value.numel() for value in values_of_state) == 2 * size(m, n), (name, changes)
            doubled = sum(
                value.numel() for value in values_of_state if value.dtype == torch.float64
            )  # soap_muon's bases and means
            assert sum(value.untyped_storage().nbytes() for value in values_of_state) == 4 * (
                2 * size(m, n) + doubled
            ), (
                name,
                changes,
            )


def test_state_of_a_factor_pair_is_what_the_pages_say(build, random):
    a, b = nn.Parameter(random(2, 10, 3)), nn.Parameter(random(2, 3, 6))
    declare_factors(a, b)
    optimizer = build("spectron", [a, b])
    a.grad, b.grad = random(2, 10, 3, seed=1), random(2, 3, 6, seed=2)
    optimizer.step()
    assert sum(value.numel() for p in (a, b) for value in optimizer.state[p].values()) == 2 * ((10 + 6) * 3 + 2 * 3)


def test_vectors_are_refused(build):
    with pytest.raises(ValueError, match=r"Muon takes matrices .*, got a parameter of shape \(4,\)"):
        build("muon", [nn.Parameter(torch.zeros(4))])
    optimizer = build("muon", [nn.Parameter(torch.zeros(4, 4))])
    with pytest.raises(ValueError, match=r"got a parameter of shape \(4,\)"):
        type(optimizer)([*optimizer.param_groups, {"params": [nn.Parameter(torch.zeros(4))]}], **optimizer.defaults)


def test_an_update_in_bf16_parameters_has_fp32_state(build, random, relative):
    narrow, wide = nn.Parameter(random(16, 8).bfloat16()), nn.Parameter(random(16, 8).bfloat16().float())
    optimizers = [build("muon", [p], lr=0.1, weight_decay=0.0) for p in (narrow, wide)]
    for step in range(6):
        wide.grad = random(16, 8, seed=step).bfloat16().float()
        narrow.grad = wide.grad.bfloat16()
        for optimizer in optimizers:
            optimizer.step()
    momenta = [o.state[p]["momentum"] for o, p in zip(optimizers, (narrow, wide), strict=True)]
    torch.testing.assert_close(*momenta, rtol=1e-6, atol=1e-7)  # float32 in both, by torch and by a kernel
    assert relative(narrow, wide) < 0.01


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("muon", "momentum", 1.0), ("muon", "steps", 0), ("normuon", "beta2", 1.0), ("bam", "balance_steps", 0),
        ("contra_muon", "contra", 1.0), ("contra_muon", "power_steps", 0), ("soap_muon", "beta2", 1.0),
        ("soap_muon", "refresh_steps", 0), ("aro_sinkhorn", "rms", 0.0), ("aro_sinkhorn", "sinkhorn_steps", 0),
        ("lite", "ratio", 0.0), ("lite", "ratio", 1.0), ("lite", "steps", 0), ("spectron", "power_steps", 0),
        ("adamw", "beta1", 1.0), ("adamw", "beta2", 1.0),
    ],
)  # fmt: skip
def test_a_bound_that_is_no_value_is_refused(build, name, key, value):
    """When the optimizer is made, not in its first step, nor never: a mean with a factor of 1 stays 0."""
    factors = [nn.Parameter(torch.ones(4, 2)), nn.Parameter(torch.ones(2, 3))]
    declare_factors(*factors)
    with pytest.raises(ValueError, match=rf"^{key} must be .*, got {value}"):
        build(name, factors, **{key: value})
    build(name, factors, **{key: 0.5 if isinstance(value, float) else 1})


OTHER = {"method": "newton_schulz", "iteration_dtype": "bfloat16", "scaling": "none", "side": "long", "axis": "long",
         "sides": "short", "ratio": 0.6}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_group_s_own_value_is_what_steps(build, random, name):
    """As a role's lr_scale sets it, or a schedule: every hyperparameter of every method is read from the group."""

    def moved(changes: dict, key: str | None = None, value: object = None) -> torch.Tensor:
        p = nn.Parameter(random(9, 5))
        optimizer = build(name, [p], **changes)
        if key is not None:
            optimizer.param_groups[0][key] = value
        for step in range(3):
            p.grad = random(9, 5, seed=step)
            optimizer.step()
        return p.detach()

    group = build(name, [nn.Parameter(random(9, 5))]).param_groups[0]
    for key in sorted(set(group) - {"params", "stage"}):
        value = group[key]
        number = value + 1 if isinstance(value, int) else None if isinstance(value, str) else value / 2 + 0.01
        other = not value if isinstance(value, bool) else OTHER.get(key, number)
        assert torch.equal(moved({}, key, other), moved({key: other})), key


@pytest.mark.parametrize("name", NAMES)
def test_a_matrix_does_not_see_how_large_its_neighbours_are(build, random, name):
    """Gradients of the first of a bank grow a million times over; the second steps as it does alone."""
    together, alone = nn.Parameter(random(2, 9, 5)), nn.Parameter(random(2, 9, 5)[1].clone())
    optimizers = [build(name, [p]) for p in (together, alone)]
    for step in range(4):
        together.grad = random(2, 9, 5, seed=step)
        alone.grad = together.grad[1].clone()
        together.grad[0] *= 100.0**step
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(together[1], alone, rtol=1e-4, atol=1e-6)


def test_banks_are_of_one_shape_and_type_and_stacked_once(build, random):
    """Whatever the leading axes; a group or a part of one that were stacked anew each step would never be recorded."""
    shapes = [(6, 4), (2, 6, 4), (4, 6)]
    groups = [[nn.Parameter(random(*shape).to(dtype)) for shape in shapes for dtype in (torch.float32, torch.float64)]]
    groups += [[nn.Parameter(random(6, 4)), nn.Parameter(random(6, 4))]]
    optimizer = build("muon", groups[0])
    optimizer.add_param_group({"params": groups[1]})

    def step() -> object:
        for p in groups[0] + groups[1]:
            p.grad = torch.ones_like(p)
        optimizer.step()
        return optimizer.begin()

    first = step()
    assert step() == first
    memory = [optimizer.state[p]["momentum"].untyped_storage().data_ptr() for group in groups for p in group]
    assert len(set(memory)) == 5  # two shapes of two types, and the second group
    assert memory[0] == memory[2] and memory[1] == memory[3] and memory[6] == memory[7]
    assert all(optimizer.state[p]["momentum"].dtype == p.dtype for p in groups[0])
    optimizer.cpu_bank_elements = 24  # a matrix a bank
    assert step() != first
    parts = optimizer.begin()
    assert step() == parts


def test_type_of_an_iteration():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    for device in (cpu, cuda):
        assert [iteration_type(t, device) for t in ("bfloat16", "float32")] == [torch.bfloat16, torch.float32]
    assert iteration_type("auto", cuda) == torch.bfloat16 and iteration_type("auto", cpu) is None

"""ARO-Sinkhorn: the rotation is orthonormal whatever comes, the step has its RMS, and the formula is the paper's."""

import pytest
import torch
from torch import nn

from ramen.ops.sinkhorn import sinkhorn

SHAPES = [(48, 12), (12, 48), (20, 20)]


def defect(rotation: torch.Tensor) -> float:
    rotation = rotation.double()
    eye = torch.eye(rotation.shape[-1], dtype=torch.float64)
    return (rotation.mT @ rotation - eye).abs().max().item()


@pytest.mark.parametrize("shape", [*SHAPES, (2, 9, 6)])
@pytest.mark.parametrize("side", ["short", "long", "rows", "columns"])
@pytest.mark.parametrize("rank", [None, 2, 0])
def test_rotation_is_orthonormal_at_each_step(build, random, shape, side, rank):
    p = nn.Parameter(torch.zeros(shape))
    optimizer = build("aro_sinkhorn", [p], side=side)
    *lead, m, n = shape
    rotated = {"short": min(m, n), "long": max(m, n), "rows": m, "columns": n}[side]
    for step in range(4):
        p.grad = random(*shape, seed=step)
        if rank is not None:
            p.grad = random(*lead, m, rank, seed=step) @ random(*lead, rank, n, seed=step + 9)
        optimizer.step()
        rotation = optimizer.state[p]["rotation"]
        assert rotation.shape == (*lead, rotated, rotated) and defect(rotation) < 1e-5
        assert p.isfinite().all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_step_has_exactly_its_rms(track, random, shape, dtype):
    start = torch.zeros(shape, dtype=dtype)
    values = track("aro_sinkhorn", start, [random(*shape, seed=k) for k in range(4)], lr=1.0)
    for before, value in zip([start, *values], values, strict=False):
        assert (value - before).square().mean().sqrt().item() == pytest.approx(0.2, rel=1e-5)


@pytest.mark.parametrize("shape", [(12, 30), (30, 12)])
def test_formula(track, random, relative, shape):
    """Rows rotated when they are the shorter side, else columns: of M^T, then."""
    gradients = [random(*shape, seed=k, dtype=torch.float64) for k in range(3)]
    values = track("aro_sinkhorn", torch.zeros(shape, dtype=torch.float64), gradients, lr=1.0)
    rotation, momentum, w = (
        torch.eye(12, dtype=torch.float64),
        torch.zeros(12, 30, dtype=torch.float64),
        torch.zeros(12, 30),
    )
    for gradient, value in zip(gradients, values, strict=True):
        g = gradient if shape == (12, 30) else gradient.T
        momentum = 0.95 * momentum + 0.05 * g
        q, r = torch.linalg.qr(momentum @ sinkhorn(rotation.T @ momentum, steps=5).T)
        rotation = q * r.diagonal().sign()
        d = rotation @ sinkhorn(rotation.T @ momentum, steps=5)
        w = w - 0.2 * d / d.square().mean().sqrt()
        assert relative(value if shape == (12, 30) else value.T, w) < 1e-9


@pytest.mark.parametrize("shape", [(40, 17), (17, 40), (24, 24)])
@pytest.mark.parametrize(("side", "rank"), [("short", 1), ("short", 3), ("long", 5)])
def test_directions_without_momentum_are_not_made_of_rounding_errors(track, random, shape, side, rank):
    """Momenta of few directions: f has rows that are 1e-7 of the others, and must not bring them to full size."""
    rows, columns = random(shape[0], rank), random(rank, shape[1], seed=1)
    gradients = [rows @ random(rank, rank, seed=2 + k) @ columns for k in range(3)]
    values = track("aro_sinkhorn", torch.zeros(shape), gradients, lr=1.0, side=side)
    inside = [torch.linalg.qr(x.double()).Q for x in (rows, columns.T)]
    rows_are_rotated = {"short": shape[0] < shape[1], "long": shape[0] > shape[1]}[side]  # the other side is Sinkhorn's
    for before, value in zip([torch.zeros(shape), *values], values, strict=False):
        step = (value - before).double() if rows_are_rotated else (value - before).double().T
        basis = inside[0 if rows_are_rotated else 1]
        assert (step - basis @ (basis.T @ step)).norm() < 0.02 * step.norm()


def test_left_equivariance(build, random, orthogonal, relative):
    """Gradients U G from the rotation U in place of I: the rotations are U R and the steps U D."""
    turn = orthogonal(8)
    runs = []
    for turned in (False, True):
        p = nn.Parameter(torch.zeros(8, 20, dtype=torch.float64))
        optimizer = build("aro_sinkhorn", [p], lr=1.0, weight_decay=0.0)
        p.grad = torch.zeros_like(p)
        optimizer.step()  # makes the state; of a zero gradient nothing follows but some rotation
        optimizer.state[p]["rotation"].copy_(turn if turned else torch.eye(8))
        for step in range(3):
            gradient = random(8, 20, seed=step, dtype=torch.float64)
            p.grad = turn @ gradient if turned else gradient
            optimizer.step()
        runs.append((p.detach(), optimizer.state[p]["rotation"]))
    (plain, rotation), (other, turned) = runs
    assert relative(other, turn @ plain) < 1e-6
    assert relative(turned.abs(), (turn @ rotation).abs()) < 1e-6


def test_a_new_stage_starts_the_rotations_anew(build, random):
    p, other = nn.Parameter(random(2, 6, 9)), nn.Parameter(random(4, 4))
    optimizer = build("aro_sinkhorn", [p], lr=0.0)
    optimizer.add_param_group({"params": [other]})

    def step(seed: int) -> None:
        p.grad, other.grad = random(2, 6, 9, seed=seed), random(4, 4, seed=seed)
        optimizer.step()

    step(0)
    step(1)
    moved = optimizer.state[p]["rotation"].clone()
    p.grad = other.grad = None
    optimizer.step()
    assert torch.equal(optimizer.state[p]["rotation"], moved)
    for group, q in reversed([*zip(optimizer.param_groups, (p, other), strict=True)]):
        assert torch.equal(optimizer.state[p]["rotation"], moved)  # a stage is its group's
        group["stage"] = 2.0
        optimizer.step()  # nothing to step on, but the rotations are new
        rotation = optimizer.state[q]["rotation"]
        assert torch.equal(rotation, torch.eye(rotation.shape[-1]).expand_as(rotation))
    step(2)
    turned = optimizer.state[p]["rotation"].clone()
    p.grad = other.grad = None
    optimizer.step()  # once a stage
    assert torch.equal(optimizer.state[p]["rotation"], turned)
    step(3)
    assert not torch.equal(optimizer.state[p]["rotation"], turned)


def test_a_stage_is_remembered_by_a_checkpoint(build, random):
    p = nn.Parameter(random(4, 6))
    optimizer = build("aro_sinkhorn", [p], lr=0.0)
    for stage in (1.0, 2.0):
        optimizer.param_groups[0]["stage"] = stage
        p.grad = random(4, 6, seed=int(stage))
        optimizer.step()
    resumed = build("aro_sinkhorn", [p], lr=0.0)
    resumed.load_state_dict(optimizer.state_dict())
    resumed.param_groups[0]["stage"] = 2.0
    for each in (optimizer, resumed):
        p.grad = random(4, 6, seed=5)
        each.step()
    assert torch.equal(optimizer.state[p]["rotation"], resumed.state[p]["rotation"])


def test_stage_can_follow_the_batch_schedule(compose):
    node = compose("optimizer=aro_sinkhorn", "+schedule@optimizer.stage_schedule=stepped")["optimizer"]
    assert node["stage_schedule"]["boundaries"] == [0.25, 0.5, 0.75]

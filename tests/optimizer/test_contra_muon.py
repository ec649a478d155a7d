"""Contra-Muon: its map of singular values."""

import pytest
import torch


@pytest.mark.parametrize("shape", [(24, 10), (10, 24), (12, 12)])
@pytest.mark.parametrize("contra", [0.0, 0.2, 0.5])
def test_singular_values_become_one_less_their_share(track, orthogonal, shape, contra):
    s = min(shape)
    u, v = orthogonal(shape[0])[:, :s], orthogonal(shape[1], seed=1)[:, :s]
    values = torch.linspace(1.0, 0.1, s, dtype=torch.float64)
    gradient = (u * values) @ v.T
    start = torch.zeros(shape, dtype=torch.float64)
    step = -track("contra_muon", start, [gradient], lr=1.0, scaling="none", steps=8, contra=contra, power_steps=200)[0]
    mapped = u.T @ step @ v
    expected = 1 - contra * values
    torch.testing.assert_close(mapped, (expected * s**0.5 / expected.norm()).diag(), atol=1e-4, rtol=0)


def test_without_its_share_is_muon(track, random):
    gradients = [random(10, 6, seed=k) for k in range(3)]
    runs = [track("muon", random(10, 6), gradients), track("contra_muon", random(10, 6), gradients, contra=0.0)]
    assert torch.equal(runs[0][-1], runs[1][-1])


def test_norm_is_followed_by_few_power_steps(build, random):
    from torch import nn

    p = nn.Parameter(torch.zeros(40, 30))
    optimizer = build("contra_muon", [p])
    for step in range(40):
        p.grad = random(40, 30, seed=step)
        optimizer.step()
    u = optimizer.state[p]["power_vector"]
    momentum = optimizer.state[p]["momentum"]
    assert (momentum.T @ u).norm() > 0.9 * torch.linalg.matrix_norm(momentum, 2)


@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1e8, 1e30])
def test_scale_does_not_matter(track, random, relative, scale):
    gradients = [random(12, 5, seed=k) for k in range(3)]
    plain = track("contra_muon", torch.zeros(12, 5), gradients, lr=1.0)[-1]
    assert relative(track("contra_muon", torch.zeros(12, 5), [g * scale for g in gradients], lr=1.0)[-1], plain) < 1e-4

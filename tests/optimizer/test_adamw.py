"""AdamW: torch's, and cautious decay by its definition."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from ramen.kernels import plain_torch


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_plain_is_torch_adamw(build, random, weight_decay):
    parameter, reference_parameter = (nn.Parameter(random(2, 6, 4)) for _ in range(2))
    ours = build("adamw", [parameter], lr=0.01, weight_decay=weight_decay, cautious=False)
    reference = torch.optim.AdamW(
        [reference_parameter], lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=weight_decay, fused=False
    )
    for step in range(6):
        parameter.grad = random(2, 6, 4, seed=step)
        reference_parameter.grad = parameter.grad.clone()
        ours.step()
        reference.step()
    torch.testing.assert_close(parameter, reference_parameter, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("by", [nullcontext, plain_torch])
def test_cautious_against_float64(build, random, by):
    p = nn.Parameter(random(8, 5))
    optimizer = build("adamw", [p], lr=0.02, weight_decay=0.5, eps=1e-8)
    w, m, v = p.detach().double(), torch.zeros(8, 5).double(), torch.zeros(8, 5).double()
    agreed = 0
    for step in range(1, 8):
        p.grad = random(8, 5, seed=step)
        g = p.grad.double()
        with by():
            optimizer.step()
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g
        u = m / (1 - 0.9**step) / ((v / (1 - 0.95**step)).sqrt() + 1e-8)
        mask = u * w > 0
        agreed += int(mask.sum())
        w = w - 0.02 * (u + 0.5 * mask * w)
        torch.testing.assert_close(p.detach().double(), w, rtol=1e-5, atol=1e-6)
    assert 0 < agreed < 7 * 40


@pytest.mark.parametrize("by", [nullcontext, plain_torch])
def test_cautious_decay_of_tiny_weights(build, by):
    """Where weight times moment is no number of float32 any more, their signs still agree."""
    p = nn.Parameter(torch.full((3, 3), 1e-20))
    optimizer = build("adamw", [p], lr=0.1, weight_decay=0.5, eps=1e-8)
    p.grad = torch.full((3, 3), 1e-30)
    with by():
        optimizer.step()
    torch.testing.assert_close(p.detach(), torch.full((3, 3), 0.95e-20), rtol=2e-3, atol=0)


def test_first_step_has_the_size_of_the_learning_rate(build, random):
    p = nn.Parameter(torch.zeros(6, 4))
    optimizer = build("adamw", [p], lr=0.01, eps=1e-30, beta2=0.9999)  # 1 - beta2 needs its digits
    for _ in range(3):  # and so have the next under a constant gradient
        before = p.detach().clone()
        p.grad = random(6, 4) * torch.logspace(-8, 8, 4)
        optimizer.step()
        assert (p.detach() - before).abs().flatten().tolist() == pytest.approx([0.01] * 24, rel=1e-5)


def test_decay_is_back_in_the_group_after_a_step(build, random):
    p = nn.Parameter(random(3, 3))
    optimizer = build("adamw", [p], weight_decay=0.3)
    p.grad = random(3, 3, seed=1)
    optimizer.step()
    assert optimizer.param_groups[0]["weight_decay"] == 0.3


def test_takes_vectors_and_scalars(build):
    params = [nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(()))]
    optimizer = build("adamw", params)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert all((p < 1).all() for p in params)


@pytest.mark.parametrize("cautious", [True, False])
def test_gradients_may_lie_otherwise_in_memory(build, random, cautious):
    strided, plain = (nn.Parameter(random(5, 3)) for _ in range(2))
    optimizers = [build("adamw", [p], weight_decay=0.3, cautious=cautious) for p in (strided, plain)]
    for step in range(3):
        plain.grad = random(5, 3, seed=step)
        strided.grad = mismatched_strides = plain.grad.T.contiguous().T
        for optimizer in optimizers:
            optimizer.step()
        assert strided.grad is mismatched_strides and torch.equal(mismatched_strides, plain.grad)
    assert torch.equal(strided, plain)

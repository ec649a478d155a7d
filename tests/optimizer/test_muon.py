"""Muon: torch's own, singular values, equivariance, scale."""

import pytest
import torch
from torch import nn

SHAPES = [(48, 12), (12, 48), (20, 20)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
def test_is_torch_muon(build, random, relative, shape, adjust):
    """With its polynomial, its types and plain decay; only the order of bf16 roundings differs."""
    start = random(*shape)
    parameter, reference_parameter = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    scaling = "spectral" if adjust == "original" else "rms"
    ours = build(
        "muon",
        [parameter],
        lr=0.05,
        weight_decay=0.2,
        cautious=False,
        method="newton_schulz",
        iteration_dtype="bfloat16",
        scaling=scaling,
    )
    options = dict(lr=0.05, weight_decay=0.2, momentum=0.95, nesterov=True, adjust_lr_fn=adjust)
    reference = torch.optim.Muon([reference_parameter], **options)
    for step in range(5):
        before = reference_parameter.detach().clone()
        with torch.no_grad():
            parameter.copy_(reference_parameter)
        parameter.grad = random(*shape, seed=step)
        reference_parameter.grad = parameter.grad.clone()
        ours.step()
        reference.step()
        decayed = before * (1 - 0.05 * 0.2)
        assert relative(parameter - decayed, reference_parameter - decayed) < 0.04
    torch.testing.assert_close(
        ours.state[parameter]["momentum"], reference.state[reference_parameter]["momentum_buffer"]
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(64, 16), (16, 64), (3, 40, 8)])
def test_singular_values_of_a_step_are_near_one(track, random, shape, dtype):
    step = -track("muon", torch.zeros(shape), [random(*shape)], lr=1.0, scaling="none", iteration_dtype=dtype)[0]
    values = torch.linalg.svdvals(step)
    assert values.min() > 0.84 and values.max() < 1.16


@pytest.mark.parametrize("method", ["polar_express", "newton_schulz", "newton_schulz_converging"])
def test_rotation_equivariance(track, random, orthogonal, relative, method):
    left, right = orthogonal(14), orthogonal(9, seed=1)
    gradients = [random(14, 9, seed=k, dtype=torch.float64) for k in range(3)]
    plain = track("muon", torch.zeros(14, 9, dtype=torch.float64), gradients, lr=1.0, method=method)[-1]
    turned = track(
        "muon", torch.zeros(14, 9, dtype=torch.float64), [left @ g @ right for g in gradients], lr=1.0, method=method
    )[-1]
    assert relative(turned, left @ plain @ right) < 1e-9


def test_rank_is_kept(track, random):
    gradient = random(20, 3) @ random(3, 12, seed=1)
    step = track("muon", torch.zeros(20, 12), [gradient], lr=1.0, scaling="none")[0]
    values = torch.linalg.svdvals(step)
    assert values[2] > 0.8 and values[3] < 1e-3


def test_more_steps_come_closer(track, random, relative):
    """A schedule made for the number of steps, not a long one cut short."""
    start, gradient = torch.zeros(30, 20, dtype=torch.float64), random(30, 20, dtype=torch.float64)
    u, _, vh = torch.linalg.svd(gradient, full_matrices=False)
    errors = [
        relative(-track("muon", start, [gradient], lr=1.0, scaling="none", steps=k)[0], u @ vh) for k in (3, 4, 5, 6, 7)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-6

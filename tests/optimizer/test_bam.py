"""BAM: norms, order of axes, half form, what it is and is not equivariant to."""

import pytest
import torch

SHAPES = [(48, 12), (12, 48), (20, 20)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_last_axis_is_at_unit_norm(track, random, shape, half, dtype):
    step = track("bam", torch.zeros(shape, dtype=dtype), [random(*shape)], lr=1.0, scaling="none", half=half)[0]
    lengths = step.norm(dim=0 if shape[0] > shape[1] else 1)
    assert lengths.tolist() == pytest.approx([1.0] * min(shape), rel=1e-5)
    assert step.norm().item() == pytest.approx(min(shape) ** 0.5, rel=1e-5)  # as an exact polar factor's


def test_formula(track, random, relative):
    gradient = random(30, 10, dtype=torch.float64)
    even = gradient / gradient.norm(dim=1, keepdim=True)
    even = even / even.norm(dim=0, keepdim=True)
    step = -track("bam", torch.zeros(30, 10), [gradient], lr=1.0)[0]
    assert relative(step, 3**0.5 * even) < 1e-6
    half = -track("bam", torch.zeros(30, 10), [gradient], lr=1.0, half=True)[0]
    assert relative(half, 3**0.5 * gradient / gradient.norm(dim=0, keepdim=True)) < 1e-6


def test_more_passes_even_the_other_axis(track, random):
    gradient = random(40, 10) * torch.exp(random(40, 1, seed=1))
    spread = []
    for passes in (1, 3, 8):
        lengths = track("bam", torch.zeros(40, 10), [gradient], lr=1.0, scaling="none", balance_steps=passes)[0].norm(
            dim=1
        )
        spread.append((lengths - 0.5).abs().max().item())  # sqrt(s / l)
    assert spread[0] > spread[1] > spread[2] and spread[2] < 1e-3


def test_equivariance(track, random, orthogonal, relative):
    gradient = random(12, 7, dtype=torch.float64)
    start = torch.zeros(12, 7, dtype=torch.float64)
    plain = track("bam", start, [gradient], lr=1.0, scaling="none")[0]
    assert relative(track("bam", start.mT, [gradient.mT], lr=1.0, scaling="none")[0], plain.mT) < 1e-9
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    assert relative(track("bam", start, [gradient[order]], lr=1.0, scaling="none")[0], plain[order]) < 1e-9
    turn = orthogonal(12)
    assert relative(track("bam", start, [turn @ gradient], lr=1.0, scaling="none")[0], turn @ plain) > 0.05

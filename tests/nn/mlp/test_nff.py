"""nGPT's feed-forward: on the sphere, with unit vectors for weights."""

import pytest
import torch
from torch.nn import functional as F

DIM = 32


@pytest.fixture
def nff(component):
    """nff(**changes): with its weights on the sphere."""
    return lambda **changes: component("mlp", "nff", DIM, **changes)


def values(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def unit(x: torch.Tensor) -> torch.Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def test_formula_of_the_paper(nff):
    module, h = nff(), unit(values(2, 5, DIM))
    gate, up = module.up.weight
    with torch.no_grad():
        module.up_scale.copy_(torch.linspace(2, 0.3, up.shape[0]))
        module.gate_scale.copy_(torch.linspace(0.5, 1.5, up.shape[0]))
        module.alpha.copy_(torch.linspace(-0.3, 0.7, DIM))
    u = h @ up.T * module.up_scale
    g = h @ gate.T * module.gate_scale * DIM**0.5
    goal = unit((F.silu(g) * u) @ module.down.weight[0].T)
    alpha = (module.alpha * 0.05 / DIM**-0.5).abs()
    expected = unit(h + alpha * (goal - h))
    torch.testing.assert_close(h + module(h) / DIM**0.5, expected, atol=1e-6, rtol=1e-5)


def test_the_step_stays_on_the_sphere_and_the_inputs_length_is_nothing(nff):
    module, x = nff(alpha_init=0.5), values(2, 5, DIM)
    end = unit(x) * DIM**0.5 + module(x)  # in units of RMS 1
    torch.testing.assert_close(end.square().mean(-1), torch.ones(2, 5))
    torch.testing.assert_close(module(7 * x), module(x), atol=1e-5, rtol=1e-5)


def test_alpha_is_the_rate(nff):
    x = values(2, 5, DIM)
    far, near = nff(alpha_init=1.0), nff(alpha_init=0.01)
    assert near.alpha.unique().item() == pytest.approx(DIM**-0.5)
    goal = unit(x) + far(x) / DIM**0.5  # at rate 1 the end is the goal
    expected = unit(unit(x) + 0.01 * (goal - unit(x))) - unit(x)
    torch.testing.assert_close(near(x) / DIM**0.5, expected, atol=1e-6, rtol=0)


def test_weights_are_unit_vectors_of_the_model_width_after_a_step(nff):
    module = nff()
    with torch.no_grad():
        for p in module.parameters():
            p += 0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    scales = module.gate_scale.clone()
    module.after_step()
    torch.testing.assert_close(module.up.weight.norm(dim=-1), torch.ones(module.up.weight.shape[:2]))
    torch.testing.assert_close(module.down.weight.norm(dim=-2), torch.ones(1, module.down.weight.shape[-1]))
    assert torch.equal(module.gate_scale, scales)


def test_a_rate_beyond_the_goal_is_refused(nff):
    with pytest.raises(ValueError, match=r"alpha_init must be in \(0, 1\], got 1.5"):
        nff(alpha_init=1.5)


@pytest.mark.parametrize(("match", "width"), [(True, 84), (False, 128)])
def test_width(match, width, nff):
    module = nff(match_parameters=match)
    assert tuple(module.up.weight.shape) == (2, width, DIM) and tuple(module.down.weight.shape) == (1, DIM, width)

"""Spectron: the bound on the product, its spectral norms, and what it asks of its parameters."""

import pytest
import torch
from torch import nn

from ramen.build.objects import build_optimizer
from ramen.config.check import without_schedules
from ramen.nn.parameter import declare_factors


def pair(
    random,
    m: int,
    r: int,
    n: int,
    scales: tuple[float, float] = (1.0, 1.0),
    lead: tuple[int, ...] = (),
    dtype=torch.float32,
):
    left = nn.Parameter(scales[0] * random(*lead, m, r, dtype=dtype))
    right = nn.Parameter(scales[1] * random(*lead, r, n, seed=1, dtype=dtype))
    declare_factors(left, right)
    return left, right


def product(factors) -> torch.Tensor:
    return (factors[0] @ factors[1]).detach().double()


@pytest.mark.parametrize("shape", [(24, 4, 10), (10, 4, 24), (12, 12, 12), (9, 1, 5)])
@pytest.mark.parametrize("scales", [(1.0, 1.0), (1e-3, 1e-3), (10.0, 0.01), (0.0, 1.0)])
@pytest.mark.parametrize("lr", [1.0, 0.05])
def test_product_moves_by_no_more_than_the_learning_rate(build, random, shape, scales, lr):
    factors = pair(random, *shape, scales, lead=(3,))
    optimizer = build("spectron", list(factors), lr=lr, weight_decay=0.0)
    for step in range(6):
        before = product(factors)
        for k, p in enumerate(factors):
            p.grad = random(*p.shape, seed=10 * step + k)
        optimizer.step()
        change = torch.linalg.matrix_norm(product(factors) - before, 2)
        # At a rate of 1 the factors are new at every step, and one step of power iteration is behind.
        assert (change <= lr * (1.003 if lr < 1 else 1.1)).all()
        assert (change > 0).all()


def test_bound_is_met_when_every_factor_moves_along_its_top_direction(build, random):
    """The worst case: the bound is no looser than it must be."""
    factors = pair(random, 8, 3, 6, dtype=torch.float64)
    optimizer = build("spectron", list(factors), lr=0.1, weight_decay=0.0, steps=10)
    (u, s, vh), (u2, s2, vh2) = (torch.linalg.svd(p.detach(), full_matrices=False) for p in factors)
    factors[0].grad, factors[1].grad = -u @ vh, -u2 @ vh2
    before = product(factors)
    optimizer.step()
    rho = 0.1 / (s[0] + s2[0] + 1)
    starts = (u * s) @ vh, (u2 * s2) @ vh2
    for factor, start, along in zip(factors, starts, (u @ vh, u2 @ vh2), strict=True):
        torch.testing.assert_close(factor.detach(), start + rho * along, rtol=1e-3, atol=1e-4)
    change = torch.linalg.matrix_norm(product(factors) - before, 2)
    assert change <= 0.1 * 1.0001
    assert change >= rho * max(s[0], s2[0]) * 0.5


def test_pace_is_of_the_exact_norms(build, random, relative):
    factors = pair(random, 20, 6, 14, dtype=torch.float64)
    before = [p.detach().clone() for p in factors]
    optimizer = build("spectron", list(factors), lr=0.3, weight_decay=0.0, steps=10)
    for k, p in enumerate(factors):
        p.grad = random(*p.shape, seed=5 + k, dtype=torch.float64)
    gradients = [p.grad.clone() for p in factors]
    optimizer.step()
    rho = 0.3 / (sum(torch.linalg.matrix_norm(p, 2) for p in before) + 1)
    for p, old, gradient in zip(factors, before, gradients, strict=True):
        u, _, vh = torch.linalg.svd(gradient, full_matrices=False)
        assert relative(p, old - rho * u @ vh) < 2e-3


def test_norm_estimates_follow_slowly_moving_factors(build, random):
    factors = pair(random, 30, 8, 20)
    optimizer = build("spectron", list(factors), lr=0.02, weight_decay=0.0)
    for step in range(30):
        old = [p.detach().clone() for p in factors]
        for k, p in enumerate(factors):
            p.grad = random(*p.shape, seed=10 * step + k)
        optimizer.step()
        moved = (factors[0].detach() - old[0]).norm() / 8**0.5  # rho, for singular values of 1
        exact = 0.02 / (sum(torch.linalg.matrix_norm(p, 2) for p in old) + 1)
        assert (moved / exact).item() == pytest.approx(1.0, abs=0.02)


def test_norm_estimates_find_new_factors_step_by_step(build, random, orthogonal):
    """Power iteration goes on from the vector it had: one step each finds the top direction of factors it never saw."""
    factors = pair(random, 12, 6, 9)
    optimizer = build("spectron", list(factors), lr=0.0, power_steps=1)
    values = torch.tensor([3.0, 2, 1, 1, 1, 1])
    for step in range(30):
        for k, p in enumerate(factors):
            if step == 1:
                m, n = p.shape
                p.data = (orthogonal(m, seed=2)[:, :6].float() * values) @ orthogonal(n, seed=3)[:6].float()
            p.grad = random(*p.shape, seed=k)
        optimizer.step()
    vectors = optimizer.state[factors[0]]["power_vector"]
    for gram, vector in zip((factors[0].T @ factors[0], factors[1] @ factors[1].T), vectors, strict=True):
        assert (gram @ vector).norm().item() == pytest.approx(9.0, rel=1e-3)


def test_decay_is_of_the_learning_rate_not_of_the_pace(build, random):
    factors = pair(random, 6, 3, 5)
    before = [p.detach().clone() for p in factors]
    optimizer = build("spectron", list(factors), lr=0.1, weight_decay=0.5, cautious=False)
    for p in factors:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for p, old in zip(factors, before, strict=True):
        torch.testing.assert_close(p.detach(), old * (1 - 0.1 * 0.5))


def test_needs_pairs(build, random):
    with pytest.raises(ValueError, match=r"spectron needs factor pairs, .* shape \(4, 3\): add linear=low_rank"):
        build("spectron", [nn.Parameter(random(4, 3))])
    left, right = pair(random, 4, 2, 3)
    with pytest.raises(ValueError, match=r"shape \(4, 2\), \(5, 5\)"):
        build("spectron", [left, nn.Parameter(random(5, 5))])
    with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
        build("spectron", [right])


def test_a_pair_waits_until_both_factors_have_gradients(build, random):
    left, right = pair(random, 4, 2, 3)
    optimizer = build("spectron", [left, right])
    before = left.detach().clone()
    left.grad = random(4, 2)
    optimizer.step()
    assert torch.equal(left, before)
    right.grad = random(2, 3)
    optimizer.step()
    assert not torch.equal(left, before)


def test_a_rate_above_one_is_refused(build, random, compose):
    with pytest.raises(ValueError, match=r"lr must be in \[0, 1\], got 1.5"):
        build("spectron", list(pair(random, 4, 2, 3)), lr=1.5)
    group = {"params": list(pair(random, 4, 2, 3)), "lr": 1.5}  # what a role's lr_scale makes of it
    with pytest.raises(ValueError, match=r"lr must be in \[0, 1\], got 1.5"):
        build_optimizer(without_schedules(compose("optimizer=spectron", "linear=low_rank")["optimizer"]), [group], [])


def test_trains_a_model_of_low_rank_maps(build_gpt, compose, rows):
    from ramen.build.objects import build_optimizers
    from ramen.build.param_groups import Routing, route

    config = compose("optimizer=spectron", "linear=low_rank")
    model, tokens = build_gpt("linear=low_rank", "attention.output_init_scale=1"), rows((16, 16), (32,))
    routing = Routing(**{key: value for key, value in config["routing"].items() if key != "_target_"})
    optimizers = build_optimizers(config, route(model, routing, config["optimizer"], config["auxiliary"]))
    losses = []
    for _ in range(8):
        optimizers.schedule(0.5, 1.0)
        for p in model.parameters():
            p.grad = None
        loss = model(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        optimizers.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]

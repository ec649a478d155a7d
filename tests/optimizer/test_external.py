"""ExternalOptimizer: another optimizer sees single matrices, follows schedules, and keeps its own count."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from ramen.optimizer.external import ExternalOptimizer


class Counting(torch.optim.SGD):
    """Writes into gradients, counts in its group, and draws from the global stream: what packages do."""

    seen: list[tuple[int, ...]]

    def step(self, closure=None):
        group = self.param_groups[0]
        group["step"] = group.get("step", 0) + 1
        self.seen = [tuple(p.shape) for p in group["params"]]
        for p in group["params"]:
            if p.grad is not None:
                p.grad.mul_(2)
                p.data.add_(torch.rand(()), alpha=1e-3)
        return super().step()


def wrapped(*shapes: tuple[int, ...], **changes) -> tuple[ExternalOptimizer, list[nn.Parameter]]:
    params = [nn.Parameter(torch.ones(shape)) for shape in shapes]
    return ExternalOptimizer([{"params": params}], lambda groups: Counting(groups, lr=0.1, **changes)), params


def test_every_matrix_is_a_parameter_of_its_own():
    optimizer, params = wrapped((2, 3, 4), (5, 6), (7,))
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert optimizer.inner.seen == [(3, 4), (3, 4), (5, 6), (7,)]
    assert all((p < 0.85).all() and (p.grad == 1).all() for p in params)


def test_schedules_reach_it_and_its_own_counts_stay():
    optimizer, (p,) = wrapped((2, 2))
    for step in range(1, 4):
        optimizer.param_groups[0]["lr"] = 0.1 / step
        p.grad = torch.ones_like(p)
        optimizer.step()
        assert optimizer.inner.param_groups[0]["lr"] == 0.1 / step
        assert optimizer.param_groups[0]["step"] == step
    resumed, (q,) = wrapped((2, 2))
    resumed.load_state_dict(optimizer.state_dict())
    for step in range(4, 6):
        q.grad = torch.ones_like(q)
        resumed.step()
        assert resumed.inner.param_groups[0]["step"] == resumed.param_groups[0]["step"] == step


def test_its_draws_are_of_the_step_and_move_no_other_stream():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    values = []
    for _ in range(2):
        optimizer, (p,) = wrapped((2, 2))
        seen = [1.0]
        for _ in range(3):
            p.grad = torch.ones_like(p)
            optimizer.step()
            seen.append(p[0, 0].item())
        assert len({round(after - before, 7) for before, after in pairwise(seen)}) == 3  # each step draws anew
        values.append(p.detach().clone())
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(5)
    assert torch.equal(*values)


def test_its_refusals_are_value_errors():
    with pytest.raises(ValueError, match="momentum"):
        wrapped((2, 2), momentum=-1)
    with pytest.raises(TypeError, match=r"dict is not a torch\.optim\.Optimizer"):
        ExternalOptimizer([{"params": [nn.Parameter(torch.ones(2, 2))]}], lambda groups: {})

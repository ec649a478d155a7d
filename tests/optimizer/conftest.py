"""Fixtures of the tests of single optimizers: matrices with known spectra, and one way to build and run a method."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ramen.config.check import without_schedules
from ramen.config.registry import factory


def _random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.fixture(autouse=True)
def any_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """iteration_dtype=auto means the same on every processor."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)


@pytest.fixture(scope="session")
def random() -> Callable[..., Tensor]:
    """random(*shape, seed=, dtype=): independent normal entries."""
    return _random


@pytest.fixture(scope="session")
def orthogonal() -> Callable[..., Tensor]:
    """orthogonal(n, seed=): a random orthogonal matrix, float64."""
    return lambda n, seed=0: torch.linalg.qr(_random(n, n, seed=seed, dtype=torch.float64)).Q


@pytest.fixture(scope="session")
def build(compose) -> Callable[..., Any]:
    """build(name, parameters, **changes): the optimizer of conf/optimizer/<name>.yaml, without schedules."""

    def built(name: str, params: list[nn.Parameter], **changes: Any) -> Any:
        node = without_schedules(compose(f"optimizer={name}")["optimizer"]) | changes
        return factory(node)([{"params": params}])

    return built


@pytest.fixture(scope="session")
def track(build) -> Callable[..., list[Tensor]]:
    """track(name, start, gradients, **changes): one parameter's values after each gradient, without decay unless asked for."""

    def tracked(name: str, start: Tensor, gradients: list[Tensor], **changes: Any) -> list[Tensor]:
        p = nn.Parameter(start.clone())
        optimizer = build(name, [p], **({"weight_decay": 0.0} | changes))
        values = []
        for gradient in gradients:
            p.grad = gradient.to(p.dtype)
            optimizer.step()
            values.append(p.detach().clone())
        return values

    return tracked


@pytest.fixture(scope="session")
def relative() -> Callable[[Tensor, Tensor], float]:
    """relative(x, reference): Frobenius norm of the difference over the reference's."""
    return lambda x, reference: ((x.double() - reference.double()).norm() / reference.double().norm()).item()

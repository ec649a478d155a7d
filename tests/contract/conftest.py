"""What the suites of MLPs and of residual connections share: an option built alone, with life in every parameter."""

from typing import Any

import pytest
import torch

from ramen.ops.parameter import generator, initialise
from ramen.registry import factory


@pytest.fixture
def component(compose):
    """component(kind, name, *runtime, noise=, seed=, **changes): that option of mlp or residual; noise goes to every parameter."""

    def made(kind: str, name: str, *runtime: Any, noise: float = 0.0, seed: int = 0, **changes: Any) -> torch.nn.Module:
        config = compose(f"{kind}={name}", "linear=dense")
        linear = (factory(config["linear"]),) if kind == "mlp" else ()
        module = factory(config[kind] | changes)(*runtime, *linear)
        initialise(module, seed)
        with torch.no_grad():
            for key, value in module.named_parameters() if noise else ():
                value += noise * torch.randn(value.shape, generator=generator(seed, f"noise of {key}"))
        if hasattr(module, "after_step"):
            module.after_step()
        return module

    return made

"""ramen: fair, fast, single-GPU ablations of GPT training.

`ramen.load(run_folder)` opens a trained run. `ramen.optimizer(name, params, ...)` and `ramen.component(kind, name, ...)` build
one part for a training loop of your own, with the defaults of its yaml; `ramen.describe(kind, name)` prints those.

Axis legend, used in every shape comment:
B batch (rows), T time (tokens of a row), D model width, H heads, K head width, F hidden width of an MLP, V vocabulary,
S residual streams, L layers, N matrices of one shape stacked into a bank, m rows and n columns of a matrix.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ramen import optimizer

if TYPE_CHECKING:
    from ramen.build.library import component, describe
    from ramen.inference.load import open_run as load

__version__ = "0.2.0"
__all__ = ["component", "describe", "load", "optimizer"]

_FUNCTIONS = {
    "component": "ramen.build.library.component",
    "describe": "ramen.build.library.describe",
    "load": "ramen.inference.load.open_run",
}


def __getattr__(name: str) -> Any:
    """A function of the package, imported at its first use: `import ramen` imports no torch."""
    module, _, function = _FUNCTIONS.get(name, "").rpartition(".")
    if not module:
        raise AttributeError(f"module 'ramen' has no attribute {name!r}")
    return getattr(import_module(module), function)


class _OptimizerPackage(ModuleType):
    """The package `ramen.optimizer`, which can be called: Python binds a submodule's name in its parent, so a function of that
    name would be lost at the first import of a method."""

    def __call__(self, name: str, params: Any, **changes: Any) -> Any:
        """Build an optimizer: `ramen.optimizer("normuon", params, lr=0.03)`.

        `params` are parameters, (name, parameter) pairs or groups, as torch takes them; `changes` are keys of the option's yaml
        (`print(ramen.describe("optimizer", "normuon"))`), which has a default for every one. A schedule of the yaml, such as
        `momentum_schedule`, belongs to a run: here a value stays until you set it in `param_groups`.

        Matrix methods (all but adamw, lion and their like) take matrices (m, n) and banks (N, m, n), and refuse vectors. They
        cannot tell an embedding from a hidden matrix: give embeddings, heads and vectors to `ramen.optimizer("adamw", ...)`.

        ConfigError for an unknown name or key, with the closest one; ValueError for a value out of range or a wrong shape.
        """
        from ramen.build.library import component

        return component("optimizer", name, params, **changes)


optimizer.__class__ = _OptimizerPackage

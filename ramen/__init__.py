"""ramen: fair, fast, single-GPU ablations of GPT training.

`ramen.load(run_folder)` opens a trained run. `ramen.optimizer(name, params, ...)` and `ramen.component(kind, name, ...)` build
one part for a training loop of your own, with the defaults of its yaml; `ramen.describe(kind, name)` prints those.

Axis legend, used in every shape comment:
B batch (rows), T time (tokens of a row), D model width, H heads, K head width, F hidden width of an MLP, V vocabulary,
S residual streams, L layers, N matrices of one shape stacked into a bank, m rows and n columns of a matrix.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ramen import optimizer

# Imports stand inside functions, so that `import ramen` imports no torch.

if TYPE_CHECKING:
    from ramen.inference.load import Run

__version__ = "0.2.0"


def load(run_folder: Any, device: Any = "cpu", step: Any = None, allow_targets: Sequence[str] = ()) -> "Run":
    """A trained run, opened again: config, model, tokenizer; encode, generate, loss (see ramen.inference.load).

    `allow_targets`: packages besides ramen whose components it may import; what the folder itself allows does not count.
    """
    from ramen.inference.load import open_run

    return open_run(run_folder, device, step, allow_targets)


def component(kind: str, name: str, *runtime: Any, **changes: Any) -> Any:
    """Build an option of a kind: `ramen.component("mlp", "nff", dim, linear, expansion=8.0)`.

    `runtime` is what the kind takes by position (`print(ramen.describe())`), `changes` are keys of the option's yaml
    (`print(ramen.describe("mlp", "nff"))`), which has a default for every one. A module's weights start as in a run, drawn from
    torch's default generator. `linear` is a function (rows, columns, stds) -> module:
    `functools.partial(ramen.component, "linear", "dense")`. A schedule is returned as a function of progress in [0, 1].

    ConfigError for an unknown kind, name or key, with the closest one; ValueError for a value out of range.
    """
    from ramen.build import library

    return library.build_component(kind, name, runtime, changes)


def describe(kind: str | None = None, name: str | None = None) -> str:
    """The kinds and what each takes by position; a kind's options; or an option's keys, defaults and comments."""
    from ramen.build import library

    return library.describe(kind, name)


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
        return component("optimizer", name, params, **changes)


optimizer.__class__ = _OptimizerPackage

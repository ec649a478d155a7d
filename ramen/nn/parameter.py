"""Parameters that say at birth how they start and which role they play.

The initial value of a parameter depends on the run's seed and on the parameter's name alone, so that two methods or two
architectures share every weight they have in common. The role decides which optimizer group it joins (conf/routing).
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ramen.errors import ConfigError

LARGEST = 1e30  # of initial values: far from float32's end
Initial = Callable[[Tensor, torch.Generator], None]  # fills a tensor


def constant(value: float | Tensor) -> Initial:
    """Every element `value`, or these values, whatever the seed. ValueError for a number that float32 cannot hold."""
    if not isinstance(value, Tensor) and not abs(value) <= LARGEST:
        raise ValueError(f"a number that a parameter starts at must be in [-{LARGEST:g}, {LARGEST:g}], got {value}")
    return partial(_fill_with, value)


def normal(*stds: float) -> Initial:
    """Independent normal elements of mean 0 and this standard deviation, or of one for each entry of the leading axis.

    0 gives zeros. ValueError below.
    """
    return partial(_fill_normal, [*map(_checked, stds)])


def uniform(*stds: float) -> Initial:
    """As `normal`, with uniform elements."""
    return partial(_fill_uniform, [math.sqrt(3.0) * _checked(std) for std in stds])


# Functions of the module, not lambdas: a model can be pickled with what its parameters declare.
def _fill_with(values: Tensor | float, tensor: Tensor, generator: torch.Generator) -> None:
    tensor[...] = values


def _fill_normal(stds: list[float], tensor: Tensor, generator: torch.Generator) -> None:
    for part, std in zip(tensor if len(stds) > 1 else (tensor,), stds, strict=True):
        part.normal_(0.0, std, generator=generator)


def _fill_uniform(bounds: list[float], tensor: Tensor, generator: torch.Generator) -> None:
    for part, bound in zip(tensor if len(bounds) > 1 else (tensor,), bounds, strict=True):
        part.uniform_(-bound, bound, generator=generator)


def _checked(std: float) -> float:
    if not 0 <= std <= LARGEST:
        raise ValueError(f"init_std and init_scale must give a standard deviation of 0 to {LARGEST:g}, got {std}")
    return std


def parameter(shape: tuple[int, ...], initial: Initial, role: str) -> nn.Parameter:
    """A parameter of `shape` that `initialise` fills by `initial` and routing sends where `role` goes.

    The last two axes are a matrix, a leading axis a batch of independent matrices.
    """
    born: Any = nn.Parameter(torch.empty(shape))
    born.initial, born.role = initial, role
    return born


def declare_factors(left: nn.Parameter, right: nn.Parameter) -> None:
    """Say that the matrices in use are the products left @ right; (..., m, r) and (..., r, n)."""
    left.right_factor = right  # type: ignore[attr-defined]


def declare_lr_scale(module: nn.Module, scale: float) -> None:
    """Say that the parameters of a module train at their role's learning rate times `scale`."""
    for p in module.parameters():
        p.lr_scale = scale  # type: ignore[attr-defined]


def lr_scale(parameter: nn.Parameter) -> float:
    """The declared factor of a parameter's learning rate, 1 if none was."""
    return vars(parameter).get("lr_scale", 1.0)


class Component(nn.Module):
    """A module of which copies, moves and loads keep what was declared of parameters: role, initial value, rate, partner."""

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"declared": {name: vars(p) for name, p in self.named_parameters()}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        declared = state.pop("declared")
        super().__setstate__(state)
        for name, p in self.named_parameters():
            vars(p).update(declared[name])

    def _apply(self, fn: Any, recurse: bool = True) -> Any:  # `to` and its like
        with _redeclared(self):
            return super()._apply(fn, recurse)

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        with _redeclared(self):
            return super().load_state_dict(state_dict, strict, assign)


@contextmanager
def _redeclared(module: nn.Module) -> Iterator[None]:
    """Hand what was declared of parameters on to those that torch puts in their places within."""
    before = dict(module.named_parameters())
    yield
    after = {name: p for name, p in module.named_parameters() if name in before and p is not before[name]}
    successors = {id(before[name]): p for name, p in after.items()}
    for name, p in after.items():
        vars(p).update({key: successors.get(id(value), value) for key, value in vars(before[name]).items()})


def named_roles(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, str]]:
    """Name, parameter and role of each parameter: as declared, `embedding` for torch's own tables, else by the number of axes.

    ConfigError for an undeclared one of more than two axes, of which nobody has said what its matrices are.
    """
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)]
    in_tables = {id(parameter) for table in tables for parameter in table.parameters(recurse=False)}
    by_axes = {0: "scalar", 1: "scalar", 2: "matrix"}
    for name, parameter in model.named_parameters():
        undeclared = "embedding" if id(parameter) in in_tables else by_axes.get(parameter.ndim)
        role = vars(parameter).get("role", undeclared)
        if role is None:
            raise ConfigError(
                f"{name}: a parameter of more than two axes needs a role, got shape {tuple(parameter.shape)}; "
                "allowed are those that ramen.nn.parameter.parameter makes"
            )
        yield name, parameter, role


def generator(seed: int, name: str) -> torch.Generator:
    """A CPU generator of its own for each (seed, name)."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@runtime_checkable
class Resettable(Protocol):
    """A module from elsewhere that fills its own parameters, as torch's do."""

    def reset_parameters(self) -> None: ...


@torch.no_grad()
def initialise(model: nn.Module, seed: int) -> None:
    """Fill every parameter from (seed, its name), on the CPU, so that every device starts from the same values.

    A module from elsewhere (an nn.Linear, say) is reset by its own `reset_parameters` under a seed of its own name.
    """
    for name, owner in model.named_modules():
        if all("initial" in vars(value) for value in owner.parameters(recurse=False)):
            continue
        if not isinstance(owner, Resettable):
            raise TypeError(
                f"{name or type(owner).__name__}: parameters need ramen.nn.parameter.parameter or reset_parameters()"
            )
        with torch.random.fork_rng():
            torch.manual_seed(generator(seed, name).initial_seed())
            owner.reset_parameters()
    for name, value in model.named_parameters():
        initial: Any = vars(value).get("initial")
        if initial is not None:
            start = torch.empty(value.shape, dtype=torch.float32)
            initial(start, generator(seed, name))
            value.copy_(start)

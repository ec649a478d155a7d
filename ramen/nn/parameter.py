"""Parameters that say at birth how they start and which role they play.

The initial value of a parameter depends on the run's seed and on the parameter's name alone, so that two methods or two
architectures share every weight they have in common. The role decides which optimizer group it joins (conf/routing).
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

LARGEST = 1e30  # of initial values: far from float32's end
Initial = Callable[[Tensor, torch.Generator], Tensor]


def constant(value: float) -> Initial:
    """Every element `value`. ValueError for one that float32 cannot hold."""
    if not abs(value) <= LARGEST:
        raise ValueError(f"a number that a parameter starts at must be in [-{LARGEST:g}, {LARGEST:g}], got {value}")
    return lambda tensor, generator: tensor.fill_(value)


def normal(std: float) -> Initial:
    """Independent normal elements of mean 0; a std of 0 gives zeros. ValueError below."""
    _check_std(std)
    return lambda tensor, generator: tensor.normal_(0.0, std, generator=generator) if std else tensor.zero_()


def uniform(std: float) -> Initial:
    """Independent uniform elements of mean 0 and standard deviation `std`; 0 gives zeros. ValueError below."""
    _check_std(std)
    bound = math.sqrt(3.0) * std
    return lambda tensor, generator: tensor.uniform_(-bound, bound, generator=generator) if std else tensor.zero_()


def _check_std(std: float) -> None:
    if not 0 <= std <= LARGEST:
        raise ValueError(f"init_std and init_scale must give a standard deviation of 0 to {LARGEST:g}, got {std}")


def stacked(*initials: Initial) -> Initial:
    """One initial value for each entry of the leading axis."""

    def fill(tensor: Tensor, generator: torch.Generator) -> Tensor:
        for part, initial in zip(tensor, initials, strict=True):
            initial(part, generator)
        return tensor

    return fill


def parameter(shape: tuple[int, ...], initial: Initial, role: str) -> nn.Parameter:
    """A parameter of `shape` that `initialise` fills by `initial` and routing sends where `role` goes.

    The last two axes are a matrix, leading axes a batch of independent matrices.
    """
    born = nn.Parameter(torch.empty(shape))
    born.initial, born.role = initial, role  # type: ignore[attr-defined]
    return born


def role(parameter: Tensor) -> str:
    """The declared role, or matrix / scalar by the number of axes."""
    return vars(parameter).get("role", "matrix" if parameter.ndim >= 2 else "scalar")


def declare_factors(left: nn.Parameter, right: nn.Parameter) -> None:
    """Say that the matrices in use are the products left @ right; (..., m, r) and (..., r, n)."""
    left.right_factor = right  # type: ignore[attr-defined]


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
    for name, owner in _undeclared(model):
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
            value.copy_(initial(torch.empty(value.shape, dtype=torch.float32), generator(seed, name)))


def _undeclared(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        if any("initial" not in vars(value) for value in module.parameters(recurse=False)):
            yield name, module

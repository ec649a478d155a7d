"""The face of the config groups: from a config node to an object, and from a kind to its options.

`_target_` is data read from a file, so only ramen's own components (what some yaml of conf/ names), torch's optimizers, the
packages of EXTRAS and what the user opts in (`allow_targets`) are ever built. A node is never built recursively: a nested
`_target_` would make one object shared by every layer, which silently ties weights. What that leaves of Hydra's instantiate is
functools.partial, at a hundredth of its cost a call.
"""

import functools
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ramen.config.kinds import KINDS
from ramen.errors import ConfigError

EXTRAS = {"pytorch_optimizer": "pytorch-optimizer>=4.1,<5"}  # package -> what to install for it
TRUSTED = ("ramen", "torch.optim", *EXTRAS)
_HOME = Path(__file__).resolve().parents[1]  # ramen/
CONF = _HOME / "conf" if (_HOME / "conf").is_dir() else _HOME.parent / "conf"  # in a wheel it lies in the package
OPTIMIZER = ("torch.optim.optimizer", "Optimizer")
OPTIMIZERS = tuple(name for name, kind in KINDS.items() if kind.package == KINDS["optimizer"].package)


def locate(target: str, allow: Sequence[str] = (), kind: str | None = None) -> Callable[..., Any]:
    """The class or function a `_target_` names, for a section of this kind.

    ConfigError when it may not be imported or built, or cannot be: with the real reason.
    """
    allowed = (*TRUSTED, *(name for name in allow if not of_python(name)))
    if not isinstance(target, str) or not any(target.startswith(f"{prefix}.") for prefix in allowed):
        raise ConfigError(
            f"_target_: may not be built, got {target!r}; allowed are {', '.join(p + '.*' for p in allowed)}"
        )
    module, _, name = target.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except Exception as error:  # whatever a module raises while it is imported is the user's answer
        problem = f"cannot be imported: {type(error).__name__}: {error}"
        if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
            problem = f"needs a package that is not installed: pip install '{EXTRAS[error.name]}'"
        raise ConfigError(f"_target_: {target!r} {problem}") from error
    home = str(getattr(found, "__module__", ""))
    if not callable(found) or not any(f"{home}.".startswith(f"{prefix}.") for prefix in allowed):
        raise ConfigError(f"_target_: {target!r} is not a class or function of {' or '.join(allowed)}")
    if misplaced := _misplaced(found, target, kind, allow):
        raise ConfigError(f"_target_: {target!r} {misplaced}")
    return found


def of_python(name: str) -> bool:
    """Whether a module is one of Python's own, which hold no components and can do anything."""
    return name.partition(".")[0] in ("", *sys.stdlib_module_names)


def _misplaced(found: Callable[..., Any], target: str, kind: str | None, allow: Sequence[str]) -> str | None:
    """Why this is no component for a section of this kind: a function that deletes a folder is in ramen, too."""
    if target.startswith("ramen."):
        own = components(kind)
        return (
            None if target in own else f"is no component for {kind or 'a config'}; allowed are {', '.join(sorted(own))}"
        )
    opted_in = any(target.startswith(f"{name}.") for name in allow)
    if kind in OPTIMIZERS or not opted_in:
        if kind not in (*OPTIMIZERS, None):
            return f"is no component for {kind}"
        if not any((base.__module__, base.__name__) == OPTIMIZER for base in getattr(found, "__mro__", ())):
            return "is not a torch.optim.Optimizer"
    elif kind != "schedule" and not isinstance(found, type):
        return "is not a class"
    return None


@functools.cache
def components(kind: str | None = None) -> frozenset[str]:
    """The targets of ramen's own that a section may name: those that the yamls of its kind do; without a kind those of all."""
    of = KINDS if kind is None else OPTIMIZERS if kind in OPTIMIZERS else (kind,)
    return frozenset(option.target for one in of for option in options(one).values() if option.target)


def factory(node: Mapping[str, Any], allow: Sequence[str] = ()) -> Callable[..., Any]:
    """A function of the run-time (positional) arguments that builds `node` anew on each call."""
    plain = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else node
    return functools.partial(locate(plain["_target_"], allow), **{k: v for k, v in plain.items() if k != "_target_"})  # type: ignore


def build(node: Mapping[str, Any], *runtime: Any, allow: Sequence[str] = ()) -> Any:
    """The object of `node`, given the run-time arguments its constructor takes by position."""
    return factory(node, allow)(*runtime)


@dataclass(frozen=True)
class Option:
    """One file of a config group: its name, its first comment line, and its `_target_` (None for a composition)."""

    name: str
    summary: str
    target: str | None


def options(kind: str) -> dict[str, Option]:
    """Every option of a config group, by name."""
    found = {}
    for path in sorted((CONF / kind).glob("*.yaml")):
        text = path.read_text()
        comment = re.search(r"^#\s*(?!@package)(.+)$", text, re.MULTILINE)
        target = re.search(r"^_target_:\s*(\S+)", text, re.MULTILINE)
        found[path.stem] = Option(path.stem, comment[1] if comment else "", target[1] if target else None)
    return found

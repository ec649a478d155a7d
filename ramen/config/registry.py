"""From a config node to an object, and from a kind to its options.

`_target_` is data read from a file: only ramen's components (what a yaml of conf/ names), optimizers of torch and of the packages
of EXTRAS, and what the user opts in by `allow_targets` are imported and built, each only for a section of its kind. A node is
never built recursively: a nested `_target_` would make one object shared by every layer, which ties weights silently.
"""

import functools
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ramen.config.kinds import KINDS
from ramen.errors import ConfigError, suggest

EXTRAS = {"pytorch_optimizer": "pytorch-optimizer>=4.1,<5"}  # package -> what to install for it
FOREIGN = ("torch.optim", *EXTRAS)  # packages of optimizers
OPTIMIZERS = tuple(name for name, kind in KINDS.items() if kind.package == KINDS["optimizer"].package)
_PACKAGE = Path(__file__).resolve().parents[1]
CONF = (
    _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"
)  # in a wheel it is in the package


def locate(target: Any, allow: Sequence[str] = (), kind: str | None = None) -> Callable[..., Any]:
    """The class or function a `_target_` names, for a section of this kind. Nothing is imported that the kind does not allow.

    ConfigError when it may not be built or cannot be imported, with the reason.
    """
    packages = [name for name in allow if not of_python(name)]
    shipped, opted_in = isinstance(target, str) and target in components(kind), _below(target, packages)
    if not shipped and not opted_in and not (kind in (*OPTIMIZERS, None) and _below(target, FOREIGN)):
        known = components(kind) if kind else ()
        raise ConfigError(
            f"_target_: may not be built for {kind or 'a config'}, got {target!r}{suggest(target, known)}"
        )
    module, _, attribute = target.rpartition(".")
    try:
        found: Any = getattr(import_module(module), attribute)
    except Exception as error:  # whatever a module raises while it is imported is the user's answer
        problem: str | None = f"cannot be imported: {type(error).__name__}: {error}"
        if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
            problem = f"needs a package that is not installed: pip install '{EXTRAS[error.name]}'"
        raise ConfigError(f"_target_: {target!r} {problem}") from error
    if not shipped:
        optimizer = kind in OPTIMIZERS or not opted_in
        if problem := _unfit(found, packages if opted_in else FOREIGN, optimizer, kind == "schedule"):
            raise ConfigError(f"_target_: {target!r} {problem}")
    return found


def _unfit(found: Any, packages: Iterable[str], optimizer: bool, function: bool) -> str | None:
    """Why an object of other packages is no component: it must be a class of theirs, or a function where schedules stand."""
    if not callable(found) or not _below(f"{getattr(found, '__module__', '')}.", packages):
        return "is not a class or function of that package"
    bases = {f"{base.__module__}.{base.__name__}" for base in getattr(found, "__mro__", ())}
    if optimizer and "torch.optim.optimizer.Optimizer" not in bases:
        return "is not a torch.optim.Optimizer"
    return None if bases or function else "is not a class"


def _below(target: Any, packages: Iterable[str]) -> bool:
    return isinstance(target, str) and any(target.startswith(f"{package}.") for package in packages)


def of_python(name: str) -> bool:
    """Whether a module is one of Python's own, which hold no components and can do anything."""
    return name.partition(".")[0] in ("", *sys.stdlib_module_names)


@functools.cache
def components(kind: str | None = None) -> frozenset[str]:
    """The targets that yamls of conf/ name for a kind, or for all kinds: ramen's components, and other packages' by name."""
    same = [name for name, one in KINDS.items() if kind is None or one.package == KINDS[kind].package]
    return frozenset(option.target for name in same for option in options(name).values() if option.target)


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

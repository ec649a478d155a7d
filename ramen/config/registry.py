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

from ramen.config.kinds import KINDS
from ramen.errors import ConfigError, suggest

EXTRAS = {"pytorch_optimizer": "pytorch-optimizer>=4.1,<5"}  # package -> what to install for it
FOREIGN = ("torch.optim", *EXTRAS)  # packages of optimizers
OPTIMIZERS = tuple(name for name, kind in KINDS.items() if kind.package == KINDS["optimizer"].package)
_PARENTS = Path(__file__).resolve().parents
CONF = next(path for path in (_PARENTS[1] / "conf", _PARENTS[2] / "conf") if path.is_dir())  # first: in a wheel


def locate(target: Any, allow: Sequence[str] = (), kind: str | None = None) -> Callable[..., Any]:
    """The class or function a `_target_` names, for a section of this kind. Nothing is imported that the kind does not allow.

    ConfigError when it may not be built or cannot be imported, with the reason.
    """
    packages = [name for name in allow if not of_python(name)]
    shipped, opted_in = isinstance(target, str) and target in components(kind), _below(target, packages)
    if not shipped and not opted_in and not (kind in (*OPTIMIZERS, None) and _below(target, FOREIGN)):
        hint = suggest(target, components(kind) if kind else ())
        raise ConfigError(f"_target_: may not be built for {kind or 'a config'}, got {target!r}{hint}")
    module, _, attribute = target.rpartition(".")
    try:
        component: Any = getattr(import_module(module), attribute)
    except Exception as error:  # whatever a module raises while it is imported is the user's answer
        problem: str | None = f"cannot be imported: {type(error).__name__}: {error}"
        if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
            problem = f"needs a package that is not installed: pip install '{EXTRAS[error.name]}'"
        raise ConfigError(f"_target_: {target!r} {problem}") from error
    if shipped:
        return component
    bases = {f"{base.__module__}.{base.__name__}" for base in getattr(component, "__mro__", ())}
    if not callable(component) or not _below(f"{component.__module__}.", packages if opted_in else FOREIGN):
        problem = "is not a class or function of that package"
    elif (kind in OPTIMIZERS or not opted_in) and "torch.optim.optimizer.Optimizer" not in bases:
        problem = "is not a torch.optim.Optimizer"
    else:
        problem = None if bases or kind == "schedule" else "is not a class"
    if problem:
        raise ConfigError(f"_target_: {target!r} {problem}")
    return component


def _below(target: Any, packages: Iterable[str]) -> bool:
    return isinstance(target, str) and any(target.startswith(f"{package}.") for package in packages)


def of_python(name: str) -> bool:
    """True for a module of Python's own: they hold no components and can do anything."""
    return name.partition(".")[0] in ("", *sys.stdlib_module_names)


@functools.cache
def components(kind: str | None = None) -> frozenset[str]:
    """The targets that yamls of conf/ name for a kind, or for all kinds: ramen's components, and other packages' by name."""
    same = [name for name, one in KINDS.items() if kind is None or one.package == KINDS[kind].package]
    return frozenset(option.target for name in same for option in options(name).values() if option.target)


def factory(node: Mapping[str, Any], allow: Sequence[str] = ()) -> Callable[..., Any]:
    """A function of the run-time (positional) arguments that builds `node` anew on each call."""
    return functools.partial(locate(node["_target_"], allow), **{k: v for k, v in node.items() if k != "_target_"})


def build(node: Mapping[str, Any], *runtime: Any, allow: Sequence[str] = ()) -> Any:
    """The object of `node`, given the run-time arguments its constructor takes by position."""
    return factory(node, allow)(*runtime)


@dataclass(frozen=True)
class Option:
    """One file of a config group: its first comment line, and its `_target_` (None for a composition)."""

    summary: str
    target: str | None


def options(kind: str) -> dict[str, Option]:
    """Every option of a config group, by name."""
    files = {}
    for path in sorted((CONF / kind).glob("*.yaml")):
        text = path.read_text()
        comment = re.search(r"^#\s*(?!@package)(.+)$", text, re.MULTILINE)
        target = re.search(r"^_target_:\s*(\S+)", text, re.MULTILINE)
        files[path.stem] = Option(comment[1] if comment else "", target[1] if target else None)
    return files

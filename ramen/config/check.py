"""Checks a config against the signatures of what it will build, before anything heavy.

Every keyword-only parameter of a `_target_` is a key of its yaml, every key is such a parameter, and every value fits the
parameter's annotation. All problems are reported at once. A key `<hyperparameter>_schedule` holds a schedule node: a multiplier
of that hyperparameter over the run's progress.
"""

import hashlib
import inspect
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Any, Literal, get_type_hints

from annotated_types import Ge, Interval

from ramen.config import secret
from ramen.config.kinds import SECTIONS
from ramen.config.registry import locate, of_python
from ramen.config.suggestions import suggest_key
from ramen.errors import ConfigError, suggest

SCHEDULE_SUFFIX = "_schedule"
NO_TEXT = "must be text that a file can be named by, without NUL and lone surrogates"
FOLDER_NAME = re.compile(r"(?!\.)[\w.,=@+-]{1,100}", re.ASCII)
# Names, places, loggers and the speed of loading do not change what is computed.
NOT_HASHED = (
    "name", "logger", "diagnostics", "resume", "data.folder", "data.workers", "data.downloads", "device", "threads",
    "trainer.stop_after_steps", "trainer.checkpoint_every_steps", "trainer.checkpoint_at_end", "trainer.keep_checkpoints",
    "trainer.keep_best", "trainer.prefetch_batches",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """The keys of the root that belong to no component."""

    seed: Annotated[int, Interval(ge=0, lt=2**63)]
    name: str
    device: str
    precision: Literal["auto", "fp32", "bf16"]
    compile: Literal["auto", "on", "off", "regional"]
    threads: Annotated[int, Ge(1)] | None
    resume: str | None
    allow_targets: list[str]


def settings(config: Mapping[str, Any]) -> Settings:
    """The root's own keys of a checked config."""
    return Settings(**{key: config[key] for key in get_type_hints(Settings)})


def check(config: dict[str, Any]) -> None:
    """Raise one ConfigError with every problem of a plain (resolved) config. Whole floats become ints in place."""
    problems = []
    hints, allow = get_type_hints(Settings, include_extras=True), config.get("allow_targets")
    packages = [name for name in allow if isinstance(name, str)] if isinstance(allow, list) else []
    known = [*hints, *SECTIONS]
    leaves = flatten({name: config[name] for name in known if name in config})
    for key, value in config.items():
        if key in hints:
            problems += _check_value(config, key, key, value, hints[key])
        elif key not in SECTIONS:
            problems.append(f"{key}: no such key{suggest_key(key, known, leaves)}")
        elif isinstance(value, dict) and "_target_" in value:
            problems += check_node(value, key, SECTIONS[key], packages, leaves)
        else:
            hint = f"; choose one by schedule@{key}=NAME" if key.endswith(SCHEDULE_SUFFIX) else ""
            problems.append(f"{key}: must be a section with a _target_, got {value!r}{hint}")
    problems += [f"{key}: is missing" for key in known if key not in config]
    name = config.get("name")
    if isinstance(name, str) and not FOLDER_NAME.fullmatch(name):
        problems.append(
            f"name: must name one folder, got {name!r}; allowed are letters, digits and _.,=@+-, no dot first"
        )
    if refused := sorted(filter(of_python, packages)):
        problems.append(f"allow_targets: Python's own modules hold no components, got {', '.join(map(repr, refused))}")
    problems += secret.problems(flatten(config).items())
    if problems:
        raise ConfigError(*problems)


def check_node(
    node: dict[str, Any], path: str, kind: str, allow: Sequence[str] = (), leaves: Iterable[str] = ()
) -> list[str]:
    """The problems of one component's node; `path` is its place in the config, which has these leaves."""
    try:
        target = locate(node["_target_"], allow, kind)
    except ConfigError as error:
        return [f"{path}.{problem}" for problem in error.problems]
    known, required = parameters(target)
    problems = []
    for key, value in node.items():
        where, scheduled = f"{path}.{key}", str(key).removesuffix(SCHEDULE_SUFFIX)
        if key == "_target_":
            continue
        if key in known:
            problems += _check_value(node, key, where, value, known[key])
        elif scheduled not in known:
            others = (leaf for leaf in leaves if leaf != where)
            problems.append(f"{where}: no such key{suggest_key(key, known, others)}")
        elif getattr(known[scheduled], "__origin__", known[scheduled]) in (int, bool):  # Annotated: without the range
            problems.append(f"{where}: only a number can follow a schedule, and no count or switch")
        elif _is_schedule(key, value):
            problems += check_node(value, where, "schedule", allow)
        else:
            problems.append(f"{where}: must be a schedule, got {value!r}; choose one, as schedule@{where}=constant")
    problems += [f"{path}.{key}: is missing" for key in sorted(required - node.keys())]
    return problems


def parameters(target: Callable[..., Any]) -> tuple[dict[str, Any], set[str]]:
    """The keys of a target's config: name -> annotation, and the names without a default.

    ramen's components take config by keyword only, and a constructor with `**base` takes its base class's keywords too; a
    component of another package takes any named parameter but the first.
    """
    if not getattr(target, "__module__", "").startswith("ramen."):
        kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        foreign = [p for p in inspect.signature(target).parameters.values() if p.kind in kinds]
        return {p.name: _like(p.default) for p in foreign[1:]}, set()
    known: dict[str, Any] = {}
    required: set[str] = set()
    for function in _constructors(target):
        hints, spec = get_type_hints(function, include_extras=True), inspect.getfullargspec(function)
        new = [name for name in spec.kwonlyargs if name not in known]
        known |= {name: hints.get(name, Any) for name in new}
        required |= {*new} - {*(spec.kwonlydefaults or ())}
    return known, required


def _like(default: Any) -> Any:
    """The annotation that a default of another package implies: so many numbers, these choices, else Any."""
    from pydantic import conlist  # here, as it takes longer than --help may

    if isinstance(default, tuple):
        return conlist(float, min_length=len(default), max_length=len(default))
    return Literal[tuple(map(int, type(default)))] if isinstance(default, IntEnum) else Any


def _constructors(target: Callable[..., Any]) -> list[Callable[..., Any]]:
    """A function itself; a class's constructor and, as long as it passes on `**base`, those of ramen's classes above it."""
    if not inspect.isclass(target):
        return [target]
    constructors = []
    for owner in target.__mro__:
        if owner.__module__.startswith("ramen.") and "__init__" in vars(owner):
            constructors.append(vars(owner)["__init__"])
            if not inspect.getfullargspec(constructors[-1]).varkw:
                break
    return constructors


def _check_value(node: dict[str, Any], key: str, where: str, value: Any, annotation: Any) -> list[str]:
    for leaf in _leaves(value):
        if isinstance(leaf, float) and not math.isfinite(leaf):
            return [f"{where}: must be finite, got {value!r}"]
        if isinstance(leaf, str) and not is_text(leaf):
            return [f"{where}: {NO_TEXT}, got {value!r}"]
    if value == "???":
        return [f"{where}: must be given, got nothing; write {where}=VALUE"]
    complaint = _complaint(value, annotation)
    if complaint and isinstance(value, float) and value.is_integer() and not _complaint(int(value), annotation):
        node[key], complaint = int(value), None  # 5e6 tokens is how people write five million
    return [f"{where}: {complaint}, got {value!r}"] if complaint else []


def _complaint(value: Any, annotation: Any) -> str | None:
    """pydantic's message for a value that does not fit, else None. Strict: true is no number, and "3" is no 3."""
    from pydantic import TypeAdapter, ValidationError

    try:
        TypeAdapter(annotation).validate_python(value, strict=True)
    except ValidationError as error:
        return "; ".join(dict.fromkeys(_explain(problem, value) for problem in error.errors(include_url=False)))
    return None


def _explain(problem: Mapping[str, Any], value: Any) -> str:
    if problem["type"] == "literal_error" and isinstance(problem["input"], str):
        allowed = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
        return f"no such choice{suggest(problem['input'], allowed)}"
    inside = ".".join(str(part) for part in problem["loc"] if isinstance(value, dict) and part in value)
    if problem["type"] == "extra_forbidden" and inside in value:
        return f"no such key {inside!r}{suggest(inside, [key for key in value if key != inside])}"
    message = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{inside} {message}".strip()


def is_text(value: str) -> bool:
    """True if a value can be written to a file and name one: yaml's "\\0" and half a surrogate pair cannot."""
    try:
        return b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _leaves(part)
    else:
        yield value


def _is_schedule(key: Any, value: Any) -> bool:
    return str(key).endswith(SCHEDULE_SUFFIX) and isinstance(value, Mapping) and "_target_" in value


def schedules(node: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Hyperparameter -> schedule node, for the `<hyperparameter>_schedule` keys of an optimizer's node."""
    return {key.removesuffix(SCHEDULE_SUFFIX): value for key, value in node.items() if _is_schedule(key, value)}


def without_schedules(node: Mapping[str, Any]) -> dict[str, Any]:
    """The node as its constructor takes it."""
    return {key: value for key, value in node.items() if not _is_schedule(key, value)}


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'optimizer': {'lr': 1}} -> {'optimizer.lr': 1}."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def computed(key: str) -> bool:
    """True if the value of a dotted key changes what is computed."""
    return key not in NOT_HASHED and key.partition(".")[0] not in NOT_HASHED


def config_hash(config: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that name what is computed: equal for runs that differ in name, folder or logger only."""
    values = {key: value for key, value in flatten(config).items() if computed(key)}
    return hashlib.sha256(json.dumps(_whole(values), sort_keys=True).encode()).hexdigest()[:12]


def _whole(value: Any) -> Any:
    """1.0 is 1, so that a config has one hash before and after `check`."""
    if isinstance(value, dict | list):
        return {k: _whole(v) for k, v in value.items()} if isinstance(value, dict) else [_whole(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value

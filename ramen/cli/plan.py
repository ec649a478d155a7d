"""The jobs of a sweep, checked before the first of them runs."""

import copy
import math
from collections.abc import Iterable
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, OverrideType, RangeSweep
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ramen.cli.command import CommandLine, quoted
from ramen.config.check import NO_TEXT, check, config_hash, is_text
from ramen.config.compose import Composer, located, plain, sweep_values
from ramen.config.kinds import COMPOSITIONS
from ramen.errors import ConfigError

MOST_JOBS = 1000


def planned(command: CommandLine, composer: Composer) -> tuple[CommandLine, Path]:
    """The command of a sweep as Hydra is to run it, and its folder. ConfigError names all that is wrong with its values."""
    overrides = composer.parse(command.overrides)
    _refuse_unclear(overrides)
    constant = [o for o in overrides if not o.is_sweep_override()]
    chosen = composer.compose(_lines(o for o in constant if o.is_hydra_override() or "." not in _place(o)))
    params = chosen.hydra.sweeper.get("params") or {}  # of the file that `sweep=NAME` names
    by_key = {o.get_key_element(): o for o in (*composer.parse(f"{k}={v}" for k, v in params.items()), *overrides)}
    swept = [o for o in by_key.values() if o.is_sweep_override()]
    _refuse_too_many(swept)
    # Hydra first composes the config that all jobs share, where the keys of swept options are not there yet. A choice of one
    # value waits for the jobs.
    sections = {_section(o) for o in swept}
    late = [o for o in constant if "." in _place(o) and {_section(o), *COMPOSITIONS} & sections and not o.is_delete()]
    config = composer.compose(_lines(o for o in constant if o not in late))
    folder = str(config.hydra.sweep.dir)
    if not is_text(folder):
        raise ConfigError(f"hydra.sweep.dir: {NO_TEXT}, got {folder!r}")
    intervals = _lines(o for o in swept if isinstance(o.value(), IntervalSweep))
    if intervals and config.hydra.sweeper._target_.endswith("BasicSweeper"):
        remedy = "add sweep=optuna, or give values or range(a,b,step)"
        raise ConfigError(*(f"{line}: an interval is for a search; {remedy}" for line in intervals))
    jobs = _check_values(by_key, composer)
    if config.hydra.launcher._target_.endswith("BasicLauncher"):  # else the jobs may run on another kind of machine
        _refuse_for_all(jobs)
    lines = [
        f"{o.get_key_element()}=choice({o.get_value_element_as_str()})" if o in late else o.input_line or ""
        for o in overrides
    ]
    if swept:  # what all jobs share is left out of the names of their folders
        excluded = config.hydra.job.config.override_dirname.exclude_keys
        names = [*excluded, *(o.get_key_element().lstrip("+~") for o in constant)]
        lines.append(f"hydra.job.config.override_dirname.exclude_keys=[{','.join(names)}]")
    lines.append(f"hydra.sweep.dir={quoted(Path(folder))}")
    return CommandLine(command.options, tuple(lines)), Path(folder)


def _lines(overrides: Iterable[Override]) -> list[str]:
    return [override.input_line or "" for override in overrides]


def _place(override: Override) -> str:
    """The key that an override sets, or the place of its option."""
    return override.package or override.key_or_group


def _section(override: Override) -> str:
    return _place(override).partition(".")[0]


def _refuse_unclear(overrides: list[Override]) -> None:
    """ConfigError for overrides of which Hydra would run less than they say."""
    problems: dict[str, None] = {}
    for override in overrides:
        key = override.get_key_element()
        same = [o for o in overrides if o.get_key_element() == key]
        swept = any(o.is_sweep_override() for o in same)
        if swept and len(same) > 1:
            problems[f"{key}: is given twice in a sweep, got {' '.join(_lines(same))}; leave out all but one"] = None
        if swept and key == "sweep":
            problems[f"{key}: names one sweep, got {override.input_line}; start them one by one"] = None
        if swept and override.is_hydra_override():
            problems[f"{key}: is the same for all jobs, got {override.input_line}; give one value"] = None
    if problems:
        raise ConfigError(*problems)


def _refuse_too_many(swept: Iterable[Override]) -> None:
    """ConfigError for more than MOST_JOBS jobs, counted without a list of them, or for none."""
    jobs = 1
    for override in swept:
        try:
            values = override.value()
            if isinstance(values, RangeSweep):
                start, stop, step = (Fraction(str(number)) for number in (values.start, values.stop, values.step))
                count = math.ceil((stop - start) / step)
            else:
                count = 1 if isinstance(values, IntervalSweep) else len(list(sweep_values(override)))
        except (ArithmeticError, ValueError) as error:  # a step of 0, an end without end
            raise ConfigError(
                f"{override.input_line}: is no range; write range(START,STOP,STEP) of finite numbers, the step not 0"
            ) from error
        if count < 1:
            raise ConfigError(f"{override.input_line}: holds no value; at least one is needed")
        jobs *= count
    if jobs > MOST_JOBS:
        raise ConfigError(
            f"hydra.sweep: has too many jobs, got {jobs:,}; allowed are {MOST_JOBS:,}; start parts in one hydra.sweep.dir"
        )


def _check_values(overrides: dict[str, Override], composer: Composer) -> list[dict[str, Any]]:
    """The config of the first job, and of one job for every other value. ConfigError names all that is wrong with them."""
    first = {key: next(sweep_values(override)) for key, override in overrides.items()}
    config = composer.compose(list(first.values()))
    variants = [(key, word) for key, override in overrides.items() for word in islice(sweep_values(override), 1, None)]
    problems: dict[str, None] = {}
    jobs: list[dict[str, Any]] = []
    seen: dict[tuple[str, str], str] = {}  # (key, hash of the config) -> the value that led to it
    for key, word in [("", ""), *variants]:
        try:
            values = plain(_with_value(word, config, first | {key: word}, composer) if word else config)
            check(values)
        except ConfigError as error:
            new = (line for line in error.problems if line not in problems)
            problems |= {line if line.startswith(f"{key}:") else f"{line}; in jobs with {word}": None for line in new}
            continue
        jobs.append(values)
        digest = config_hash(values)
        twin = first.get(key) if ("", digest) in seen else seen.get((key, digest))
        seen[key, digest] = word
        if twin:
            line = f"{key}: does not change the result, got {twin} and {word}, which would be one job; leave out one"
            problems[line] = None
    if problems:
        raise ConfigError(*problems)
    return jobs


def _with_value(word: str, config: DictConfig, overrides: dict[str, str], composer: Composer) -> DictConfig:
    """The first job's config with another value; composed anew where that can change other values."""
    [override] = composer.parse([word])
    if override.type is not OverrideType.CHANGE or composer.options(override.key_or_group):
        return composer.compose(list(overrides.values()))
    config = copy.deepcopy(config)
    try:
        OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{word}: {located(error)}") from error
    return config


def _refuse_for_all(jobs: list[dict[str, Any]]) -> None:
    """ConfigError for what is wrong with every job: it is the constant part of the command. Others fail alone."""
    from ramen.build.run import validate

    problems = set()
    for job in jobs:
        try:
            validate(job)
            return
        except ConfigError as error:
            problems.add(error.problems)
        if len(problems) > 1:
            return
    raise ConfigError(*problems.pop())

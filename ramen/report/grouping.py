"""Runs to methods: which keys make a method and which is the baseline; a method's settings, its seeds and its tuning."""

import difflib
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd

from ramen.config.check import computed
from ramen.config.kinds import COMPOSITIONS, KINDS
from ramen.errors import DataError
from ramen.report.formatting import listed, value_text
from ramen.report.statistics import Spread, luck_of_choice, spread
from ramen.runs.read import Run, Value, series

METHOD_KINDS = tuple(name for name, kind in KINDS.items() if kind.report == "method")
CONTEXT_KINDS = tuple(name for name, kind in KINDS.items() if kind.report == "context")
EXPERIMENT = "experiment"
ABSENT = "(absent)"
MOST_CONFIG_KEYS = 3  # more varying keys than this are a search, not a comparison
LR = "optimizer.lr"
LOSS, PER_BYTE = "final_val_loss", "final_val_bits_per_byte"
MOST_DRAWN = 9  # methods in a picture: eight colours and the baseline's
LEAST_SEEDS = 3  # for a verdict without reserve
HIGHER_IS_BETTER = {"tokens_per_second", "mfu"}
COST_METRICS = {"tokens_per_second", "mfu", "train_seconds", "peak_memory", "evaluation_seconds", "compile_seconds"}

Seed = int | str
Setting = tuple[tuple[str, Value], ...]  # the values a method was tuned over, for example (("optimizer.lr", 0.02),)


class Method:
    """Runs that share the values of the grouping keys.

    `settings` holds the finished runs with a finite metric by setting and seed, and no run of a setting where all diverged;
    `chosen` is the setting shown, `chosen_runs` its runs (`only_fresh`: those at seeds that it was not chosen on).
    """

    def __init__(self, label: str, values: tuple[Value, ...], runs: list[Run], metric: str, keys: list[str]):
        self.label, self.values, self.runs, self.metric = label, values, runs, metric
        self.settings: dict[Setting, dict[Seed, Run]] = {}
        self.repeats = 0  # finished runs replaced by a newer run of the same setting and seed
        for run in runs:  # the last by folder name counts
            if self.usable(run) or run.status == "diverged":
                by_seed = self.settings.setdefault(tuple((key, run.value(key)) for key in keys), {})
                if self.usable(run):
                    self.repeats += run.pairing in by_seed
                    by_seed[run.pairing] = run
        self.chosen = self.best(self.settings)
        self.chosen_runs = {} if self.chosen is None else self.settings[self.chosen]
        self.only_fresh = False

    @property
    def fresh_runs(self) -> dict[Seed, Run]:
        """Runs of the chosen setting at seeds that no other setting ran on: the choice has not seen them."""
        seen = {run.pairing for run in self.runs if any(run.value(key) != value for key, value in self.chosen or ())}
        return {seed: run for seed, run in self.chosen_runs.items() if seed not in seen}

    def usable(self, run: Run) -> bool:
        return run.status == "finished" and math.isfinite(run.metric(self.metric))

    def best(self, settings: Iterable[Setting]) -> Setting | None:
        """The setting with the best mean among those with the most finished seeds; None of none.

        A setting whose other seeds diverged, or that was tried on one lucky seed, cannot win by its survivors.
        """
        sign = 1 if self.metric in HIGHER_IS_BETTER else -1
        ranks = {s: (len(self.settings[s]), sign * self.spread(s).mean) for s in settings if self.settings[s]}
        return max(ranks, key=ranks.__getitem__, default=None)

    def spread(self, setting: Setting | None) -> Spread:
        return spread(self._scores(self.settings[setting] if setting is not None else {}).values())

    @property
    def luck(self) -> float:
        """The share of the mean score that is owed to the choice of the setting on the same seeds (see `luck_of_choice`)."""
        others = [runs for setting, runs in self.settings.items() if setting != self.chosen]
        return luck_of_choice(self.scores, [self._scores(runs) for runs in others])

    @property
    def scores(self) -> dict[Seed, float]:
        return self._scores(self.chosen_runs)

    def _scores(self, runs: dict[Seed, Run]) -> dict[Seed, float]:
        return {seed: run.metric(self.metric) for seed, run in runs.items()}

    @property
    def setting_text(self) -> str:
        """`lr=0.02`, with the first other values the method was tuned over; the rest is in runs.csv."""
        parts = [f"{key.removeprefix('optimizer.')}={value_text(value)}" for key, value in self.chosen or ()]
        return ", ".join(parts[:4]) + (" ..." if len(parts) > 4 else "")

    def losses(self, run: Run, axis: str, kind: str = "val_loss") -> tuple[np.ndarray, np.ndarray]:
        """A run's loss against `axis`: nats a token, or bits a byte where methods are ranked by those."""
        x, loss = series(run.curve, axis, kind)
        return (x, loss * run.metric(PER_BYTE) / run.metric(LOSS)) if self.metric == PER_BYTE else (x, loss)

    def count(self, status: str) -> int:
        return sum(run.status == status for run in self.runs)


def group(runs: list[Run], by: list[str], metric: str) -> list[Method]:
    """Methods by label, each sorted into settings and seeds.

    Where the chosen setting of every method that was tuned ran again on fresh seeds, those alone are shown and compared.
    """
    groups: dict[tuple[Value, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(map(run.value, by)), []).append(run)
    methods = [
        Method(_label(values, by, runs), values, members, metric, setting_keys(members, by))
        for values, members in groups.items()
    ]
    tuned = [method for method in methods if method.chosen is not None and len(method.settings) > 1]
    if tuned and all(len(method.fresh_runs) >= LEAST_SEEDS for method in tuned):
        for method in methods:
            method.chosen_runs, method.only_fresh = method.fresh_runs, True
    return sorted(methods, key=lambda method: method.label)


def setting_keys(runs: list[Run], by: list[str]) -> list[str]:
    """Keys that vary in a method's runs besides the seed; the learning rate first, whether it varies or not."""
    grouped = {LR, *by, *(f"{key}._target_" for key in by)}
    keys = [key for key in (*varying_choices(runs), *varying(runs)) if key not in grouped]
    return keys if LR in by else [LR, *keys]


def matters(key: str) -> bool:
    """True for a config key that can make methods differ: not the seed, names, places and how often is measured."""
    return computed(key) and key != "seed" and not key.endswith("every_steps")


def varying(runs: list[Run]) -> list[str]:
    """Config keys that matter and do not have one value in all runs, in the order of the config.

    A key that is a mapping in one run and a value or null in another is compared as a whole.
    """
    keys = dict.fromkeys(key for run in runs for key in run.config if matters(key))
    parts = {key for key in keys for end in range(len(key)) if key[end] == "." and key[:end] in keys}
    # By their text: true is no 1, and a key that is absent is not one that is null.
    return [k for k in keys if k not in parts and len({repr(run.value(k, ABSENT)) for run in runs}) > 1]


def varying_choices(runs: list[Run]) -> list[str]:
    """Config groups whose chosen option is not the same in all runs that record it; a run that is not done may not."""
    recorded = [run.choices for run in runs if run.choices]
    kinds = dict.fromkeys(kind for choices in recorded for kind in choices)
    return [kind for kind in kinds if len({choices[kind] for choices in recorded if kind in choices}) > 1]


def parse_by(by: str | Iterable[str] | None, runs: list[Run]) -> list[str] | None:
    """Grouping keys from `--by a,b`; None if not given. Errors: DataError for a key that no run has."""
    if by is None:
        return None
    text = by if isinstance(by, str) else ",".join(by)
    keys = list(dict.fromkeys(key.strip() for key in text.split(",") if key.strip()))
    known = {key for run in runs for key in (*run.choices, *run.config)}
    for key in keys:
        if key not in known:
            raise DataError(f"--by: no run has the key, got {key!r}; {suggestion(key, known)}")
    return keys or None


def suggestion(word: str, known: Iterable[str]) -> str:
    """`did you mean ...?`, or the list of what there is if nothing is close."""
    known = sorted(set(known))
    by_leaf = [key for key in known if key.rsplit(".", 1)[-1] == word]
    close = list(dict.fromkeys(by_leaf + difflib.get_close_matches(word, known, n=3)))
    if close:
        return f"did you mean {' or '.join(close[:3])}?"
    return f"there is {', '.join(known[:12])}{' ...' if len(known) > 12 else ''}"


def default_by(runs: list[Run]) -> list[str]:
    """Grouping keys by what varies: experiments and method choices, else other choices, else config keys.

    A choice that follows from the ones already taken (every bam run also has another mlp) is not a second axis of
    the comparison: it stays out and the fairness checks report it. Experiments are an axis unless one method is all that
    follows from them, which is then what is compared.
    """
    choices = varying_choices(runs)
    methods, context = ([kind for kind in kinds if kind in choices] for kinds in (METHOD_KINDS, CONTEXT_KINDS))
    others = [kind for kind in choices if kind not in (*METHOD_KINDS, *CONTEXT_KINDS, *COMPOSITIONS) and computed(kind)]
    by: list[str] = []
    if EXPERIMENT in choices and sum(_follows(kind, [EXPERIMENT], runs) for kind in methods) != 1:
        by.append(EXPERIMENT)
    for kinds in (methods, context, others):
        before = len(by)
        for kind in kinds:
            if not _follows(kind, by, runs):
                by.append(kind)
        if len(by) > before:
            break
    if by:
        return by
    keys = [key for key in varying(runs) if not key.endswith((".lr", "._target_"))]
    return keys if 0 < len(keys) <= MOST_CONFIG_KEYS else ["optimizer"]


def find_baseline(name: str | None, methods: list[Method], by: list[str]) -> tuple[Method, str]:
    """The baseline and a sentence on the reason for it. Errors: DataError if `name` does not name one method."""
    if name is not None:
        named = find_method("--baseline", name, methods, by)
        return named, f"Baseline: {named.label}."
    ranked = [method for method in methods if method.chosen is not None] or methods
    adamw = [method for method in ranked if "adamw" in map(str, method.values)]
    if len(adamw) == 1:
        return adamw[0], f"Baseline: {adamw[0].label} (the default)."
    note = "none was named and there is no single adamw: first by name"
    return ranked[0], f"Baseline: {ranked[0].label} ({note})."


def find_method(option: str, name: str, methods: list[Method], by: list[str]) -> Method:
    """The method that an option of the command names. Errors: DataError if it does not name one.

    `name` is a label, or key=value for some of the grouping keys, separated by commas.
    """
    matches = [method for method in methods if method.label == name]
    pairs = [part.partition("=") for part in name.split(",")]
    if not matches and all(equals for _, equals, _ in pairs):
        wanted = {key.strip(): value.strip() for key, _, value in pairs}
        if unknown := wanted.keys() - by:
            keys = ", ".join(sorted(unknown))
            raise DataError(f"{option}: not a grouping key, got {keys!r}; the runs are grouped by {', '.join(by)}")
        values = [dict(zip(by, map(value_text, method.values), strict=True)) for method in methods]
        matches = [method for method, of in zip(methods, values, strict=True) if wanted.items() <= of.items()]
    if len(matches) == 1:
        return matches[0]
    labels = [method.label for method in matches or methods]
    if matches:
        raise DataError(f"{option}: names {len(matches)} methods, got {name!r}; name one of {listed(labels, 12)}")
    hint = suggestion(name.split("=", 1)[-1], labels)
    raise DataError(f"{option}: no such method, got {name!r}; {hint}; the methods are {listed(labels, 12)}")


def _label(values: tuple[Value, ...], by: list[str], runs: list[Run]) -> str:
    """`bam`, `bam + nff`, `layers=4`: options by their own name, other values with the last word of their key."""
    leaves = [key.rsplit(".", 1)[-1] for key in by]
    parts = []
    for key, leaf, value in zip(by, leaves, values, strict=True):
        is_option = value is not None and any(key in run.choices for run in runs)
        parts.append(f"{'' if is_option else f'{leaf if leaves.count(leaf) == 1 else key}='}{value_text(value)}")
    return " + ".join(parts) or "all runs"


def _follows(kind: str, by: list[str], runs: list[Run]) -> bool:
    seen: dict[tuple, Value] = {}
    return bool(by) and all(
        seen.setdefault(tuple(map(run.value, by)), run.value(kind)) == run.value(kind) for run in runs
    )


class LrCurve(NamedTuple):
    """Metric against learning rate; `remark` is one sentence on the tuning, `flaw` "edge", "single" or nothing.

    `points`, by increasing rate: method, lr; mean, sd and n of the best setting at that rate (NaN and 0 if every run
    diverged); the number of runs that diverged; chosen: the rate shown.
    """

    label: str
    points: pd.DataFrame
    remark: str
    flaw: str


def lr_in(setting: Setting | None) -> float | None:
    value = dict(setting or ()).get(LR)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def lr_curves(methods: list[Method]) -> list[LrCurve]:
    """The curves of the methods of which a learning rate is known."""
    curves = []
    for method in methods:
        rates, shown, points = {setting: lr_in(setting) for setting in method.settings}, lr_in(method.chosen), []
        for lr in sorted({lr for lr in rates.values() if lr is not None}):
            best = method.spread(method.best(setting for setting in rates if rates[setting] == lr))
            diverged = sum(run.status == "diverged" and run.value(LR) == lr for run in method.runs)
            points.append(
                {"method": method.label, "lr": lr, **best._asdict(), "diverged": diverged, "chosen": lr == shown}
            )
        if points:
            remark, flaw = _remark([point["lr"] for point in points], shown)
            curves.append(LrCurve(method.label, pd.DataFrame(points), f"{method.label}: {remark}", flaw))
    return curves


def _remark(rates: list[float], shown: float | None) -> tuple[str, str]:
    """Edge: the best rate is the smallest or largest tried, diverged rates included (divergence bounds the grid)."""
    if shown is None:
        return "no learning rate led to a finished run.", ""
    best, low, high = map(value_text, (shown, rates[0], rates[-1]))
    if len(rates) == 1:
        return f"only one learning rate tried ({best}); whether it is tuned is unknown.", "single"
    if best not in (low, high):
        return f"best learning rate {best} lies inside the grid ({len(rates)} tried, {low} to {high}).", ""
    side, direction = ("smallest", "lower") if best == low else ("largest", "higher")
    text = f"best learning rate {best} is on the edge of the grid ({side} of {len(rates)} tried, {low} to {high})"
    return f"{text}; a {direction} one may be better, so the method is not shown at its best.", "edge"

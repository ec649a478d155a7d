"""Runs to methods: which config keys tell two runs apart, which make a method, and which method is the baseline."""

import difflib
from collections.abc import Iterable

from ramen.config.check import computed
from ramen.config.kinds import COMPOSITIONS, KINDS
from ramen.errors import DataError
from ramen.report.formatting import listed, value_text
from ramen.report.method import LEAST_SEEDS, LR, Method
from ramen.runs.read import Run, Value

METHOD_KINDS = tuple(name for name, kind in KINDS.items() if kind.report == "method")
CONTEXT_KINDS = tuple(name for name, kind in KINDS.items() if kind.report == "context")
EXPERIMENT = "experiment"
ABSENT = "(absent)"
MOST_CONFIG_KEYS = 3  # more varying keys than this are a search, not a comparison


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
    """The baseline and a sentence on the reason for it. Errors: DataError if `name` does not name one method.

    `name` is a label, or key=value for some of the grouping keys, separated by commas.
    """
    if name is None:
        ranked = [method for method in methods if method.chosen is not None] or methods
        adamw = [method for method in ranked if "adamw" in map(str, method.values)]
        if len(adamw) == 1:
            return adamw[0], f"Baseline: {adamw[0].label} (the default)."
        note = "none was named and there is no single adamw: first by name"
        return ranked[0], f"Baseline: {ranked[0].label} ({note})."
    matches = [method for method in methods if method.label == name]
    pairs = [part.partition("=") for part in name.split(",")]
    if not matches and all(equals for _, equals, _ in pairs):
        wanted = {key.strip(): value.strip() for key, _, value in pairs}
        if unknown := wanted.keys() - by:
            raise DataError(
                f"--baseline: not a grouping key, got {', '.join(sorted(unknown))!r}; the runs are grouped by {', '.join(by)}"
            )
        values = [dict(zip(by, map(value_text, method.values), strict=True)) for method in methods]
        matches = [method for method, of in zip(methods, values, strict=True) if wanted.items() <= of.items()]
    if len(matches) == 1:
        return matches[0], f"Baseline: {matches[0].label}."
    labels = [method.label for method in matches or methods]
    if matches:
        raise DataError(f"--baseline: names {len(matches)} methods, got {name!r}; name one of {listed(labels, 12)}")
    hint = suggestion(name.split("=", 1)[-1], labels)
    raise DataError(f"--baseline: no such method, got {name!r}; {hint}; the methods are {listed(labels, 12)}")


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

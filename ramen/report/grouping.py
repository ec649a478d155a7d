"""Runs to methods, and the method that the others are measured against."""

from collections import Counter

from ramen.errors import DataError
from ramen.report.keys import suggestion, varying, varying_choices
from ramen.report.method import LR, Method, sort_into_cells, value_text
from ramen.runs.read import Run, Value


def group(runs: list[Run], by: list[str], metric: str) -> list[Method]:
    """Methods by label, each sorted into settings and seeds."""
    groups: dict[tuple[Value, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(run.value(key) for key in by), []).append(run)
    methods = [Method(label(values, by, runs), values, members, metric) for values, members in groups.items()]
    for method in methods:
        sort_into_cells(method, setting_keys(method.runs, by))
    return sorted(methods, key=lambda method: method.label)


def setting_keys(runs: list[Run], by: list[str]) -> list[str]:
    """What a method's runs vary in besides the seed: the learning rate first, whether it varies or not."""
    sections = tuple(f"{key}._target_" for key in by)
    keys = [key for key in varying(runs) if key not in by and key not in sections and key != LR]
    choices = [kind for kind in varying_choices(runs) if kind not in by]
    return ([LR] if LR not in by else []) + choices + keys


def label(values: tuple[Value, ...], by: list[str], runs: list[Run]) -> str:
    """`bam`, `bam + nff`, `layers=4`: options by their own name, other values with the last word of their key."""
    leaves = Counter(key.rsplit(".", 1)[-1] for key in by)
    parts = []
    for key, value in zip(by, values, strict=True):
        leaf = key.rsplit(".", 1)[-1]
        name = leaf if leaves[leaf] == 1 else key
        is_option = any(key in run.choices for run in runs)
        parts.append(value_text(value) if is_option and value is not None else f"{name}={value_text(value)}")
    return " + ".join(parts) or "all runs"


def find_baseline(wanted: str | None, methods: list[Method], by: list[str]) -> tuple[Method, str]:
    """The baseline and a sentence on how it was found. Errors: DataError if `wanted` does not name one method.

    `wanted` is a label, or key=value for some of the grouping keys, separated by commas.
    """
    if wanted is None:
        ranked = [method for method in methods if method.chosen is not None] or methods
        adamw = [method for method in ranked if "adamw" in map(str, method.values)]
        if len(adamw) == 1:
            return adamw[0], f"Baseline: {adamw[0].label} (the default)."
        return ranked[0], f"Baseline: {ranked[0].label} (none was named and there is no single adamw: first by name)."
    found = [method for method in methods if method.label == wanted] or _matching(wanted, methods, by)
    if len(found) == 1:
        return found[0], f"Baseline: {found[0].label}."
    labels = ", ".join(method.label for method in (found or methods)[:12])
    if found:
        raise DataError(f"--baseline: names {len(found)} methods, got {wanted!r}; name one of {labels}")
    hint = suggestion(wanted.split("=", 1)[-1], [method.label for method in methods])
    raise DataError(f"--baseline: no such method, got {wanted!r}; {hint}; the methods are {labels}")


def _matching(wanted: str, methods: list[Method], by: list[str]) -> list[Method]:
    conditions = [part.partition("=") for part in wanted.split(",")]
    if not all(equals for _, equals, _ in conditions):
        return []
    for key, _, _ in conditions:
        if key.strip() not in by:
            raise DataError(
                f"--baseline: not a grouping key, got {key.strip()!r}; the runs are grouped by {', '.join(by)}"
            )
    return [
        method
        for method in methods
        if all(value_text(method.values[by.index(k.strip())]) == v.strip() for k, _, v in conditions)
    ]

"""What makes a comparison unfair, each as one plain sentence with the numbers.

The protocol: same data, tokens, seeds, auxiliary optimizer, schedule, shape, precision and machine for all methods, the
same tuning effort, at least three seeds, every run carried to its end. Only the runs that enter the ranking are looked
at (each method at its chosen setting), except for the counts of runs that are missing from it.
"""

import math
from collections.abc import Callable
from functools import partial
from itertools import combinations

from ramen.report.formatting import value_text
from ramen.report.grouping import varying
from ramen.report.method import LR, LrCurve, Method
from ramen.runs.read import Run

LEAST_SEEDS = 3
SAME_SIZE = 1.02  # largest over smallest number of parameters; a width is a whole number
ASKED = ("fp32", "bf16")  # precisions that a config asks for: differing_settings tells of these
STEADY = 1.3  # fastest over slowest run of one method on a machine that does nothing else
BUDGETS: dict[str, Callable[[Run], str | None]] = {
    "Different token budgets": lambda run: _count(run.metric("tokens")),
    "Different numbers of steps": lambda run: _count(run.metric("steps")),
    "Different data (data hash)": lambda run: run.data_hash and run.data_hash[:12],
}
ENVIRONMENTS: dict[str, Callable[[Run], str | None]] = {
    "Different devices (seconds and throughput do not compare)": lambda run: run.device,
    "Different precision (found by auto)": lambda run: None if run.value("precision") in ASKED else run.precision,
    "Different git commits": lambda run: run.commit and run.commit[:10],
}
TITLES = {  # first match by section or word of the key
    "auxiliary": "auxiliary optimizer settings",
    "schedule": "schedule",
    "sequence": "sequence length",
    "batch": "batch size",
    "precision": "precision",
    "dtype": "precision",
    "routing": "parameter routing",
    "model": "model shape",
}


def unfairness(methods: list[Method], by: list[str], curves: list[LrCurve]) -> list[str]:
    """All warnings, the gravest first. `methods` without a finished run are left to the table of failures."""
    ranked = [method for method in methods if method.chosen is not None]
    if not ranked:
        return ["No run finished: there is nothing to rank."]
    return [
        *differing(ranked, BUDGETS),
        *differing_settings(ranked, by),
        *sizes(ranked),
        *differing(ranked, ENVIRONMENTS),
        *speeds(ranked),
        *seeds(ranked),
        *identical(ranked),
        *tuning(ranked, curves),
        *other_settings(ranked),
        *missing(methods),
    ]


def differing(methods: list[Method], facts: dict[str, Callable[[Run], str | None]]) -> list[str]:
    return [line for title, value in facts.items() if (line := _differing(title, methods, value))]


def sizes(methods: list[Method]) -> list[str]:
    """More parameters are an advantage of their own; embeddings, which a choice of model seldom moves, do not hide it."""
    counts = {}
    for method in methods:
        run = next(iter(method.chosen_runs.values()))
        count = run.metric("parameters_without_embeddings")
        count = run.metric("parameters") if math.isnan(count) else count
        if count > 0:
            counts[method.label] = count
    if not counts or max(counts.values()) <= SAME_SIZE * min(counts.values()):
        return []
    told = _by_value({label: f"{count:,.0f}" for label, count in counts.items()})
    return [f"Different numbers of parameters (without embeddings): {told}."]


def speeds(methods: list[Method]) -> list[str]:
    """Runs that differ in nothing but the seed are equally fast, or the machine did something else, too."""
    unsteady = {}
    for method in methods:
        rates = [rate for run in method.chosen_runs.values() if (rate := run.metric("tokens_per_second")) > 0]
        if rates and max(rates) > STEADY * min(rates):
            unsteady[method.label] = f"{max(rates) / min(rates):.1f} times"
    if not unsteady:
        return []
    return [f"Seconds and throughput do not compare: a seed was faster than another by {_by_value(unsteady)}."]


def differing_settings(methods: list[Method], by: list[str]) -> list[str]:
    """Config values other than the grouping, the learning rate and what a method's own options bring along."""
    runs = [run for method in methods for run in method.chosen_runs.values()]
    settings = [setting for method in methods for setting in method.settings]
    tuned = {key for s in settings for key, _ in s if key.startswith("optimizer.") and key != "optimizer._target_"}
    own = tuple(f"{key}." for key in by)
    keys = [k for k in varying(runs) if k not in by and k != LR and k not in tuned and not k.startswith(own)]
    by_title: dict[str, list[str]] = {}
    for key in keys:
        by_title.setdefault(_title(key), []).append(key)
    lines = []
    for title, members in by_title.items():
        section = title.split()[0]
        members = [section] if len({run.choices.get(section) for run in runs}) > 1 else members
        details = [_differing(key, methods, partial(_value_of, key)) for key in members[:3]]
        more = f"; and {len(members) - 3} more keys" if len(members) > 3 else ""
        lines.append(f"Different {title}: {'; '.join(d.removesuffix('.') for d in details if d)}{more}.")
    return lines


def seeds(methods: list[Method]) -> list[str]:
    lines = []
    sets = {method.label: ", ".join(sorted(map(str, method.chosen_runs), key=_natural)) for method in methods}
    if len(set(sets.values())) > 1:
        lines.append(f"Different seeds: {_by_value(sets)}. Only common seeds are paired.")
    unknown = sum(isinstance(seed, str) for method in methods for seed in method.chosen_runs)
    if unknown:
        lines.append(f"Ranked runs without a recorded seed, which cannot be paired: {unknown}.")
    few = {m.label: f"n = {len(m.chosen_runs)}" for m in methods if len(m.chosen_runs) < LEAST_SEEDS}
    if few:
        lines.append(f"Fewer than {LEAST_SEEDS} seeds: {_by_value(few)}. A difference needs seeds to be believed.")
    repeats = sum(method.repeats for method in methods)
    if repeats:
        lines.append(f"Repeated runs, of which the last by folder name is used (same setting and seed): {repeats}.")
    return lines


def identical(methods: list[Method]) -> list[str]:
    """Two methods with the same number at every seed are one run under two names."""
    lines = []
    for a, b in combinations(methods, 2):
        common = a.scores.keys() & b.scores.keys()
        if common and all(a.scores[seed] == b.scores[seed] for seed in common):
            lines.append(f"{a.label} and {b.label} have exactly the same {a.metric} at every common seed: one run?")
    return lines[:5]


def tuning(methods: list[Method], curves: list[LrCurve]) -> list[str]:
    lines = []
    counts = {method.label: f"{len(method.tried)}" for method in methods}
    if len(set(counts.values())) > 1:
        lines.append(f"Unequal tuning, settings tried: {_by_value(counts)}. More tries find a lower loss by luck.")
    edges = [curve.remark for curve in curves if curve.flaw == "edge"]
    single = [curve.label for curve in curves if curve.flaw == "single"]
    lines += [f"Not tuned: {remark}" for remark in edges[:12]]
    if single:
        names = ", ".join(single[:8]) + (f" and {len(single) - 8} more" if len(single) > 8 else "")
        lines.append(f"Not tuned: only one learning rate tried for {names}.")
    return lines


def other_settings(methods: list[Method]) -> list[str]:
    keys = dict.fromkeys(key for m in methods for setting in m.tried for key, _ in setting if key != LR)
    if not keys:
        return []
    names = ", ".join(list(keys)[:6]) + (" ..." if len(keys) > 6 else "")
    return [f"Within a method the runs also vary in {names}: each method is shown at its best; --by separates them."]


def missing(methods: list[Method]) -> list[str]:
    lines = []
    for status, meaning in (
        ("unfinished", "Unfinished runs (still going, or killed), not ranked"),
        ("stopped", "Runs stopped before their end, not ranked"),
        ("failed", "Failed runs, not ranked"),
        ("diverged", "Diverged runs (a result, but without a place in a mean)"),
    ):
        counts = [f"{method.label} {n}" for method in methods if (n := method.count(status))]
        if counts:
            more = f" and {len(counts) - 12} more methods" if len(counts) > 12 else ""
            lines.append(f"{meaning}: {', '.join(counts[:12])}{more}.")
    for method in methods:
        lost = sum(
            run.status == "diverged" and all(run.value(key) == value for key, value in method.chosen or ())
            for run in method.runs
        )
        if lost and method.chosen is not None:
            lines.append(
                f"{method.label} at {method.setting_text or 'its setting'}: {lost} diverged, so the mean of the other "
                f"{len(method.chosen_runs)} flatters it."
            )
    return lines


def _differing(title: str, methods: list[Method], value: Callable[[Run], str | None]) -> str | None:
    """`title: a (adamw, muon); b (bam).`, or None if all runs agree or (a value missing) cannot be compared."""
    found = {m.label: sorted({v for run in m.chosen_runs.values() if (v := value(run)) is not None}) for m in methods}
    if len({v for values in found.values() for v in values}) < 2:
        return None
    return f"{title}: {_by_value({label: ' and '.join(v[:3]) for label, v in found.items() if v})}."


def _value_of(key: str, run: Run) -> str:
    return value_text(run.value(key))


def _by_value(values: dict[str, str]) -> str:
    labels: dict[str, list[str]] = {}
    for label, value in values.items():
        labels.setdefault(value, []).append(label)
    parts = [
        f"{value} ({', '.join(names[:6])}{f' and {len(names) - 6} more' if len(names) > 6 else ''})"
        for value, names in labels.items()
    ]
    return "; ".join(parts[:8]) + (f"; and {len(parts) - 8} more" if len(parts) > 8 else "")


def _title(key: str) -> str:
    section = key.split(".", 1)[0]
    if section in ("auxiliary", "schedule", "routing"):
        return TITLES[section]
    return next((title for word, title in TITLES.items() if word in key), section)


def _count(value: float) -> str | None:
    return f"{value:,.0f}" if math.isfinite(value) else None


def _natural(text: str) -> tuple[int, str]:
    return (int(text), "") if text.lstrip("-").isdigit() else (0, text)

"""Which config keys tell two runs apart, and which are only names and places."""

import difflib
from collections.abc import Iterable

from ramen.config.check import computed
from ramen.config.kinds import COMPOSITIONS, KINDS
from ramen.errors import DataError
from ramen.runs.read import Run, Value

METHOD_KINDS = tuple(name for name, kind in KINDS.items() if kind.report == "method")
CONTEXT_KINDS = tuple(name for name, kind in KINDS.items() if kind.report == "context")
EXPERIMENT = "experiment"
MOST_CONFIG_KEYS = 3  # more varying keys than this are a search, not a comparison


def matters(key: str) -> bool:
    """Whether a config key can make methods differ: not the seed, names, places and how often is measured."""
    return computed(key) and key != "seed" and not key.endswith("every_steps")


def varying(runs: list[Run]) -> list[str]:
    """Config keys that matter and do not have one value in all runs, in the order of the config."""
    keys = dict.fromkeys(key for run in runs for key in run.config if matters(key))
    # By their text: true is no 1, and a key that is absent is not one that is null.
    return [key for key in keys if len({repr(run.config[key]) if key in run.config else "" for run in runs}) > 1]


def varying_choices(runs: list[Run]) -> list[str]:
    """Config groups whose chosen option is not the same in all runs that record it; a run that is not done may not."""
    recorded = [run.choices for run in runs if run.choices]
    kinds = dict.fromkeys(kind for choices in recorded for kind in choices)
    return [kind for kind in kinds if len({choices[kind] for choices in recorded if kind in choices}) > 1]


def parse_by(by: str | Iterable[str] | None, runs: list[Run]) -> list[str] | None:
    """Grouping keys from `--by a,b`; None if not given. Errors: DataError for a key that no run has."""
    if by is None:
        return None
    parts = [by] if isinstance(by, str) else list(by)
    keys = list(dict.fromkeys(key.strip() for part in parts for key in part.split(",") if key.strip()))
    if not keys:
        return None
    known = {key for run in runs for key in (*run.choices, *run.config)}
    for key in keys:
        if key not in known:
            raise DataError(f"--by: no run has the key, got {key!r}; {suggestion(key, known)}")
    return keys


def suggestion(word: str, known: Iterable[str]) -> str:
    """`did you mean ...?`, or the list of what there is if nothing is close."""
    known = sorted(set(known))
    by_leaf = [key for key in known if key.rsplit(".", 1)[-1] == word]
    close = list(dict.fromkeys(by_leaf + difflib.get_close_matches(word, known, n=3)))
    if close:
        return f"did you mean {' or '.join(close[:3])}?"
    return f"there is {', '.join(known[:12])}{' ...' if len(known) > 12 else ''}"


def default_by(runs: list[Run]) -> list[str]:
    """What varies other than seed and learning rate: experiments, method choices, else other choices, else config keys.

    A choice that follows from the ones already taken (every bam run also has another mlp) is not a second axis of
    the comparison: it stays out and the fairness checks report it. Experiments are an axis unless one method is all that
    follows from them, which is then what is compared.
    """
    choices = varying_choices(runs)
    methods = [kind for kind in METHOD_KINDS if kind in choices]
    context = [kind for kind in CONTEXT_KINDS if kind in choices]
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


def _follows(kind: str, by: list[str], runs: list[Run]) -> bool:
    if not by:
        return False
    seen: dict[tuple, Value] = {}
    return all(seen.setdefault(tuple(map(run.value, by)), run.value(kind)) == run.value(kind) for run in runs)

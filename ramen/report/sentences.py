"""The sentences of the report: the answer in one line, what was run, how the numbers were made, and the target."""

import math

import pandas as pd

from ramen.report.formatting import equals_p, large, listed, loss, rows, seeds, signed, value_text
from ramen.report.method import HIGHER_IS_BETTER, Method
from ramen.report.tables import targets_by_seed
from ramen.runs.read import Run


def answer(ranking: pd.DataFrame, base: Method, metric: str, runs: int) -> str:
    """The result in one sentence: the best method, or the next one where the baseline is the best."""
    ranked = ranking[ranking["n"] > 0]
    if not len(ranked):
        return f"None of {runs} runs finished with a finite {metric}: nothing can be compared."
    apart = [f"{r.method} ({r.verdict.removeprefix('no verdict: ')})" for r in rows(ranked[~ranked["comparable"]])]
    rest = f"No verdict against {base.label} on {listed(apart, 3)}." if apart else ""
    ranked = ranked[ranked["comparable"]]
    if apart and len(ranked) < 2:
        return rest
    return f"{_best(ranked, base, metric)} {rest}".strip()


def _best(ranked: pd.DataFrame, base: Method, metric: str) -> str:
    best = ranked.iloc[0]
    text = f"{best['method']} has the {'highest' if metric in HIGHER_IS_BETTER else 'lowest'} {metric}: "
    text += f"{loss(best['mean'])} (n = {best['n']})"
    if best["verdict"] == "baseline":
        if len(ranked) == 1:
            return f"{text}. There is nothing to compare it with."
        best, text = ranked.iloc[1], f"{text}, and it is the baseline. Next is {ranked.iloc[1]['method']}"
    if math.isnan(best["difference"]):
        return f"{text}. The baseline {base.label} has no finished run, so there is no difference to report."
    text += f", {signed(best['difference'])} against {base.label}"
    if math.isnan(best["low"]):
        return f"{text} ({best['verdict'] or 'no uncertainty'})."
    pairing = f"paired over {best['pairs']} seeds" if best["test"] == "paired" else "seeds not paired, Welch's test"
    text += (
        f", 95 % interval {signed(best['low'])} to {signed(best['high'])} ({pairing}; "
        f"{equals_p(best['p_holm'])} after Holm's correction): {best['verdict']}"
    )
    needed = best["verdict"] == "no clear difference" and best["seeds_needed"] > best["pairs"]
    return f"{text}; a difference of this size would take {seeds(best['seeds_needed'])}." if needed else f"{text}."


def setup(methods: list[Method], command: str) -> list[str]:
    """What was run: model, tokens, data, budget, code, date, machine, and the command of this report."""
    runs = [run for method in methods for run in method.chosen_runs.values()] or methods[0].runs

    def shared(*values: object) -> str:
        return listed(list(dict.fromkeys(map(str, values))), 3)

    def of(key: str) -> str:
        return shared(*(value_text(run.value(key)) for run in runs))

    return [
        f"Model: {of('model.layers')} layers of width {of('model.dim')}, "
        f"{shared(*(large(run.metric('parameters')) for run in runs))} parameters",
        f"Budget: {shared(*(large(run.metric('tokens')) for run in runs))} training tokens in "
        f"{shared(*(large(run.metric('steps')) for run in runs))} steps",
        f"Data: {shared(*map(_data, runs))}",
        f"Code: commit {shared(*((run.commit or 'unknown')[:10] for run in runs))}",
        f"Date: {shared(*(run.fact('started') or 'not recorded' for run in runs))}",
        f"Machine: {shared(*(run.device or 'unknown' for run in runs))}",
        f"Command: {command}",
    ]


def target_text(base: Method, target: float | None) -> str:
    """The target loss in words; empty if there is none."""
    if target is not None:
        return f"Target: validation loss {target:g}."
    by_seed, mean = targets_by_seed(base, None)
    if not by_seed:
        return ""
    return f"Target: the final validation loss of {base.label} at the same seed (mean {loss(mean)})."


def _data(run: Run) -> str:
    name = run.choices.get("data") or run.value("data._target_") or "unknown"
    return f"{name} ({run.data_hash[:12]})" if run.data_hash else str(name)

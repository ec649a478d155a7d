"""The sentences of the report: the answer in one line, how the numbers were made, and the target."""

import math

import pandas as pd

from ramen.report.formatting import equals_p, loss, signed
from ramen.report.method import HIGHER_IS_BETTER, Method
from ramen.report.tables import targets_by_seed


def answer(ranking: pd.DataFrame, base: Method, metric: str, runs: int) -> str:
    """The result in one sentence: the best method, or the next one where the baseline is the best."""
    best = ranking.iloc[0]
    if not best["n"]:
        return f"None of {runs} runs finished with a finite {metric}: nothing can be compared."
    text = f"{best['method']} has the {'highest' if metric in HIGHER_IS_BETTER else 'lowest'} {metric}: "
    text += f"{loss(best['mean'])} (n = {best['n']})"
    if best["verdict"] == "baseline":
        rest = ranking[(ranking["n"] > 0) & (ranking["verdict"] != "baseline")]
        if not len(rest):
            return f"{text}. There is nothing to compare it with."
        best, text = rest.iloc[0], f"{text}, and it is the baseline. Next is {rest.iloc[0]['method']}"
    if math.isnan(best["difference"]):
        return f"{text}. The baseline {base.label} has no finished run, so there is no difference to report."
    text += f", {signed(best['difference'])} against {base.label}"
    if math.isnan(best["low"]):
        return f"{text} ({best['verdict'] or 'no uncertainty'})."
    pairing = f"paired over {best['pairs']} seeds" if best["test"] == "paired" else "seeds not paired, Welch's test"
    return (
        f"{text}, 95 % interval {signed(best['low'])} to {signed(best['high'])} ({pairing}; "
        f"{equals_p(best['p_holm'])} after Holm's correction): {best['verdict']}."
    )


def notes(
    by: list[str], default: bool, base_note: str, base: Method, methods: list[Method], metric: str, most_drawn: int
) -> list[str]:
    """How the numbers were made; `default`: the grouping was not given but found; pictures show `most_drawn` methods."""
    unpaired = [
        m.label for m in methods if m is not base and m.scores and len(m.scores.keys() & base.scores.keys()) < 2
    ]
    lines = [
        f"Runs are grouped by {', '.join(by)}{' (what varies; --by chooses)' if default else ''}. {base_note}",
        f"Differences are method minus {base.label}, paired by seed (t-test, 95 % interval)"
        + (f"; not paired for want of two common seeds: {', '.join(unpaired[:8])}." if unpaired else "."),
        "p (Holm) is corrected for the number of methods compared. 'better' or 'worse' means p (Holm) < 0.01, "
        "'probably' p (Holm) < 0.05, else the runs do not tell the two apart.",
    ]
    if len(methods) > most_drawn:
        lines.append(f"The pictures show the {most_drawn - 1} best methods and the baseline, of {len(methods)}.")
    if any(len(method.tried) > 1 for method in methods):
        lines.append(
            f"Each method is shown at its best setting: the best mean {metric} over seeds, among the settings with the "
            "most finished seeds. Choosing and measuring on the same seeds is optimistic, more so the more settings "
            "were tried; run the chosen rate on fresh seeds to be sure."
        )
    return lines


def target_text(base: Method, target: float | None) -> str:
    """The target loss in words; empty if there is none."""
    if target is not None:
        return f"Target: validation loss {target:g}."
    by_seed, mean = targets_by_seed(base, None)
    if not by_seed:
        return ""
    return f"Target: the final validation loss of {base.label} at the same seed (mean {loss(mean)})."

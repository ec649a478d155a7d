"""The report's data frames: every run, the ranking, the cost of a target loss, learning rates, and what was left out."""

import math
from typing import Any

import numpy as np
import pandas as pd

from ramen.errors import printable
from ramen.report.fairness import GRAVE, VOID, Finding, Gravity
from ramen.report.formatting import value_text
from ramen.report.grouping import HIGHER_IS_BETTER, LEAST_SEEDS, LR, Method, Seed, lr_in
from ramen.report.statistics import CONFIDENCE, NAN, Difference, difference, holm, ratio, seeds_needed, spread
from ramen.runs.read import STATUSES

COSTS = ("tokens_per_second", "peak_memory", "train_seconds", "tokens", "parameters")
SURE, LIKELY = 0.01, 0.05  # Holm-corrected p below which a difference is called real, or probable
Reasons = dict[Gravity, list[str]]
LEFT_OUT = ("diverged", "failed", "stopped", "unfinished", "finished")


def runs_table(methods: list[Method], by: list[str]) -> pd.DataFrame:
    """One row a run: folder, how it ended, its grouping values, setting and every number of its summary."""
    rows = []
    for method in methods:
        keys = dict.fromkeys([*by, LR, *(key for setting in method.settings for key, _ in setting)])
        for run in method.runs:
            row: dict[str, Any] = {"folder": printable(run.folder), "method": method.label, "seed": None}
            row |= {"status": run.status, **{key: run.value(key) for key in keys}}
            reason = run.reason or ("" if method.usable(run) else f"finished without a finite {method.metric}")
            row |= {"ranked": run is method.chosen_runs.get(run.pairing), **run.summary}
            row |= {"seed": run.seed, "reason": reason, "data_hash": run.facts.get("data_hash")}
            rows.append(row | {"commit": run.facts.get("git_commit"), "device": run.facts.get("device")})
    return pd.DataFrame(rows).astype({"seed": "Int64"})


def ranking_table(methods: list[Method], baseline: Method, findings: list[Finding]) -> pd.DataFrame:
    """One row a method: those that compare with the baseline, best first, then those that do not, or did not finish.

    Differences are method minus baseline. p and the interval allow for the choice of each method's setting on the same
    seeds, and (Holm) for the number of methods: the interval excludes 0 exactly where p_holm < 0.05.
    """
    metric, sign = baseline.metric, -1 if baseline.metric in HIGHER_IS_BETTER else 1
    reasons: list[Reasons] = []
    differences = []
    for method in methods:
        concern = [f for f in findings if method is not baseline and f.concerns(method.label, baseline.label)]
        reasons.append({gravity: [f.short for f in concern if f.gravity == gravity] for gravity in (VOID, GRAVE)})
        scores = {} if method is baseline or reasons[-1][VOID] else method.scores
        differences.append(difference(scores, baseline.scores, sign * (method.luck - baseline.luck)))
    corrected = holm([d.p for d in differences])
    compared = max(1, sum(not math.isnan(p) for p in corrected))
    table = []
    for method, d, p_holm, why in zip(methods, differences, corrected, reasons, strict=True):
        low, high = d.interval(1 - (1 - CONFIDENCE) * (d.p / p_holm if p_holm > 0 else 1 / compared))
        costs = pd.DataFrame([run.summary for run in method.chosen_runs.values()], columns=list(COSTS)).mean()
        row: dict[Any, Any] = {"method": method.label, "setting": method.setting_text, "lr": lr_in(method.chosen)}
        row |= {"settings_tried": len(method.settings), **spread(method.scores.values())._asdict()}
        row |= {"difference": d.mean, "low": low, "high": high, "p": d.p, "p_holm": p_holm}
        row |= {"test": "" if math.isnan(d.mean) else d.test, "pairs": d.n if d.test == "paired" else 0}
        row["seeds_needed"] = seeds_needed(d.mean, d.sd, compared) if d.sd > 0 and d.mean != 0 else 0
        row["verdict"] = "baseline" if method is baseline else verdict(d, p_holm, metric, why)
        row |= costs.to_dict() | {status: method.count(status) for status in STATUSES}
        table.append(row | {"comparable": not why[VOID]})
    frame = pd.DataFrame(table)
    order = pd.DataFrame({"apart": ~frame["comparable"] | frame["mean"].isna(), "mean": sign * frame["mean"]})
    frame = frame.loc[order.sort_values(["apart", "mean"], na_position="last", kind="stable").index]
    frame.insert(0, "rank", range(1, len(frame) + 1))
    return frame.reset_index(drop=True)


def verdict(d: Difference, p: float, metric: str, reasons: Reasons) -> str:
    """The conclusion that the Holm-corrected p and the findings allow."""
    if reasons[VOID]:
        return f"no verdict: {'; '.join(reasons[VOID])}"
    if math.isnan(d.mean):
        return ""
    if math.isnan(p):
        return "no verdict: n = 1" if d.n < 2 else "no verdict: no spread"
    if p >= LIKELY:
        return "no clear difference"
    better = "better" if (d.mean > 0) == (metric in HIGHER_IS_BETTER) else "worse"
    doubts = [f"n = {d.n}"] * (d.n < LEAST_SEEDS) + reasons[GRAVE]
    if doubts:
        return f"probably {better} ({'; '.join(doubts)})"
    return better if p < SURE else f"probably {better}"


def left_out_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs that have no number in the ranking, with the reason of each."""
    frame = runs[runs["reason"] != ""].sort_values("status", key=lambda s: s.map(LEFT_OUT.index), kind="stable")
    frame = frame.assign(setting=["" if pd.isna(rate) else f"lr={value_text(rate)}" for rate in frame[LR]])
    return frame[["method", "setting", "seed", "status", "reason", "folder"]].reset_index(drop=True)


def targets_by_seed(baseline: Method, target: float | None) -> tuple[dict[Seed, float], float]:
    """The target of each of the baseline's seeds (its own final loss, unless `target` is given), and that of all others."""
    if target is not None:
        return {}, target
    curves = {seed: baseline.losses(run, "step")[1] for seed, run in baseline.chosen_runs.items()}
    finals = {seed: float(losses[-1]) for seed, losses in curves.items() if len(losses)}
    return finals, spread(finals.values()).mean


def targets_table(methods: list[Method], baseline: Method, target: float | None) -> pd.DataFrame:
    """One row a method with an evaluation curve: tokens and seconds until the target validation loss, and speed-ups.

    A run's cost is where its curve first reaches the target, linear between evaluations; the baseline is measured by the
    same rule. A run that does not get there has no cost: nothing is extrapolated. Costs are means over seeds, NaN unless
    every seed reached the target; a speed-up is the baseline's cost over the method's, a geometric mean over seeds.
    """
    by_seed, fallback = targets_by_seed(baseline, target)
    if math.isnan(fallback):
        return pd.DataFrame()

    def costs(method: Method, axis: str) -> dict[Seed, float]:
        curves = {seed: method.losses(run, axis) for seed, run in method.chosen_runs.items()}
        return {seed: crossing(x, y, by_seed.get(seed, fallback)) for seed, (x, y) in curves.items() if len(x)}

    base_costs = {axis: costs(baseline, axis) for axis in ("tokens", "seconds")}
    table = []
    for method in methods:
        by_axis = {axis: costs(method, axis) for axis in base_costs}
        if known := by_axis["tokens"] or by_axis["seconds"]:
            row = {"method": method.label, "reached": np.isfinite([*known.values()]).sum(), "seeds": len(known)}
            for axis, cost in by_axis.items():
                row[axis] = float(np.mean([*cost.values()])) if cost else NAN
                base = {} if method is baseline else base_costs[axis]
                usable = base and cost and all(value > 0 for value in (*base.values(), *cost.values()))  # not NaN
                speedup = ratio(base, cost) if usable else (NAN, NAN, NAN)
                row |= zip((f"speedup_{axis}", f"speedup_{axis}_low", f"speedup_{axis}_high"), speedup, strict=True)
            table.append(row)
    return pd.DataFrame(table)


def crossing(x: np.ndarray, loss: np.ndarray, target: float) -> float:
    """The x at which `loss` first is at or below `target`, interpolated; NaN if never. Loss at the first point
    already below the target: that first x, an upper bound."""
    below = np.flatnonzero(loss <= target)
    if not len(below):
        return NAN
    i, before = int(below[0]), max(int(below[0]) - 1, 0)
    return float(np.interp(target, [loss[i], loss[before]], [x[i], x[before]])) if i else float(x[0])

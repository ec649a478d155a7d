"""The report's data frames: every run, the ranking, the cost of a target loss, learning rates, and what was left out."""

import math

import numpy as np
import pandas as pd

from ramen.report.fairness import GRAVE, VOID, Finding, Gravity
from ramen.report.formatting import value_text
from ramen.report.method import HIGHER_IS_BETTER, LEAST_SEEDS, LR, Method, Seed
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
        chosen = {id(run) for run in method.chosen_runs.values()}
        keys = dict.fromkeys([*by, LR, *(key for setting in method.tried for key, _ in setting)])
        for run in method.runs:
            row: dict[str, object] = {"folder": run.place, "method": method.label, "seed": None, "status": run.status}
            row |= {key: run.value(key) for key in keys}
            reason = run.reason or ("" if method.usable(run) else f"finished without a finite {method.metric}")
            row |= {"ranked": id(run) in chosen, **run.summary, "seed": run.seed, "reason": reason}
            rows.append(row | {"data_hash": run.data_hash, "commit": run.commit, "device": run.device})
    return pd.DataFrame(rows).astype({"seed": "Int64"})


def ranking_table(methods: list[Method], baseline: Method, findings: list[Finding]) -> pd.DataFrame:
    """One row a method: those that compare with the baseline, best first, then those that do not, or did not finish.

    Differences are method minus baseline. p and the interval allow for the choice of each method's setting on the same
    seeds, and (Holm) for the number of methods: the interval excludes 0 exactly where p_holm < 0.05.
    """
    metric, rows = baseline.metric, []
    reasons = {m.label: _reasons(m, baseline, findings) for m in methods if m is not baseline}
    for method in methods:
        scores = {} if method is baseline or reasons[method.label][VOID] else method.scores
        luck = method.luck - baseline.luck
        rows.append((method, difference(scores, baseline.scores, -luck if metric in HIGHER_IS_BETTER else luck)))
    corrected = holm([d.p for _, d in rows])
    compared = sum(not math.isnan(p) for p in corrected)
    frame = pd.DataFrame(
        [
            _row(m, d, p, "baseline" if m is baseline else verdict(d, p, metric, reasons[m.label]), compared)
            for (m, d), p in zip(rows, corrected, strict=True)
        ]
    )
    frame["comparable"] = [m is baseline or not reasons[m.label][VOID] for m in methods]
    better_first = frame["mean"] if metric not in HIGHER_IS_BETTER else -frame["mean"]
    order = pd.DataFrame({"apart": ~frame["comparable"] | frame["mean"].isna(), "mean": better_first})
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
    base = {axis: _costs(baseline, axis, by_seed, fallback) for axis in ("tokens", "seconds")}
    rows = []
    for method in methods:
        costs = {axis: _costs(method, axis, by_seed, fallback) for axis in base}
        if known := costs["tokens"] or costs["seconds"]:
            row = {"method": method.label, "reached": np.isfinite([*known.values()]).sum(), "seeds": len(known)}
            for axis in base:
                speedup = _speedup({} if method is baseline else base[axis], costs[axis])
                row[axis] = float(np.mean([*costs[axis].values()])) if costs[axis] else NAN
                row |= zip((f"speedup_{axis}", f"speedup_{axis}_low", f"speedup_{axis}_high"), speedup, strict=True)
            rows.append(row)
    return pd.DataFrame(rows)


def crossing(x: np.ndarray, loss: np.ndarray, target: float) -> float:
    """The x at which `loss` first is at or below `target`, interpolated; NaN if never. Loss at the first point
    already below the target: that first x, an upper bound."""
    below = np.flatnonzero(loss <= target)
    if not len(below):
        return NAN
    i, before = int(below[0]), max(int(below[0]) - 1, 0)
    return float(np.interp(target, [loss[i], loss[before]], [x[i], x[before]])) if i else float(x[0])


def _reasons(method: Method, baseline: Method, findings: list[Finding]) -> Reasons:
    """Short names of the findings that concern these two, by gravity."""
    concern = [finding for finding in findings if finding.concerns(method.label, baseline.label)]
    return {gravity: [finding.short for finding in concern if finding.gravity == gravity] for gravity in (VOID, GRAVE)}


def _row(method: Method, d: Difference, p_holm: float, verdict: str, compared: int) -> dict[str, object]:
    runs = list(method.chosen_runs.values())
    low, high = d.interval(1 - (1 - CONFIDENCE) * (d.p / p_holm if p_holm > 0 else 1 / max(compared, 1)))
    known = d.sd > 0 and d.mean != 0
    row: dict[str, object] = {
        "method": method.label,
        "setting": method.setting_text,
        "lr": method.lr,
        "settings_tried": len(method.tried),
        **spread(method.scores.values())._asdict(),
        "difference": d.mean,
        "low": low,
        "high": high,
        "p": d.p,
        "p_holm": p_holm,
        "test": "" if math.isnan(d.mean) else d.test,
        "pairs": d.n if d.test == "paired" else 0,
        "seeds_needed": seeds_needed(d.mean, d.sd, max(compared, 1)) if known else 0,
        "verdict": verdict,
    }
    costs = pd.DataFrame([run.summary for run in runs], columns=list(COSTS)).mean()
    row |= zip(COSTS, costs, strict=True)
    return row | {status: method.count(status) for status in STATUSES}


def _costs(method: Method, axis: str, by_seed: dict[Seed, float], fallback: float) -> dict[Seed, float]:
    curves = {seed: method.losses(run, axis) for seed, run in method.chosen_runs.items()}
    return {seed: crossing(xs, losses, by_seed.get(seed, fallback)) for seed, (xs, losses) in curves.items() if len(xs)}


def _speedup(base: dict[Seed, float], costs: dict[Seed, float]) -> tuple[float, float, float]:
    values = [*base.values(), *costs.values()]
    if not base or not costs or any(math.isnan(v) or v <= 0 for v in values):
        return NAN, NAN, NAN
    return ratio(base, costs)

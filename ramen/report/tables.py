"""The report's tables as data frames: every run, the ranking, the learning rates, what was left out."""

import math
from dataclasses import asdict

import pandas as pd

from ramen.report.method import HIGHER_IS_BETTER, LR, Method, usable
from ramen.report.statistics import Difference, difference, holm, spread
from ramen.report.tuning import LrCurve, lr_in
from ramen.runs.read import STATUSES, Run

COSTS = ("tokens_per_second", "peak_memory", "train_seconds", "tokens", "parameters")
SURE, LIKELY = 0.01, 0.05  # Holm-corrected p below which a difference is called real, or probable


def runs_table(methods: list[Method], by: list[str]) -> pd.DataFrame:
    """One row a run: where it stands, how it ended, its grouping values, setting and every number of its summary."""
    rows = []
    for method in methods:
        chosen = {id(run) for run in method.chosen_runs.values()}
        keys = dict.fromkeys(key for setting in method.tried for key, _ in setting)
        for run in method.runs:
            row: dict[str, object] = {
                "folder": run.place,
                "method": method.label,
                "seed": run.seed,
                "status": run.status,
            }
            row |= {key: run.value(key) for key in (*by, *keys)}
            row |= {"ranked": id(run) in chosen, **run.summary, "seed": run.seed, "reason": run.reason}
            row |= {"data_hash": run.data_hash, "commit": run.commit, "device": run.device}
            rows.append(row)
    frame = pd.DataFrame(rows)
    frame["seed"] = frame["seed"].astype("Int64")
    return frame


def ranking_table(methods: list[Method], baseline: Method, metric: str) -> pd.DataFrame:
    """One row a method, best first, methods without a finished run last; differences are method minus baseline."""
    base = baseline.scores
    differences = [difference({} if m is baseline else m.scores, base) for m in methods]
    corrected = holm([d.p for d in differences])
    rows = [_row(m, m is baseline, d, p, metric) for m, d, p in zip(methods, differences, corrected, strict=True)]
    frame = pd.DataFrame(rows)
    frame = frame.sort_values("mean", ascending=metric not in HIGHER_IS_BETTER, na_position="last", kind="stable")
    frame.insert(0, "rank", range(1, len(frame) + 1))
    return frame.reset_index(drop=True)


def lr_table(curves: list[LrCurve]) -> pd.DataFrame:
    """One row a method and rate: the fields of `LrPoint`, and whether it is the rate shown."""
    return pd.DataFrame([{"method": c.label, **asdict(p), "chosen": p.lr == c.best} for c in curves for p in c.points])


def left_out_table(methods: list[Method]) -> pd.DataFrame:
    """Runs that have no number in the ranking, with the reason of each."""
    rows = [
        {
            "method": method.label,
            "setting": "" if run.value(LR) is None else f"lr={run.value(LR)}",
            "seed": run.seed,
            "status": run.status,
            "reason": run.reason or f"finished without a finite {method.metric}",
            "last_step": int(run.curve.step[-1]) if len(run.curve.step) else None,
            "folder": run.place,
        }
        for method in methods
        for run in method.runs
        if not usable(run, method.metric)
    ]
    columns = ["method", "setting", "seed", "status", "reason", "last_step", "folder"]
    order = {"diverged": 0, "failed": 1, "stopped": 2, "unfinished": 3}
    rows.sort(key=lambda row: order.get(str(row["status"]), 4))
    return pd.DataFrame(rows, columns=columns)


def verdict(d: Difference, p: float, metric: str) -> str:
    """In words: what may be concluded from the Holm-corrected p."""
    if math.isnan(d.mean):
        return ""
    if math.isnan(p):
        return "n = 1: no uncertainty" if d.n < 2 else "no spread: no uncertainty"
    if p >= LIKELY:
        return "no clear difference"
    better = (d.mean > 0) == (metric in HIGHER_IS_BETTER)
    return f"{'' if p < SURE else 'probably '}{'better' if better else 'worse'}"


def _row(method: Method, is_baseline: bool, d: Difference, p_holm: float, metric: str) -> dict[str, object]:
    runs = list(method.chosen_runs.values())
    row: dict[str, object] = {
        "method": method.label,
        "setting": method.setting_text,
        "lr": lr_in(method.chosen),
        "settings_tried": len(method.tried),
        **asdict(spread(list(method.scores.values()))),
        "difference": d.mean,
        "low": d.low,
        "high": d.high,
        "p": d.p,
        "p_holm": p_holm,
        "test": "" if math.isnan(d.mean) else d.test,
        "pairs": d.n if d.test == "paired" else 0,
        "verdict": "baseline" if is_baseline else verdict(d, p_holm, metric),
    }
    row |= {cost: _mean(runs, cost) for cost in COSTS}
    return row | {status: method.count(status) for status in STATUSES}


def _mean(runs: list[Run], name: str) -> float:
    return spread([v for run in runs if math.isfinite(v := run.metric(name))]).mean

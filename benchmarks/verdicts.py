"""The rate at which a report is wrong: verdicts on simulated runs whose truth is known. Prints the table of docs/report.md.

`python -m benchmarks.verdicts --repeats 2000`. A run is a number: its seed's effect, which all methods share, what its
learning rate costs, and noise of its own with standard deviation 1; it goes through the report's own grouping, checks and
tests. `null`: the methods are equally good at their best; the share of comparisons with a verdict is then the rate of
false positives. `planted`: one method is better; the share is the power.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ramen.report.fairness import unfairness
from ramen.report.grouping import group, lr_curves
from ramen.report.statistics import difference, seeds_needed
from ramen.report.tables import ranking_table
from ramen.runs.read import COLUMNS, Run, Value

METRIC = "final_val_loss"
FLAT7, CURVED7, SHARP7 = (0,) * 7, (3, 2, 1, 0, 1, 2, 3), (9, 9, 9, 0, 9, 9, 9)
SEED_EFFECT = 5.0  # standard deviation, of that of a run's own noise


@dataclass(frozen=True)
class Protocol:
    """`grids`: by method (the first is the baseline) what each of its learning rates costs; `fresh`: further seeds of the
    best rate alone; `better`: how much better the second method is; `paired`: whether the methods share their seeds."""

    grids: tuple[tuple[float, ...], ...]
    seeds: int
    fresh: int = 0
    better: float = 0.0
    paired: bool = True


NULLS = {
    **{f"one rate each, {n} seeds": Protocol(((0,), (0,)), n) for n in (2, 3, 5)},
    **{f"3 rates each, equally good, {n} seeds": Protocol(((0,) * 3,) * 2, n) for n in (2, 3, 5)},
    **{f"7 rates each, a clear optimum, {n} seeds": Protocol((CURVED7,) * 2, n) for n in (3, 5)},
    **{f"7 rates against 1, equally good, {n} seeds": Protocol(((0,), FLAT7), n) for n in (2, 3, 4, 5)},
    **{f"7 rates, against 7 with one good, {n} seeds": Protocol((SHARP7, FLAT7), n) for n in (3, 5)},
    "7 rates against 1, then 3 fresh seeds": Protocol(((0,), FLAT7), 3, fresh=3),
    "7 rates each, then 3 fresh seeds": Protocol((FLAT7, FLAT7), 3, fresh=3),
    "one rate each, 4 seeds, not paired": Protocol(((0,), (0,)), 4, paired=False),
    "6 methods, one rate each, 3 seeds": Protocol(((0,),) * 6, 3),
    "6 methods, 7 rates against the baseline's 1, 4 seeds": Protocol(((0,), *(FLAT7,) * 5), 4),
}


def planted(methods: int, better: float, grid: tuple[float, ...] = (0,)) -> Protocol:
    """One of `methods` is better by `better`, on as many seeds as the report asks for."""
    seeds = seeds_needed(better, 2**0.5, methods - 1)
    return Protocol((grid,) * methods, seeds, better=better)


PLANTED = {
    "one rate each, better by 2 sd": planted(2, 2.0),
    "one rate each, better by 1 sd": planted(2, 1.0),
    "3 rates each, equally good, better by 2 sd": planted(2, 2.0, (0, 0, 0)),
    "7 rates each, a clear optimum, better by 1.5 sd": planted(2, 1.5, CURVED7),
    "6 methods, one rate each, one better by 2 sd": planted(6, 2.0),
}


def rate(protocol: Protocol, repeats: int, seed: int = 0) -> float:
    """Share of repetitions in which some method gets the verdict better or worse; if one is better, that it does."""
    rng = np.random.default_rng(seed)
    return float(np.mean([any(_verdicts(protocol, rng)) for _ in range(repeats)]))


def rate_of_adding_seeds(first: int, last: int, repeats: int, seed: int = 0) -> float:
    """False positives of a person who adds a seed until p < 0.05, from `first` seeds to `last`."""
    rng = np.random.default_rng(seed)
    positives = 0
    for _ in range(repeats):
        a, b = rng.normal(size=(2, last))
        positives += any(
            difference(dict(enumerate(a[:n])), dict(enumerate(b[:n]))).p < 0.05 for n in range(first, last + 1)
        )
    return positives / repeats


def _verdicts(protocol: Protocol, rng: np.random.Generator) -> list[bool]:
    runs = []
    effects = rng.normal(0, SEED_EFFECT, 1000)
    for number, grid in enumerate(protocol.grids):
        first = 0 if protocol.paired else 100 * number
        cost = np.array(grid) - (protocol.better if number == 1 else 0)
        seeds = range(first, first + protocol.seeds)
        losses = cost[:, None] + effects[list(seeds)] + rng.normal(size=(len(grid), protocol.seeds))
        runs += [_run(number, lr, s, x) for lr, row in enumerate(losses) for s, x in zip(seeds, row, strict=True)]
        best = int(losses.mean(axis=1).argmin())
        for s in range(seeds.stop, seeds.stop + protocol.fresh):
            runs.append(_run(number, best, s, cost[best] + effects[s] + rng.normal()))
    methods = group(runs, ["optimizer"], METRIC)
    findings = unfairness(methods, ["optimizer"], lr_curves(methods))
    rows = ranking_table(methods, methods[0], findings).set_index("method").loc[[m.label for m in methods[1:]]]
    if protocol.better:
        return ["better" in rows.iloc[0]["verdict"]]
    return [verdict.startswith(("better", "worse", "probably")) for verdict in rows["verdict"]]


def _run(method: int, lr: int, seed: int, loss: float) -> Run:
    curve = pd.DataFrame(columns=COLUMNS, dtype=float)
    config: dict[str, Value] = {"optimizer.lr": 2.0**lr, "seed": seed}
    numbers = {METRIC: 100 + float(loss), "tokens": 1e6, "steps": 100.0, "parameters": 1e6}
    return Run(
        folder=Path(f"{method}-{lr}-{seed}"), seed=seed, status="finished", reason="", config=config,
        choices={"optimizer": f"method{method}"}, summary=numbers, facts={}, curve=curve,
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2000)
    repeats = parser.parse_args(arguments).repeats
    for title, protocols in (("False positives", NULLS), ("Power", PLANTED)):
        print(f"| {title} | seeds | rate |\n| --- | --- | --- |")
        for name, protocol in protocols.items():
            print(f"| {name} | {protocol.seeds + protocol.fresh} | {rate(protocol, repeats):.1%} |", flush=True)
        print()
    print(f"Adding seeds until p < 0.05, from 3 to 10: {rate_of_adding_seeds(3, 10, repeats):.1%}")


if __name__ == "__main__":
    main()

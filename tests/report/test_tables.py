"""The ranking: what is concluded from p, corrected for the number of methods, and what a method costs where it is shown."""

import math

import pytest

from ramen.report.statistics import Difference, difference, holm
from ramen.report.tables import ranking_table, verdict


@pytest.mark.parametrize(
    ("p", "said"),
    [(0.0099, "better"), (0.0101, "probably better"), (0.0499, "probably better"), (0.0501, "no clear difference")],
)
def test_the_verdict_follows_the_corrected_p_and_the_metrics_direction(p, said):
    lower = Difference(-0.1, -0.2, -0.01, 1e-9, 3, "paired")
    assert verdict(lower, p, "final_val_loss") == said
    assert verdict(lower, p, "tokens_per_second") == said.replace("better", "worse")


@pytest.mark.parametrize(("n", "said"), [(1, "n = 1: no uncertainty"), (3, "no spread: no uncertainty")])
def test_without_p_there_is_no_verdict(n, said):
    assert verdict(Difference(-0.1, math.nan, math.nan, math.nan, n, "none"), math.nan, "final_val_loss") == said
    assert verdict(Difference(math.nan, *[math.nan] * 3, n, "none"), math.nan, "final_val_loss") == ""


# Of a method's three seeds against the baseline's: from sure to even.
AGAINST = {
    "a": (-0.03, -0.02, -0.01),
    "b": (-0.014, -0.012, -0.01),
    "c": (-0.01, 0.01, 0.005),
    "d": (0.02, 0.021, 0.022),
}


@pytest.fixture
def ranked(tmp_path, write_run, methods):
    """Five methods by name and the ranking's rows; a run's speed is 10 + its seed, or 1 at a rate that is not shown."""
    for name, shifts in {"adamw": (0, 0, 0), **AGAINST}.items():
        for seed, shift in enumerate(shifts):
            summary = {"tokens_per_second": 10.0 + seed}
            write_run(tmp_path / f"{name}-{seed}", name, seed=seed, final=3 + seed / 50 + shift, summary=summary)
        write_run(tmp_path / f"{name}-slow", name, final=9.0, lr=0.5, summary={"tokens_per_second": 1.0})
    found = {method.label: method for method in methods()}
    table = ranking_table(list(found.values()), found["adamw"], "final_val_loss")
    return found, {row.method: row for row in table.itertuples()}


def test_p_is_corrected_for_all_methods_that_are_compared(ranked):
    found, rows = ranked
    differences = [difference(found[name].scores, found["adamw"].scores) for name in AGAINST]
    ps = [d.p for d in differences]
    assert [rows[name].p for name in AGAINST] == ps
    assert [rows[name].p_holm for name in AGAINST] == holm(ps) != ps
    corrected, raw = ([verdict(d, p, "x") for d, p in zip(differences, of, strict=True)] for of in (holm(ps), ps))
    assert [rows[name].verdict for name in AGAINST] == corrected != raw


def test_costs_are_means_over_the_seeds_of_the_setting_that_is_shown(ranked):
    assert {row.tokens_per_second for row in ranked[1].values()} == {11.0}

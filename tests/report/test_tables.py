"""The ranking: what is concluded from p, corrected for the number of methods, and what a method costs where it is shown."""

import math

import pytest

from ramen.report.fairness import GRAVE, VOID
from ramen.report.statistics import Difference, difference, holm
from ramen.report.tables import ranking_table, verdict


@pytest.mark.parametrize(
    ("p", "said"),
    [(0.0099, "better"), (0.0101, "probably better"), (0.0499, "probably better"), (0.0501, "no clear difference")],
)
def test_the_verdict_follows_the_corrected_p_and_the_metrics_direction(p, said):
    lower = Difference(-0.1, 1e-9, 3, "paired")
    assert verdict(lower, p, "final_val_loss", SURE) == said
    assert verdict(lower, p, "tokens_per_second", SURE) == said.replace("better", "worse")


@pytest.mark.parametrize(("n", "said"), [(1, "no verdict: n = 1"), (3, "no verdict: no spread")])
def test_without_p_there_is_no_verdict(n, said):
    assert verdict(Difference(-0.1, n=n), math.nan, "final_val_loss", SURE) == said
    assert verdict(Difference(math.nan, n=n), math.nan, "final_val_loss", SURE) == ""


def test_doubts_take_the_certainty_and_what_does_not_compare_the_verdict():
    sure = Difference(-0.1, 1e-9, 3, "paired")
    assert (
        verdict(sure, 1e-9, "x", {VOID: [], GRAVE: ["different batch size"]})
        == "probably better (different batch size)"
    )
    assert verdict(sure, 0.06, "x", {VOID: [], GRAVE: ["different batch size"]}) == "no clear difference"
    assert verdict(Difference(-0.1, 1e-9, 2, "paired"), 1e-9, "x", SURE) == "probably better (n = 2)"
    assert verdict(sure, 1e-9, "x", {VOID: ["different data"], GRAVE: ["x"]}) == "no verdict: different data"


SURE = {VOID: [], GRAVE: []}

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
    by_label = {method.label: method for method in methods()}
    table = ranking_table(list(by_label.values()), by_label["adamw"], [])
    return by_label, {row.method: row for row in table.itertuples()}


def test_p_is_corrected_for_all_methods_that_are_compared(ranked):
    by_label, rows = ranked
    differences = [difference(by_label[name].scores, by_label["adamw"].scores) for name in AGAINST]
    ps = [d.p for d in differences]
    assert [rows[name].p for name in AGAINST] == ps
    assert [rows[name].p_holm for name in AGAINST] == holm(ps) != ps
    corrected, raw = ([verdict(d, p, "x", SURE) for d, p in zip(differences, of, strict=True)] for of in (holm(ps), ps))
    assert [rows[name].verdict for name in AGAINST] == corrected != raw


def test_costs_are_means_over_the_seeds_of_the_setting_that_is_shown(ranked):
    assert {row.tokens_per_second for row in ranked[1].values()} == {11.0}

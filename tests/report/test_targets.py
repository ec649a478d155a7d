"""Tokens and seconds to a target, by numbers worked out by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from ramen.report.tables import crossing, targets_table

X, LOSS = np.array([0.0, 100.0, 200.0, 300.0]), np.array([6.0, 4.0, 3.0, 2.5])


@pytest.mark.parametrize(("target", "x"), [(5.0, 50), (4.0, 100), (3.25, 175), (2.5, 300), (6.0, 0), (7.0, 0)])
def test_crossing(target, x):
    assert crossing(X, LOSS, target) == pytest.approx(x)


def test_never_is_not_extrapolated():
    assert math.isnan(crossing(X, LOSS, 2.49))


def test_first_of_several_crossings():
    assert crossing(np.array([0.0, 10.0, 20.0, 30.0]), np.array([5.0, 3.0, 5.0, 3.0]), 4.0) == 5.0


@pytest.fixture
def rows(methods):
    """rows(target): the table's rows by method; the baseline is the first by name."""

    def table(target=None):
        compared = methods()
        return {row.method: row for row in targets_table(compared, compared[0], target).itertuples()}

    return table


def test_speedup_is_paired_by_seed(tmp_path, write_run, rows):
    """adamw ends at 4.0 and 5.0 after 100 steps; bam passes there at step 50 and 25 of its straight line 6 -> 2."""
    for seed, end in ((0, 4.0), (1, 5.0)):
        write_run(tmp_path / f"a{seed}", "adamw", seed=seed, final=end, curve=[(0, 6.0), (100, end)])
        write_run(
            tmp_path / f"b{seed}", "bam", seed=seed, final=2.0, curve=[(0, 6.0), (100, 2.0)], seconds_per_step=1.0
        )
    table = rows()
    assert (table["adamw"].tokens, table["adamw"].seconds) == (100 * 8192, 50.0)
    assert math.isnan(table["adamw"].speedup_tokens)
    assert table["bam"].tokens == pytest.approx((50 + 25) / 2 * 8192)
    assert table["bam"].speedup_tokens == pytest.approx(math.sqrt(2 * 4))  # 100/50 and 100/25
    assert table["bam"].speedup_seconds == pytest.approx(math.sqrt(1 * 2))  # bam's steps take twice as long
    interval = stats.ttest_1samp(np.log([2, 4]), 0).confidence_interval(0.95)
    ours = (table["bam"].speedup_tokens_low, table["bam"].speedup_tokens_high)
    assert ours == pytest.approx(np.exp(interval))


def test_not_reached_by_every_seed_is_no_speedup(tmp_path, write_run, rows):
    for seed, end in ((0, 3.0), (1, 3.6)):
        write_run(tmp_path / f"a{seed}", "adamw", seed=seed, final=3.5, curve=[(0, 6.0), (100, 3.5)])
        write_run(tmp_path / f"b{seed}", "bam", seed=seed, final=end, curve=[(0, 6.0), (100, end)])
    row = rows()["bam"]
    assert (row.reached, row.seeds) == (1, 2)
    assert math.isnan(row.speedup_tokens) and math.isnan(row.tokens)


def test_given_target(tmp_path, write_run, rows):
    write_run(tmp_path / "a", "adamw", final=3.0, curve=[(0, 6.0), (100, 3.0)])
    write_run(tmp_path / "b", "bam", final=2.0, curve=[(0, 6.0), (100, 2.0)])
    table = rows(4.0)
    assert table["adamw"].tokens == pytest.approx(200 / 3 * 8192)
    assert table["bam"].speedup_tokens == pytest.approx(4 / 3)
    assert math.isnan(table["bam"].speedup_tokens_low)  # one seed
    assert rows(2.5)["adamw"].reached == 0


def test_run_without_evaluations_has_no_row(tmp_path, write_run, rows):
    write_run(tmp_path / "a", "adamw", curve=[])
    assert rows() == {}

"""The files of a report, the pictures among them."""

import re

import numpy as np
import pandas as pd
import pytest

from ramen.report import compare
from ramen.report.figures import band, difference_figure, literal, spaced_ticks


@pytest.fixture
def sweep(tmp_path, write_sweep):
    return write_sweep(tmp_path / "sweep", {"adamw": 3.3, "bam": 3.2, "muon": 3.22})


def test_files(sweep, tmp_path):
    report = compare([sweep], out=tmp_path / "out")
    pictures = {"loss_by_steps", "loss_by_tokens", "loss_by_seconds", "learning_rate", "difference"}
    assert report.paths.keys() == pictures | {"report", "markdown", "runs"}
    assert all((tmp_path / "out" / f"{name}.png").read_bytes()[:4] == b"\x89PNG" for name in pictures)
    html = (tmp_path / "out" / "report.html").read_text()
    assert html.count("data:image/png;base64,") == len(pictures)
    assert not re.search(r'(src|href)="(?!data:)|@import|url\(|<script|https?://', html)
    markdown = (tmp_path / "out" / "report.md").read_text()
    assert set(re.findall(r"\]\((\w+)\.png\)", markdown)) == pictures
    assert len(pd.read_csv(tmp_path / "out" / "runs.csv")) == 27
    assert not (sweep / "report.html").exists()


def test_one_learning_rate_draws_no_tuning_curve(tmp_path, write_sweep):
    assert (
        "learning_rate"
        not in compare(write_sweep(tmp_path, {"adamw": 3.3, "bam": 3.2}, lrs=(0.01,)), out=tmp_path).paths
    )


def test_band_is_mean_and_deviation_where_all_seeds_have_points(tmp_path, write_run, methods):
    write_run(tmp_path / "0", seed=0, curve=[(0, 6.0), (10, 4.0), (20, 3.0)])
    write_run(tmp_path / "1", seed=1, curve=[(0, 8.0), (20, 4.0)])
    (method,) = methods()
    curve = band(method, "step", "val_loss")
    assert curve.x.tolist() == [0, 10, 20]
    assert curve.mean.tolist() == [7.0, 5.0, 3.5]
    assert curve.sd == pytest.approx(np.std([[6, 4, 3], [8, 6, 4]], axis=0, ddof=1))


def test_odd_runs_are_drawn_without_complaint(tmp_path, write_run, recwarn):
    """One seed, one point, equal losses, a method far off, a rate where all diverged, a rate of zero, names like formulas."""
    write_run(tmp_path / "a", "adamw", lr=0.0, final=3.0)
    write_run(tmp_path / "b", "adamw", lr=0.1, final=3.0)
    write_run(tmp_path / "c", r"$\frac$", final=90.0, curve=[(0, 100.0), (200, 90.0)])
    write_run(tmp_path / "d", "muon", final=3.0, curve=[(200, 3.0)])
    write_run(tmp_path / "e", "sgd", lr=9.0, status="diverged", curve=[])
    for seed in range(3):
        write_run(tmp_path / f"f{seed}", "$lion$", seed=seed, final=3.0, curve=[])
    report = compare(tmp_path, out=tmp_path)
    assert {"loss_by_tokens", "learning_rate", "difference"} <= report.paths.keys()
    assert not recwarn.list


def test_training_loss_is_drawn_where_nothing_was_evaluated(tmp_path, write_run):
    for name in ("adamw", "bam"):
        folder = write_run(tmp_path / name, name)
        path = folder / "metrics.jsonl"
        path.write_text(path.read_text().replace('"val_loss"', '"other"'))
    assert "loss_by_steps" in compare(tmp_path, out=tmp_path).paths


def test_end_labels_are_the_final_losses_whatever_the_axis(tmp_path, write_run, methods):
    """Seeds of other speeds: at one time their losses differ from those at their ends."""
    for seed, pace in ((0, 1.0), (1, 3.0)):
        curve = [(0, 6.0), (10, 4.0 + seed), (20, 3.0 + seed)]
        write_run(tmp_path / str(seed), seed=seed, curve=curve, seconds_per_step=pace)
    (method,) = methods()
    by_step, by_second = band(method, "step", "val_loss"), band(method, "seconds", "val_loss")
    assert by_second.mean.tolist() == by_step.mean.tolist() == [6.0, 4.5, 3.5]
    assert by_second.x.tolist() == [0, 20, 40]
    assert by_second.final == by_step.final == 3.5


def test_ticks_keep_apart_and_the_rates_that_are_shown_come_first():
    texts = ["0.005", "0.0055", "0.01", "0.02"]
    assert spaced_ticks([0.0, 0.04, 0.5, 1.0], texts, [1]) == [1, 2, 3]
    assert spaced_ticks([0.0, 0.3, 0.6, 1.0], texts, []) == [0, 1, 2, 3]


def test_every_character_of_a_label_can_be_drawn():
    assert literal("测 $a$\n\x1b é") == r"\u6d4b $a$ \x1b é"
    assert len(literal("x" * 99)) < 50


def test_the_table_and_the_picture_of_differences_agree(tmp_path, write_sweep):
    """An interval excludes 0 exactly where the corrected p is below 0.05; the picture draws the table's numbers."""
    report = compare(write_sweep(tmp_path, {"adamw": 3.3, **{f"m{i}": 3.3 - i / 150 for i in range(6)}}))
    rows = report.ranking[report.ranking["verdict"] != "baseline"]
    significant = (rows["p_holm"] < 0.05).tolist()
    assert ((rows["low"] > 0) | (rows["high"] < 0)).tolist() == significant
    assert 0 < sum(significant) < len(significant)
    methods = {method.label: method for method in report.methods}
    shown = [row for row in rows.itertuples() if abs(row.difference) > 0]
    figure = difference_figure(shown, methods, methods["adamw"], dict.fromkeys(methods, "k"))
    bars = [line.get_xdata() for line in figure.axes[0].lines if line.get_linewidth() == 2.4]
    drawn = {tuple(bar) for bar in bars if len(bar) == 2}
    assert {(row.low, row.high) for row in shown} == drawn

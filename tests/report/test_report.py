"""From folders to files: what the report says, on sound, unfair, broken and large sweeps."""

import html
import json
import math
import re

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from scipy import stats

from ramen.errors import DataError
from ramen.report import compare
from ramen.report.report import line


def row(report, method):
    return report.ranking.set_index("method").loc[method]


@pytest.fixture
def sweep(tmp_path, write_sweep):
    return write_sweep(tmp_path / "sweep", {"adamw": 3.3, "bam": 3.2, "muon": 3.22})


def test_fair_sweep(sweep):
    report = compare(sweep)
    assert (report.by, report.baseline, report.warnings) == (["optimizer"], "adamw", [])
    bam = row(report, "bam")
    assert (bam["n"], bam["lr"], bam["test"], bam["settings_tried"]) == (3, 0.01, "paired", 3)
    ranked = report.runs[report.runs["ranked"]].sort_values("seed")
    a, b = (ranked[ranked["method"] == name]["final_val_loss"].to_numpy() for name in ("bam", "adamw"))
    assert bam["mean"] == pytest.approx(a.mean())
    assert bam["p"] == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert "better" in bam["verdict"]
    assert "p = " in report.answer or "p < " in report.answer
    assert len(report.runs) == 27
    assert set(report.targets["method"]) == {"adamw", "bam", "muon"}
    assert any("optimistic" in note for note in report.notes)


def test_only_out_is_written_to_and_a_second_report_is_the_same(sweep):
    before = set(sweep.rglob("*"))
    first, second = compare(sweep), compare(sweep)
    assert set(sweep.rglob("*")) == before and first.paths == {}
    pd.testing.assert_frame_equal(first.ranking, second.ranking)


def test_single_seed_has_no_uncertainty(tmp_path, write_sweep):
    report = compare(write_sweep(tmp_path, {"adamw": 3.3, "bam": 3.2}, seeds=1))
    assert row(report, "bam")["verdict"] == "no verdict: n = 1"
    assert math.isnan(row(report, "bam")["p"])
    assert "no verdict: n = 1" in report.answer


def test_seeds_that_do_not_pair_use_welch(tmp_path, write_sweep):
    plant = lambda o, lr, seed: {"seed": seed + 100} if o == "bam" else {}  # noqa: E731
    report = compare(write_sweep(tmp_path, {"adamw": 3.3, "bam": 3.2}, plant=plant))
    assert row(report, "bam")["test"] == "Welch"
    assert any("not paired" in note and "bam" in note for note in report.notes)


def test_divergence_is_a_result(sweep, write_run):
    for seed in range(2):
        write_run(sweep / f"lion-{seed}", "lion", seed=seed, status="diverged", error="loss <NaN> at step 60 | x")
    report = compare(sweep, out=sweep)
    lion = report.ranking.iloc[-1]
    assert (lion["method"], lion["diverged"], lion["n"]) == ("lion", 2, 0)
    assert math.isnan(lion["mean"])
    assert list(report.left_out["reason"]) == ["loss <NaN> at step 60 | x"] * 2
    assert "&lt;NaN&gt;" in report.paths["report"].read_text()
    assert "\\<NaN> at step 60 \\| x" in report.paths["markdown"].read_text()


@given(st.text("\\`*_[]()<>&|~#+-=.!1ax \n"))
def test_any_text_is_read_as_it_is(text):
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    page = markdown.render(f"- {line(text)}\n\n{line(text)}\n")
    assert page.count("<p>") == bool(text.strip())
    assert html.unescape(re.sub(r"<[^>]*>", "", page)).split() == 2 * text.split()


def test_github_strikes_nothing_out():
    text = f"{line('~~a~~ b')}\n\n- {line('c ~~d~~')}"
    assert MarkdownIt("commonmark").enable("strikethrough").render(text).count("~~") == 4


def test_finished_without_a_finite_number_is_left_out(sweep, write_run):
    for i, value in enumerate((None, float("nan"), float("inf"), "3.0", True, [3.0])):
        write_run(sweep / f"odd-{i}", "bam", seed=i, summary={"final_val_loss": value})
    report = compare(sweep)
    assert row(report, "bam")["n"] == 3
    unreadable = "no summary.json: still running or killed; last record at step 200"
    assert set(report.left_out["reason"]) == {"finished without a finite final_val_loss", unreadable}
    assert sum("summary.json: is damaged, final_val_loss" in line for line in report.warnings) == 3


def test_broken_folders_are_warnings(sweep, write_run):
    clean = compare(sweep).ranking
    for name, content in (("bad", "a: ["), ("list", "[1]")):
        (write_run(sweep / name, "bam", final=1.0) / "config.yaml").write_text(content)
    report = compare(sweep)
    pd.testing.assert_frame_equal(report.ranking, clean)
    assert sum("config.yaml: is damaged" in line for line in report.warnings) == 2


def test_only_broken_folders(tmp_path, write_run):
    (write_run(tmp_path / "a") / "config.yaml").write_text("[")
    with pytest.raises(DataError, match="no readable run"):
        compare(tmp_path)


def test_nothing_finished_still_reports(tmp_path, write_run):
    write_run(tmp_path / "a", status="failed", error="out of memory", seed="x")
    report = compare(tmp_path, out=tmp_path)
    assert "| adamw | lr=0.01 | - | failed |" in report.paths["markdown"].read_text()
    assert "nothing can be compared" in report.answer
    assert "out of memory" in report.paths["report"].read_text()


@pytest.mark.parametrize("broken", ["summary.json", "environment.json", "metrics.jsonl"])
def test_missing_files(sweep, broken):
    for path in sweep.glob(f"*/{broken}"):
        path.unlink()
    report = compare(sweep)
    assert len(report.runs) == 27
    assert (report.ranking["n"] > 0).any() == (broken != "summary.json")


def test_metric_where_more_is_better(sweep):
    for path in sweep.glob("bam-*/summary.json"):
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | {"tokens_per_second": 20000 + content["seed"]}))
    report = compare(sweep, metric="tokens_per_second")
    assert report.ranking.iloc[0]["method"] == "bam"
    assert report.ranking.iloc[0]["difference"] > 0
    assert "better" in report.ranking.iloc[0]["verdict"]


def test_grouping_by_learning_rate(sweep):
    report = compare(sweep, by="optimizer,optimizer.lr", baseline="optimizer=adamw,optimizer.lr=0.01")
    assert len(report.ranking) == 9
    assert [curve.label for curve in report.lr_curves] == ["adamw", "bam", "muon"]


def test_a_thousand_runs(tmp_path, write_run):
    points = [(0, 6.0), (100, 4.0), (200, 3.0)]
    for i in range(1000):
        optimizer, lr, seed = f"m{i % 20:02d}", 0.01 * 2 ** (i // 20 % 5), i // 100
        final = 3 + (i % 20) / 100 + abs(lr - 0.04) + (i * 7919 % 97) / 9700
        write_run(tmp_path / str(i), optimizer, lr=lr, seed=seed, final=final, curve=points)
    report = compare(tmp_path)
    assert len(report.runs) == 1000
    assert report.ranking["n"].tolist() == [10] * 20
    assert any("8 best methods and the baseline, of 20" in note for note in report.notes)


def test_no_name_runs_as_a_formula_or_steers_a_terminal(tmp_path, write_run):
    """From a folder that was received: a method's name, a config value, an error."""
    evil = '=HYPERLINK("http://x","y")'
    for i, name in enumerate((evil, "+1", "-1", "@x", "\t=1", "bam\x1b[31m\u202e", "<b>|`$")):
        config = {"mlp.activation": f" {name}", f"mlp.{name}": 1}
        write_run(tmp_path / str(i), name, seed=i, config=config, status="failed" if i else "finished", error=name)
    report = compare(tmp_path, by="optimizer,mlp.activation", out=tmp_path / "out")
    table = pd.read_csv(report.paths["runs"], dtype=str, keep_default_na=False)
    cells = {*table.columns, *table.to_numpy().ravel()}
    assert not [cell for cell in cells if cell.lstrip()[:1] in tuple("=+@\t\r\x1b")]
    assert f"'{evil}" in cells
    runs, markdown, page = (report.paths[name].read_text(encoding="utf-8") for name in ("runs", "markdown", "report"))
    for text in (runs, markdown, page, report.answer, *report.warnings, *report.notes, *report.setup):
        assert not {"\x1b", "\u202e"} & set(text)
    assert "<b>" not in markdown.replace(r"\<b>", "") + page

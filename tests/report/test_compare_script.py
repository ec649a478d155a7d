"""The door scripts/compare.py: exit codes, messages, what it prints."""

import json
import os
from pathlib import Path

import pytest

from ramen.cli.main import main
from ramen.report import compare


def test_prints_table_answer_and_paths(tmp_path, write_sweep, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    write_sweep(tmp_path / "s", {"adamw": 3.3, "[bam]": 3.2})
    options = ["--baseline", "optimizer=adamw", "--by", "optimizer", "--out", str(tmp_path / "o")]
    assert main(["compare", str(tmp_path / "s"), *options]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "[bam]" in printed
    assert "paired over 3 seeds" in printed
    assert printed.split()[-2:] == [str(tmp_path / "o" / "report.html"), str(tmp_path / "o" / "loss_by_tokens.png")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no runs found"),
        (["--by", "optimzer"], "did you mean optimizer"),
        (["--baseline", "adam"], "did you mean adamw"),
        (["--metric", "val"], "no run's summary"),
        (["--metric", "final_loss"], "did you mean final_val_loss"),
        (["--target", "-1"], "positive"),
    ],
)
def test_what_a_user_can_mend_is_exit_code_2(tmp_path, write_run, capsys, options, message):
    if options:
        write_run(tmp_path / "r")
    assert main(["compare", str(tmp_path), *options]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_place_that_cannot_be_written(tmp_path, write_run, capsys):
    write_run(tmp_path / "r")
    (tmp_path / "file").write_text("")
    assert main(["compare", str(tmp_path / "r"), "--out", str(tmp_path / "file")]) == 2
    assert "file" in capsys.readouterr().err


def test_names_and_reasons_that_are_no_utf_8_are_written_escaped(tmp_path, write_run):
    top = tmp_path / os.fsdecode(b"\xff")
    write_run(top / os.fsdecode(b"\xfe"))
    write_run(top / "failed", "bam", status="failed", error=os.fsdecode(b"\xfd: is no shard"))
    (top / "config.yaml").touch()
    report = compare(top, out=tmp_path / "out")
    assert report.left_out["reason"].tolist() == [r"\udcfd: is no shard"]
    assert report.runs["folder"].tolist() == [rf"{tmp_path}/\udcff/\udcfe", rf"{tmp_path}/\udcff/failed"]
    for path in (report.paths[name] for name in ("report", "markdown", "runs")):
        assert r"\udcff" in path.read_text(encoding="utf-8")


def test_json_has_what_the_table_has(tmp_path, write_sweep, capsys):
    folder = write_sweep(tmp_path / "s", {"adamw": 3.3, "bam": 3.0}, noise=0.001)
    assert main(["compare", str(folder), "--baseline", "adamw", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["format"], document["baseline"], document["by"]) == (1, "adamw", ["optimizer"])
    best, base = document["methods"]
    assert (best["method"], best["verdict"], base["verdict"]) == ("bam", "better", "baseline")
    assert best["difference"] == pytest.approx(-0.3, abs=0.01)
    assert best["low"] < best["difference"] < best["high"] < 0
    assert base["p"] is None and Path(document["files"]["report"]).is_file()


@pytest.mark.parametrize(
    ("claim", "code", "message"),
    [
        ("bam better than adamw", 0, ""),
        ("adamw worse than bam", 0, ""),
        ("bam worse than adamw", 1, "--assert: bam is not worse than adamw: better"),
        ("lite better than adamw", 2, "--assert: no such method, got 'lite'"),
        ("optimizer=bam better than optimizer=adamw", 0, ""),
        ("bam beats adamw", 2, "must be"),
    ],
)
def test_a_claim_is_the_verdict_or_exit_code_1(tmp_path, write_sweep, capsys, claim, code, message):
    folder = write_sweep(tmp_path / "s", {"adamw": 3.3, "bam": 3.0}, noise=0.001)
    assert main(["compare", str(folder), "--assert", claim]) == code
    assert message in capsys.readouterr().err


def test_a_claim_has_its_own_baseline(tmp_path, write_sweep, capsys):
    folder = write_sweep(tmp_path / "s", {"adamw": 3.3, "bam": 3.0}, noise=0.001)
    assert main(["compare", str(folder), "--baseline", "bam", "--assert", "bam better than adamw"]) == 2
    assert capsys.readouterr().err == "--baseline: is the second method of --assert, got bam; leave it out\n"

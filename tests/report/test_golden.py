"""The words and tables of one report on planted folders, as they were recorded in golden_report.md and golden_runs.csv.

`RAMEN_GOLDEN=record pytest tests/report/test_golden.py` records them anew.
"""

import os
from pathlib import Path

from ramen.report import compare

HERE = Path(__file__).parent


def planted(write_sweep, write_run, top: Path) -> None:
    """A sweep with what a report has to say something about: an untuned method, a divergence, a failure, uneven seeds."""
    odd = {"lion": {"status": "diverged", "error": "loss nan at step 60"}}
    write_sweep(
        top / "sweep", {"adamw": 3.3, "bam": 3.2, "muon": 3.22},
        plant=lambda o, lr, seed: {"environment": {"device": "Other GPU"}} if (o, seed) == ("muon", 2) else {},
    )  # fmt: skip
    for seed in range(2):
        write_run(top / "sweep" / f"lion-{seed}", "lion", seed=seed, **odd["lion"])
    write_run(top / "sweep" / "soap-0", "soap", lr=0.003, final=3.18)
    write_run(top / "sweep" / "bam-failed", "bam", lr=0.04, status="failed", error="out of memory")
    write_run(
        top / "sweep" / "muon-short", "muon", lr=0.01, seed=7, final=3.4, curve=[(0, 6.0), (50, 4.0), (100, 3.4)],
    )  # fmt: skip


def test_the_report_says_the_same(tmp_path, write_sweep, write_run, monkeypatch):
    monkeypatch.chdir(tmp_path)  # so that folders have the same names in every report
    planted(write_sweep, write_run, Path())
    paths = compare("sweep", baseline="optimizer=adamw", out="sweep").paths
    for recorded, written in (("golden_report.md", paths["markdown"]), ("golden_runs.csv", paths["runs"])):
        if os.environ.get("RAMEN_GOLDEN") == "record":
            (HERE / recorded).write_text(written.read_text())
        assert written.read_text() == (HERE / recorded).read_text()

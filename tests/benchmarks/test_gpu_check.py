"""The GPU's check: refused without one; each part is a process whose crash or hang is its own."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_check
from benchmarks.context import Workload

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_exits_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "gpu_check: needs a CUDA GPU, and torch sees none here\n"
    assert not (tmp_path / "out").exists()


def test_parts_name_tests_and_options_that_exist() -> None:
    parts = gpu_check.parts(3)
    assert {section for section, _ in parts} == {"parity", "steps", "graphs", "head", "optimizers"}
    assert len(parts["parity", "test_models_agree_with_sdpa_in_float32[auto"]) == 14  # pytest, -q, and 12 tests
    for (section, _), words in parts.items():
        if section == "steps":
            config = Workload(tuple(word for word in words if "=" in word)).config()
            assert config["precision"] == "bf16" and config["compile"] in ("on", "off", "regional")


def test_a_part_tells_its_figures_or_its_failure() -> None:
    tiny = ["model.layers=1", "model.dim=16", "model.heads=2", "device=cpu", "threads=1", "--rounds", "1"]
    (row,) = gpu_check.run(["benchmarks", "model", *tiny, "--vocabulary", "50", "data.sequence_length=32"], 200.0)[
        "rows"
    ]
    assert row["tokens_per_second"] > 0
    assert gpu_check.run(["pytest", "--version"], 60.0) == {"holds": False, "tests": f"pytest {pytest.__version__}"}
    wrong = gpu_check.run(["benchmarks", "model", *tiny, "optimizer.lr=fast"], 60.0)
    assert wrong["error"].startswith("exit code 2: ") and "optimizer.lr" in wrong["error"]
    assert gpu_check.run(["http.server", "0"], 1.0) == {"error": "was ended after 1 s"}
    assert gpu_check.run(["pytest"], -1.0) == {"skipped": "no time was left"}


def test_the_page_has_a_line_for_every_part(tmp_path: Path) -> None:
    rows = [{"name": "bam", "milliseconds": 0.5}, {"name": "psgd", "milliseconds": None, "note": "not installed"}]
    figures = {
        "machine": {"device": "Test GPU", "versions": {"torch": "9"}},
        "date": "2026-01-01",
        "parity": {"bf16": {"holds": True, "tests": "3 passed"}, "head": {"error": "exit code 1: E"}},
        "steps": {"baseline": {"rows": rows[:1]}, "gpt2_124m": {"skipped": "no time was left"}},
        "optimizers": {"baseline": {"rows": rows}},
    }
    gpu_check.write(tmp_path, figures)
    page = (tmp_path / "gpu_test_gpu.md").read_text()
    for line in (
        "# Test GPU, 2026-01-01", "- bf16: holds (3 passed)", "- head: exit code 1: E", "- gpt2_124m: no time was left",
        "- baseline: name bam, milliseconds 0.5", "note not installed",
    ):  # fmt: skip
        assert line in page

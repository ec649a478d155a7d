"""The GPU's check: refused without one; its parts, on a small scale, run on whatever device they are given."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ramen import gpu
from ramen.model.gpt import Text

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "DEVICE", torch.device("cpu"))
    monkeypatch.setattr(gpu, "TEXT", Text(300, 299, 256))
    monkeypatch.setattr(gpu, "VOCABULARY", 101)
    monkeypatch.setattr(gpu, "PADDED", 128)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_exits_2(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "gpu_check.py"), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "gpu_check: needs a CUDA GPU, and torch sees none here\n"
    assert not (tmp_path / "out").exists()


def test_parity_tells_the_largest_error_and_holds_what_is_close(on_cpu: None) -> None:
    found = gpu.bf16()
    assert found["holds"] and 0 < found["largest_relative_error"] < found["allowed"]
    wrong = gpu._agree({"a": torch.ones(2)}, {"a": torch.zeros(2) + 0.5}, 0.1)
    assert not wrong["holds"] and wrong["of"] == "a" and wrong["largest_relative_error"] == pytest.approx(1.0)


def test_the_heads_check_needs_the_kernel_to_hold(on_cpu: None) -> None:
    found = gpu.head()
    assert not found["holds"], "there is no Triton kernel on a CPU"
    assert all(found[name]["holds"] and found[name]["twin_milliseconds"] > 0 for name in ("none", "sigmoid", "tanh"))


def test_the_page_tells_every_part() -> None:
    found = {
        "machine": {"device": "Test GPU", "versions": {"torch": "9"}},
        "date": "2026-01-01",
        "parity": {"bf16": {"holds": True}, "CUDA graphs": {"holds": False, "differ": ["a"]}},
        "steps": {
            "baseline": {"tokens_per_second": 1e6, "mfu": 0.4, "peak_bytes": 2e9},
            "gpt2_124m": {"skipped": "10 minutes were over"},
        },
        "optimizers": {"all": {"24x8x8": [{"name": "bam", "milliseconds": 0.5, "times_faster_than_torch_muon": 3.0}]}},
    }
    page = gpu.markdown(found)
    for told in (
        "# Test GPU",
        "bf16: holds",
        "DOES NOT HOLD",
        "MFU 40.0%",
        "10 minutes were over",
        "| bam | 0.5 | 3 |",
    ):
        assert told in page

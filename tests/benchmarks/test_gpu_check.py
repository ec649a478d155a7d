"""The GPU's check: refused without one; its parts, on a small scale, run on whatever device they are given."""

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_parts as gpu
from benchmarks.machine import Workload
from ramen.nn.gpt import DataSpec

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "DEVICE", torch.device("cpu"))
    monkeypatch.setattr(gpu, "TEXT", DataSpec(300, 299, 256))
    monkeypatch.setattr(gpu, "VOCABULARY", 101)
    monkeypatch.setattr(gpu, "PADDED", 128)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_exits_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--out", str(tmp_path / "out")]
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


@pytest.mark.parametrize("check", [gpu.cautious, gpu.bank, gpu.sinkhorn])
def test_checks_of_kernels_need_them_to_hold(on_cpu: None, check: Callable[[], gpu.Found]) -> None:
    found = check()
    assert not found["holds"], "there is no Triton kernel on a CPU"
    assert found["largest_relative_error"] < found["allowed"] and found["twin_milliseconds"] > 0


def test_the_page_tells_every_part() -> None:
    step = {
        "tokens_per_second": 1e6, "mfu": 0.4, "mfu_of_780_teraflops": 0.507, "share_of_matmul": 0.6, "matmul_teraflops": 700.0,
        "update_share_of_32k_tokens": 0.03, "peak_bytes": 2e9, "first_step_seconds": 50.0,
    }  # fmt: skip
    rows = [
        {"name": "bam", "milliseconds": 0.5, "times_faster_than_torch_muon": 3.0},
        {"name": "soap", "milliseconds": 9000.0, "note": "one step alone, its first"},
        {"name": "psgd", "milliseconds": None, "note": "not installed"},
    ]
    found = {
        "machine": {"device": "Test GPU", "versions": {"torch": "9"}},
        "date": "2026-01-01",
        "parity": {
            "bf16": {"holds": True},
            "CUDA graphs": {"holds": False, "differ": ["a"]},
            "head": {"error": "E: no\nmore"},
        },
        "steps": {"baseline": step, "gpt2_124m": {"skipped": "no time was left"}, "else": step | {"mfu": None}},
        "optimizers": {"baseline": {"rows": rows}, "gpt2_124m": {"error": "was ended after 180 s"}},
    }
    page = gpu.markdown(found)
    for told in (
        "# Test GPU", "bf16: holds", "DOES NOT HOLD", "head: E: no\n", "MFU 40.0% by the data sheet, 50.7% of 780 TFLOP/s",
        "3.0% of a step of 32k tokens", "no time was left", "| bam | 0.5 | 3 |", "| soap | 9e+03 | - |", "soap: one step alone",
        "psgd: not installed", "was ended after 180 s",
    ):  # fmt: skip
        assert told in page


def test_what_is_asked_for_is_made_of_options_there_are() -> None:
    """The configs of the steps are checked and the checks are there, without running one."""
    asked = gpu.parts(3)
    for (section, _), part in asked.items():
        if section in ("steps", "graphs"):
            words, rounds = part.args  # type: ignore[attr-defined]
            config = Workload(words).config()
            assert config["precision"] == "bf16" and config["compile"] in ("on", "off", "regional") and rounds == 3
    assert {section for section, _ in asked} == {"parity", "steps", "graphs", "optimizers"}


WORKER = """
import json, sys, time
for part in range(int(sys.argv[1]), 6):
    if part == 1: sys.exit(3)                          # a crash
    if part == 3: time.sleep(60)                       # a hang
    print(json.dumps({"holds": True, "part": part}), flush=True)
    if part == 4: sys.exit(0)                          # a context that is lost between two parts
"""


def test_no_part_keeps_the_others_from_being_run(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("gpu_check", ROOT / "benchmarks" / "gpu_check.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    command = [sys.executable, str(worker)]
    found = dict(script.results(list("abcdef"), command, deadline=time.monotonic() + 100, limit=2.0))
    assert [found[key].get("part") for key in "abcdef"] == [0, None, 2, None, 4, 5]
    assert found["b"] == {"error": "ended its process, exit code 3"} and found["d"] == {"error": "was ended after 2 s"}
    late = dict(script.results(list("ab"), command, deadline=time.monotonic() - 1, limit=2.0))
    assert late == {key: {"skipped": "no time was left"} for key in "ab"}


def test_a_part_that_fails_is_told_and_the_next_one_is_run() -> None:
    code = (
        "import torch; torch.cuda.synchronize = lambda: None; from benchmarks import gpu_check\n"
        "gpu_check.work([lambda: 1 / 0, lambda: [print('chatter'), {'holds': True}][1]])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    failed, held = map(json.loads, done.stdout.splitlines())
    assert failed["error"] == "ZeroDivisionError: division by zero" and "Traceback" in failed["trace"]
    assert held["holds"] and held["seconds"] >= 0 and "chatter" in done.stderr

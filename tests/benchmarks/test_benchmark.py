"""The benchmark runs, section by section, and its figures belong together. No time is asserted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import optimizers
from benchmarks.context import BenchmarkContext, Workload
from ramen.config.registry import options
from ramen.optimizer.external import ExternalOptimizer

ROOT = Path(__file__).resolve().parents[2]
TINY = (
    "model.layers=1",
    "model.dim=16",
    "model.heads=2",
    "data.sequence_length=32",
    "trainer.micro_batch_tokens=64",
    "trainer.batch_tokens=64",
    "device=cpu",
    "threads=1",
    "precision=fp32",
)


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    """figures(*words): what a benchmark of tiny sizes wrote."""

    def run(*words: str):
        path = tmp_path_factory.mktemp("bench") / "bench.json"
        done = bench(*TINY, *words, "--rounds", "1", "--out", str(path))
        assert done.returncode == 0, done.stderr
        return json.loads(path.read_text()), done.stdout

    return run


def test_a_models_figures_agree_with_one_another(figures):
    found, told = figures("model", "--vocabulary", "50")
    (row,) = found["model"]
    assert row["tokens_per_step"] == 64
    assert row["gflops_per_second"] * 1e9 == pytest.approx(row["tokens_per_second"] * row["flops_per_token"])
    share = row["gflops_per_second"] / row["matmul_gflops_per_second"]
    assert row["share_of_matmul_peak"] == pytest.approx(share)  # of one round
    assert 0 < row["optimizer_share"] < 1
    assert "tokens per second" in told
    assert {"device", "threads", "precision", "kernels"} <= found["machine"].keys()
    assert found["overrides"] == list(TINY)


def test_every_optimizer_is_timed_or_says_what_it_misses(figures):
    found, _ = figures("optimizer", "--matrices", "2x16x8")
    rows = {row["name"]: row for row in found["optimizer"]}
    assert rows.keys() == options("optimizer").keys()
    assert rows["torch_muon"]["times_faster_than_torch_muon"] == 1
    assert all(row["milliseconds"] is not None or "pip install" in row["note"] for row in rows.values())
    assert rows["bam"]["times_faster_than_loop"] > 0
    soap, muon, plain = (rows[n]["products_at_peak_milliseconds"] for n in ("soap_muon", "muon", "torch_muon"))
    beyond = 6 * (16 + 8) * 16 * 8 + 2 * (16**3 + 8**3)  # turns and means, and the products of a refresh of the bases
    assert (soap - muon) / plain == pytest.approx(beyond / (20 * 8**2 * 16 + 10 * 8**3))  # five plain steps


def test_methods_are_timed_where_torchs_muon_is_too_slow_to_repeat(monkeypatch):
    def seconds(context, task):
        return 10.0 if isinstance(getattr(task, "__self__", None), ExternalOptimizer) else 0.5

    few = {name: option for name, option in options("optimizer").items() if name in ("bam", "torch_muon")}
    monkeypatch.setattr(optimizers, "options", lambda kind: few)
    monkeypatch.setattr(BenchmarkContext, "seconds", seconds)
    work = Workload(matrices=(2, 16, 8), rounds=1)
    bam, muon = optimizers.optimizer(work, BenchmarkContext(torch.device("cpu"), torch.float32))
    assert (bam["name"], bam["milliseconds"], bam["times_faster_than_torch_muon"]) == ("bam", 500.0, None)
    assert (muon["name"], muon["milliseconds"]) == ("torch_muon", 10000.0) and "one step alone" in muon["note"]


def test_the_head_is_timed_against_plain_torch(figures):
    found, _ = figures("head", "--vocabulary", "50", "--head-tokens", "40")
    fused, plain = found["head"]
    assert fused["milliseconds"] > 0 and plain["times_faster_than_plain"] == 1
    assert fused["peak_megabytes"] is None or fused["peak_megabytes"] >= 0


def test_the_loader_reads_a_data_set(figures, tmp_path):
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": f"line {n} of a small corpus " * 9}) + "\n" for n in range(200)))
    words = ("data=text", f"data.files={text}", f"data.folder={tmp_path}", "data.tokenizer=byte", "data.workers=1")
    found, _ = figures("loader", "sweep", *words, "--gigabytes", "0.002")
    own, large = found["loader"]
    assert own["tokens_per_second"] > 0 and large["tokens_per_second"] > 0
    assert large["name"] == "0.002 GB of sparse shards" and large["megabytes_at_the_end"] > 0
    (jobs,) = found["sweep"]
    assert jobs["seconds_between_jobs"] > 0 and jobs["compile_seconds_later"] == 0


def test_two_configs_and_a_plain_peer_are_timed_in_turn(figures):
    found, _ = figures("peer", "--vocabulary", "50", "--compare", "model.layers=2", "model.layers=3 mlp=nff")
    ours, plain = found["peer"]
    assert ours["times_faster_than_plain"] > 0 and plain["times_faster_than_plain"] == 1
    first, second = found["compare"]
    assert (first["name"], second["name"]) == ("model.layers=2", "model.layers=3 mlp=nff")
    assert first["times_faster_than_first"] == 1 and second["milliseconds"] > 0


@pytest.mark.parametrize(
    ("words", "told"),
    [(("model", "optimizer.lr=fast"), "optimizer.lr"), (("models",), "models"), (("--matrices", "3x4"), "24x1024x256")],
)
def test_what_is_wrong_is_told_with_exit_code_2(words, told):
    done = bench(*TINY, *words)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert told in done.stderr

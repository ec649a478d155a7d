"""Golden losses: what a change of the house must leave as it is, bit for bit.

losses.json holds every training and validation loss of small runs (cases.yaml) and of the demo's three methods. On the
processor they were recorded on, with the same torch, equality is exact; elsewhere rounding differs and grows over the
steps, so losses agree to 2 %. `RAMEN_GOLDEN=record pytest tests/golden` records them anew: do so only in a commit that
says why.
"""

import hashlib
import json
import os
import platform
from pathlib import Path

import pytest
import torch
import yaml

HERE = Path(__file__).parent
CASES = yaml.safe_load((HERE / "cases.yaml").read_text())
DEMO = (
    "experiment=demo",
    "device=cpu",
    "precision=fp32",
    "threads=1",
    "trainer.steps=40",
    "data.validation_tokens=8000",
)
DEMO_METHODS = ("adamw", "normuon", "bam")
RECORDS = HERE / "losses.json"
ELSEWHERE = 0.02  # relative, where rounding differs


def processor() -> str:
    """Model and, since virtual machines share names, a hash of the instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    told = {line.partition("\t")[0]: line.partition(": ")[2] for line in lines}
    flags = " ".join(sorted(told.get("flags", told.get("Features", "")).split()))
    return f"{told.get('model name', platform.machine())} {hashlib.sha256(flags.encode()).hexdigest()[:8]}"


HERE_AND_NOW = {"processor": processor(), "torch": torch.__version__}


def losses(folder: Path) -> list[float]:
    """Training losses of a run, each followed by the validation loss where there is one."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[key] for line in lines for key in ("train_loss", "val_loss") if line[key] is not None]


def compare(name: str, measured: list[float]) -> None:
    records = json.loads(RECORDS.read_text()) if RECORDS.exists() else {}
    if os.environ.get("RAMEN_GOLDEN") == "record":
        same_machine = all(records.get(key) == value for key, value in HERE_AND_NOW.items())
        runs = {**(records.get("losses", {}) if same_machine else {}), name: measured}
        RECORDS.write_text(json.dumps({**HERE_AND_NOW, "losses": dict(sorted(runs.items()))}, indent=0) + "\n")
        return
    exact = all(records[key] == value for key, value in HERE_AND_NOW.items())
    tolerance = 0.0 if exact else ELSEWHERE
    assert measured == pytest.approx(records["losses"][name], rel=tolerance, abs=0.0)


@pytest.mark.parametrize("name", CASES)
def test_small_runs(name, train_small, tmp_path):
    if any(word.startswith("optimizer=") for word in CASES[name]):
        pytest.importorskip("pytorch_optimizer")
    train_small(tmp_path / "run", *CASES[name])
    compare(name, losses(tmp_path / "run"))


@pytest.mark.parametrize("method", DEMO_METHODS)
def test_the_demo(method, train_config, data_folder, tmp_path):
    train_config(tmp_path / "run", *DEMO, f"optimizer={method}", f"data.folder={data_folder}")
    compare(f"demo {method}", losses(tmp_path / "run"))

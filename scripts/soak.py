"""Kill a run at random moments, resume it each time, and see that it ends bitwise as the run nobody touched.

    python scripts/soak.py --cycles 50

Every kill is a SIGKILL of a real `train.py` that saves a checkpoint every other step: some hit a step, some a checkpoint being
written, some a record. Weights, metrics.jsonl and summary.json (but for clocks and names) must come out the same; exit code 1
if they do not.
"""

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ramen.errors import tolerate_broken_pipe

ROOT = Path(__file__).resolve().parent.parent
SMALL = (
    "data.tokenizer=byte", "data.sequence_length=64", "data.validation_tokens=1500", "device=cpu", "precision=fp32", "threads=1",
    "model.layers=2", "model.dim=32", "model.heads=2", "trainer.batch_tokens=256", "trainer.micro_batch_tokens=128",
    "trainer.record_every_steps=3", "trainer.evaluate_every_steps=50", "trainer.checkpoint_every_steps=2",
    "trainer.keep_checkpoints=2",
)  # fmt: skip
CLOCKS = ("seconds", "train_seconds", "evaluation_seconds", "compile_seconds", "tokens_per_second", "peak_memory")
# Of the run, of the words that led to it, and of the kill.
NAMES = ("run_id", "overrides", "resumed_step", "budgets", "sha256", "metrics_sha256")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cycles", type=int, default=50, help="how often to kill and resume (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=600, help="of the run that is killed (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="most it may train before it is killed (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    parser.add_argument("--data", type=Path, help="prepared data to use (default: anew)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(soak(Path(folder), arguments))


def soak(place: Path, arguments: argparse.Namespace) -> int:
    """Exit code: 0 when every run that was killed ended as the whole one."""
    words = (*SMALL, f"trainer.steps={arguments.steps}", f"data.folder={arguments.data or place / 'data'}")
    if start(place / "whole", words).wait() != 0:
        print((place / "whole.log").read_text())
        return 1
    whole, chance = outcome(place / "whole"), random.Random(arguments.seed)
    kills = in_checkpoint = runs = 0
    while kills < arguments.cycles or runs == 0:
        folder = place / f"killed_{runs}"
        while True:
            process = start(folder, words)
            if kills < arguments.cycles and killed(process, folder, chance.uniform(0, arguments.seconds)):
                kills += 1
                in_checkpoint += any((folder / "checkpoint").glob(".partial_*"))
                continue
            if process.wait() != 0:
                print(f"exit code {process.returncode} after {kills} kills:\n{folder.with_suffix('.log').read_text()}")
                return 1
            break
        runs += 1
        if differs := [key for key, value in outcome(folder).items() if value != whole[key]]:
            print(f"not the same after {kills} kills: {', '.join(differs)}")
            return 1
    print(
        f"{kills} kills, {in_checkpoint} of them in a half-written checkpoint; {runs} run(s) ended bitwise as the whole one"
    )
    return 0


def start(folder: Path, words: tuple[str, ...]) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(ROOT / "train.py"), *words, "resume=auto", f"hydra.run.dir={folder}"]
    return subprocess.Popen(command, cwd=ROOT, stderr=folder.with_suffix(".log").open("wb"))


def killed(process: subprocess.Popen[bytes], folder: Path, seconds: float) -> bool:
    """Whether it was killed in training, so long after it took up training; False if it came to its end before."""
    before = state(folder)
    while state(folder) == before and process.poll() is None:
        time.sleep(0.01)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def state(folder: Path) -> list[str]:
    """What a run changes once it trains."""
    return sorted(str(path) for path in (folder / "checkpoint").glob("step_*"))


def outcome(folder: Path) -> dict[str, Any]:
    """What must be the same."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((folder / "summary.json").read_text())
    newest = max((folder / "checkpoint").glob("step_*"))
    return {
        "weights": hashlib.sha256((newest / "model.safetensors").read_bytes()).hexdigest(),
        "metrics.jsonl": [{key: value for key, value in line.items() if key not in CLOCKS} for line in lines],
        "summary.json": {key: value for key, value in summary.items() if key not in (*CLOCKS, *NAMES)},
    }


if __name__ == "__main__":
    with tolerate_broken_pipe():
        main()

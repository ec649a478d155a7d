"""Everything that only a GPU can tell, in one command of ten minutes: `python -m benchmarks.gpu_check`.

Parity (tests/kernels/test_parity.py: attention backends, the kernels of head, optimizers and mHC, CUDA graphs, bf16, compiled
models), then throughput, MFU and memory of training steps of `baseline` and `gpt2_124m`, the head, CUDA graphs, and the time of
every optimizer's step, with Triton's kernels and without. Every part is a process of its own: one that crashes, breaks the GPU's
context or takes too long ends itself alone. Writes gpu_<name>.json and .md into --out after every part; exit code 0 when every
parity check holds, 1 when one does not, 2 without a GPU.
"""

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.__main__ import show
from ramen.errors import EXIT_CODE, tolerate_broken_pipe

ROOT = Path(__file__).resolve().parents[1]
PARITY = "tests/kernels/test_parity.py"
MATRICES = {"baseline": "24x1024x256", "gpt2_124m": "48x3072x768"}  # about those of each


def main() -> None:
    parser = argparse.ArgumentParser(
        "gpu_check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"), help="folder of the two files")
    parser.add_argument("--minutes", type=float, default=9.5, help="what is not done by then is left out, and said so")
    parser.add_argument("--part-minutes", type=float, default=3.0, help="a part that takes longer is ended")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds; medians count")
    parser.add_argument("--only", default="", help="the parts whose section and name hold this, as in `steps baseline`")
    arguments = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        print("gpu_check: needs a CUDA GPU, and torch sees none here", file=sys.stderr)
        sys.exit(EXIT_CODE)

    from ramen.device import describe

    figures: dict[str, Any] = {
        "machine": describe(torch.device("cuda")),
        "date": datetime.date.today().isoformat(),
    }
    deadline = time.monotonic() + 60 * arguments.minutes
    for (section, name), command in parts(arguments.rounds).items():
        if arguments.only in f"{section} {name}":
            seconds = min(60 * arguments.part_minutes, deadline - time.monotonic())
            result = figures.setdefault(section, {})[name] = run(command, seconds)
            print(f"{section} {name}: {sentence(result)}", flush=True)
            write(arguments.out, figures)  # as it goes: a machine may be taken away
    sys.exit(int(not all(result.get("holds") for result in figures.get("parity", {}).values())))


def parts(rounds: int) -> dict[tuple[str, str], list[str]]:
    """(section, name) -> the words after `python -m`, the most telling first."""
    return {("parity", name): ["pytest", "-q", *tests] for name, tests in parity_tests().items()} | {
        (section, f"{name}{suffix}"): ["benchmarks", "device=cuda", "precision=bf16", "--rounds", str(rounds), *options]
        for name, matrices in MATRICES.items()
        for section, suffix, options in measurements(name, matrices)
    }


def parity_tests() -> dict[str, list[str]]:
    """Tests by function and first parameter (an attention backend): a process for each alone would mostly start."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-o", "addopts=--import-mode=importlib", PARITY]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    groups: dict[str, list[str]] = {}
    for line in listed.stdout.splitlines():
        if "::" in line:
            groups.setdefault(line.partition("::")[2].partition("-")[0].rstrip("]"), []).append(line)
    return groups


def measurements(name: str, matrices: str) -> Iterator[tuple[str, str, list[str]]]:
    """Section, suffix and words of what is timed for an experiment."""
    for mode in ("on", "off", "regional"):
        yield "steps", f", {mode}", ["model", *_steps(name, mode)]
    graphs = "--compare", "trainer.cuda_graphs=false", "trainer.cuda_graphs=true"
    yield "graphs", "", [*_steps(name, "on"), *graphs]
    yield "head", "", ["head", *_steps(name, "on"), "--head-tokens", "8192"]
    yield "optimizers", "", ["optimizer", "--matrices", matrices]
    yield "optimizers", ", no kernels", ["optimizer", "--no-kernels", "--matrices", matrices]


def _steps(name: str, mode: str) -> list[str]:
    return [f"experiment={name}", f"compile={mode}", "--vocabulary", "50257"]


def run(command: list[str], seconds: float) -> dict[str, Any]:
    """Figures of a part, or the reason why there are none within so many seconds."""
    if seconds <= 0:
        return {"skipped": "no time was left"}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out.json")
        line = [sys.executable, "-m", *command, *(["--out", str(out)] if command[0] == "benchmarks" else [])]
        try:
            done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            return {"error": f"was ended after {seconds:.0f} s"}
        lines = (done.stdout + done.stderr).strip().splitlines() or [""]
        if done.returncode:
            return {"error": f"exit code {done.returncode}: {lines[-1]}", "output": lines[-60:]}
        if not out.exists():  # of pytest, whose last line counts
            return {"holds": "passed" in lines[-1], "tests": lines[-1]}
        *_, rows = json.loads(out.read_text()).values()  # of the only section
        return {"rows": rows}


def sentence(result: dict[str, Any]) -> str:
    """A result in a line, or a line for each row."""
    if "rows" not in result:
        state = "holds" if result.get("holds") else "DOES NOT HOLD"
        return str(result.get("skipped") or result.get("error") or f"{state} ({result['tests']})")
    lines = [
        ", ".join(f"{key.replace('_', ' ')} {show(value)}" for key, value in row.items()) for row in result["rows"]
    ]
    return "\n  - ".join([""] * (len(lines) > 1) + lines)


def write(folder: Path, figures: dict[str, Any]) -> None:
    """Both files, named by the GPU."""
    folder.mkdir(parents=True, exist_ok=True)
    machine = figures["machine"]
    page = [f"# {machine['device']}, {figures['date']}", "", f"torch {machine['versions']['torch']}; gpu_check.py"]
    for section in list(figures)[2:]:
        results = figures[section].items()
        page += ["", f"## {section.capitalize()}", "", *(f"- {name}: {sentence(each)}" for name, each in results)]
    name = "gpu_" + "".join(c if c.isalnum() else "_" for c in machine["device"].lower())
    (folder / f"{name}.json").write_text(json.dumps(figures, indent=1) + "\n")
    (folder / f"{name}.md").write_text("\n".join(page) + "\n")


if __name__ == "__main__":
    with tolerate_broken_pipe():
        main()

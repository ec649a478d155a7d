"""Everything that only a GPU can tell, in one command of ten minutes: `python scripts/gpu_check.py`.

Parity (attention backends, the fused head, CUDA graphs, bf16), then throughput, MFU and memory of training steps of `baseline` and
`gpt2_124m`, and the time of every optimizer's step. Writes gpu_<name>.json and .md into --out; exit code 0 when every parity check
holds, 1 when one does not, 2 without a GPU.
"""

import argparse
import datetime
import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ramen.errors import EXIT_CODE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"), help="folder of the two files")
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="what is not begun by then is left out, and said so"
    )
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds; medians count")
    arguments = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        print("gpu_check: needs a CUDA GPU, and torch sees none here", file=sys.stderr)
        sys.exit(EXIT_CODE)

    from ramen import device as machine
    from ramen import gpu

    device = torch.device("cuda")
    machine.prepare(device, None)
    found: dict[str, Any] = {"machine": machine.describe(device), "date": datetime.date.today().isoformat()}
    deadline = time.monotonic() + 60 * arguments.minutes
    parts: list[tuple[str, str, Callable[[], Any]]] = [("parity", name, check) for name, check in gpu.CHECKS.items()]
    parts += [
        ("steps", name, lambda words=words: gpu.steps(words, arguments.rounds)) for name, words in gpu.STEPS.items()
    ]  # type: ignore[misc]
    parts += [
        ("graphs", name, lambda name=name: gpu.recorded_steps(gpu.STEPS[name], arguments.rounds))
        for name in gpu.RECORDED
    ]  # type: ignore[misc]
    parts += [("optimizers", "all", lambda: gpu.optimizers(arguments.rounds))]
    for section, name, task in parts:
        told = found.setdefault(section, {})
        if time.monotonic() > deadline:
            told[name] = {"skipped": f"{arguments.minutes:g} minutes were over"}
        else:
            started = time.monotonic()
            try:
                told[name] = task()
            except Exception as error:  # one part's failure is a finding, not the end of the others
                told[name] = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
            told[name]["seconds"] = round(time.monotonic() - started, 1)
        print(f"{section} {name}: {gpu.sentence(told[name])}", flush=True)
        torch.cuda.empty_cache()
        write(arguments.out, found, gpu.markdown(found))  # as it goes: a machine may be taken away
    sys.exit(int(not all(result.get("holds") for result in found["parity"].values())))


def write(folder: Path, found: dict[str, Any], page: str) -> None:
    """Both files, named by the GPU."""
    folder.mkdir(parents=True, exist_ok=True)
    name = "gpu_" + "".join(c if c.isalnum() else "_" for c in found["machine"]["device"].lower())
    (folder / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / f"{name}.md").write_text(page)


if __name__ == "__main__":
    main()

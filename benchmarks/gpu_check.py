"""Everything that only a GPU can tell, in one command of ten minutes: `python -m benchmarks.gpu_check`.

Parity (attention backends, the kernels of head, optimizers and mHC, CUDA graphs, bf16, compiled models), then throughput, MFU and
memory of training steps of `baseline` and `gpt2_124m`, and the time of every optimizer's step. The parts run in a process of their
own, which is begun anew behind one that ends it, breaks the GPU's context or takes too long. Writes gpu_<name>.json and .md into
--out after every part; exit code 0 when every parity check holds, 1 when one does not, 2 without a GPU.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ramen.errors import EXIT_CODE, tolerate_broken_pipe


def main() -> None:
    parser = argparse.ArgumentParser(
        "gpu_check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"), help="folder of the two files")
    parser.add_argument("--minutes", type=float, default=9.5, help="what is not done by then is left out, and said so")
    parser.add_argument("--part-minutes", type=float, default=3.0, help="a part that takes longer is ended")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds; medians count")
    parser.add_argument("--only", default="", help="the parts whose section and name hold this, as in `steps baseline`")
    parser.add_argument("--worker", type=int, metavar="FROM", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        print("gpu_check: needs a CUDA GPU, and torch sees none here", file=sys.stderr)
        sys.exit(EXIT_CODE)

    from benchmarks import gpu_parts as gpu
    from ramen import device as machine

    known = gpu.parts(arguments.rounds)
    todo = [key for key in known if arguments.only in " ".join(key)]
    if arguments.worker is not None:
        work([known[key] for key in todo[arguments.worker :]])
        return
    found: dict[str, Any] = {
        "machine": machine.describe(torch.device("cuda")),
        "date": datetime.date.today().isoformat(),
    }
    deadline = time.monotonic() + 60 * arguments.minutes
    command = [sys.executable, "-m", "benchmarks.gpu_check", *sys.argv[1:], "--worker"]
    for (section, name), told in results(todo, command, deadline, 60 * arguments.part_minutes):
        found.setdefault(section, {})[name] = told
        print(f"{section} {name}: {gpu.sentence(told)}", flush=True)
        write(arguments.out, found, gpu.markdown(found))  # as it goes: a machine may be taken away
    sys.exit(int(not all(told.get("holds") for told in found.get("parity", {}).values())))


def work(parts: list[Callable[[], dict[str, Any]]]) -> None:
    """Run parts, and tell each one's result in a line of its own; end behind one that leaves the GPU unusable."""
    import torch

    lines, sys.stdout = sys.stdout, sys.stderr  # what else is printed is no result
    for part in parts:
        started = time.monotonic()
        try:
            told = part()
        except Exception as error:  # one part's failure is a finding, not the end of the others
            told = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
        told["seconds"] = round(time.monotonic() - started, 1)
        print(json.dumps(told), file=lines, flush=True)
        try:  # which fails for ever once a kernel has read where it may not
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except RuntimeError:
            os._exit(0)  # a new process goes on


def results(todo: list[Any], command: list[str], deadline: float, limit: float) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Each part of `todo` and its result, whatever becomes of it: `command` and a number runs those from there on."""
    done = 0
    while done < len(todo):
        if time.monotonic() > deadline:
            yield todo[done], {"skipped": "no time was left"}
            done += 1
            continue
        with subprocess.Popen([*command, str(done)], stdout=subprocess.PIPE, text=True) as worker:
            assert worker.stdout
            line = "\n"
            while line.endswith("\n") and done < len(todo):
                seconds = max(0.0, min(limit, deadline - time.monotonic()))
                clock = threading.Timer(seconds, worker.kill)
                clock.start()
                line = worker.stdout.readline()
                late = not clock.is_alive()
                clock.cancel()
                if line.endswith("\n"):
                    yield todo[done], json.loads(line)
                elif late or worker.wait():
                    told = (
                        f"was ended after {seconds:.0f} s" if late else f"ended its process, exit code {worker.wait()}"
                    )
                    yield todo[done], {"error": told}
                else:  # it ended between two parts
                    break
                done += 1
            worker.kill()


def write(folder: Path, found: dict[str, Any], page: str) -> None:
    """Both files, named by the GPU."""
    folder.mkdir(parents=True, exist_ok=True)
    name = "gpu_" + "".join(c if c.isalnum() else "_" for c in found["machine"]["device"].lower())
    (folder / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / f"{name}.md").write_text(page)


if __name__ == "__main__":
    with tolerate_broken_pipe():
        main()

"""How fast is training here: `python -m benchmarks [section ...] [overrides of train.py ...]`, or `make bench`.

Sections: model (tokens a second, FLOP/s, share of the matmul peak), peer (the same model in plain torch), optimizer (one step of
each against torch.optim.Muon), head (fused against plain torch), loader, startup, sweep (time between jobs); all of them when none
is named. --compare measures training steps of several lists of overrides in turn. Examples:
  python -m benchmarks model model.dim=256 precision=bf16 compile=on threads=1 --vocabulary 512
  python -m benchmarks head optimizer --rounds 9 --out bench.json
  python -m benchmarks threads=1 --compare "precision=fp32" "precision=bf16 mlp=nff"
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ramen.errors import EXIT_CODE, RamenError, tolerate_broken_pipe

SECTIONS = ("model", "peer", "optimizer", "head", "loader", "startup", "sweep")


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", metavar="SECTION or KEY=VALUE")
    parser.add_argument("--vocabulary", type=int, help="token ids of the random text (model: 2048, head: 50304)")
    parser.add_argument("--head-tokens", type=int, default=2048, help="tokens of the head's batch")
    parser.add_argument("--matrices", default="24x1024x256", help="what the optimizers step: NUMBERxROWSxCOLUMNS")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds; medians count")
    parser.add_argument("--gigabytes", type=float, default=10.0, help="size of the loader's sparse shards")
    parser.add_argument(
        "--compare", nargs="+", metavar="OVERRIDES", help="lists of overrides whose steps are timed in turn"
    )
    parser.add_argument("--out", type=Path, help="write all figures here, as json")
    arguments = parser.parse_args()
    sections = [word for word in arguments.words if "=" not in word]
    if unknown := set(sections) - set(SECTIONS):
        parser.error(f"no such section: {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    try:
        matrices = tuple(map(int, arguments.matrices.split("x")))
        if len(matrices) != 3 or min(*matrices, arguments.rounds) < 1:
            raise ValueError
    except ValueError:
        parser.error("--matrices takes three numbers, as in 24x1024x256, and --rounds one of 1 or more")

    from rich.console import Console

    from benchmarks.benchmark import Workload, benchmark

    work = Workload(
        overrides=tuple(word for word in arguments.words if "=" in word),
        vocabulary=arguments.vocabulary,
        head_tokens=arguments.head_tokens,
        matrices=matrices,
        rounds=arguments.rounds,
        loader_gigabytes=arguments.gigabytes,
    )
    lists = [words.split() for words in arguments.compare or []]
    sections = sections or ([] if lists else list(SECTIONS))
    console = Console()
    try:
        found = benchmark(work, sections, lambda name, rows: console.print(table(name, rows)), lists)
        if arguments.out:
            arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    except (RamenError, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_CODE)
    console.print(", ".join(f"{key} {found['machine'][key]}" for key in ("device", "threads", "precision", "kernels")))


def table(name: str, rows: list[dict[str, Any]]) -> Any:
    """One section as a table; a single row stands upright."""
    from rich.table import Table

    made = Table(title=name, title_justify="left", title_style="bold")
    if len(rows) == 1:
        made.add_column("figure")
        made.add_column("value", justify="right")
        for key, value in rows[0].items():
            made.add_row(key.replace("_", " "), show(value))
        return made
    for key in rows[0]:
        made.add_column(key.replace("_", " "), justify="left" if key == "name" else "right")
    for row in rows:
        made.add_row(*(show(row.get(key)) for key in rows[0]))
    notes = [f"{row['name']}: {row['note'].splitlines()[0]}" for row in rows if "note" in row]
    made.caption, made.caption_justify = "\n".join(notes) or None, "left"
    return made


def show(value: Any) -> str:
    """A figure to three digits or more."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    with tolerate_broken_pipe():
        main()

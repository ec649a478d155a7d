"""The speed of training here: `python -m benchmarks [section ...] [overrides of train.py ...]`, or `make bench`.

Sections: model (tokens a second, FLOP/s, share of the matmul peak), peer (the same model in plain torch), optimizer (one step of
each against torch.optim.Muon), head (fused against plain torch), loader, startup, sweep (time between jobs), busy (runs beside
another process); all of them when none is named. --compare measures training steps of several lists of overrides in turn. Examples:
  python -m benchmarks model model.dim=256 precision=bf16 compile=on threads=1 --vocabulary 512
  python -m benchmarks head optimizer --rounds 9 --out bench.json
  python -m benchmarks threads=1 --compare "precision=fp32" "precision=bf16 mlp=nff"
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ramen.errors import EXIT_CODE, RamenError, tolerate_broken_pipe

SECTIONS = ("model", "peer", "optimizer", "head", "loader", "startup", "sweep", "busy")


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", metavar="SECTION or KEY=VALUE")
    parser.add_argument("--vocabulary", type=int, help="token ids of the random text (model: 2048, head: 50304)")
    parser.add_argument("--head-tokens", type=int, default=2048, help="tokens of the head's batch")
    example = "24x1024x256"
    parser.add_argument("--matrices", type=matrices, default=example, metavar=example, help="what the optimizers step")
    parser.add_argument("--rounds", type=positive, default=5, help="timed rounds; medians count")
    parser.add_argument("--gigabytes", type=float, default=10.0, help="size of the loader's sparse shards")
    parser.add_argument(
        "--compare", nargs="+", default=[], metavar="OVERRIDES", help="lists of overrides whose steps are timed in turn"
    )
    parser.add_argument("--no-kernels", action="store_true", help="plain torch alone")
    parser.add_argument("--out", type=Path, help="write all figures here, as json")
    arguments = parser.parse_intermixed_args()
    sections = [word for word in arguments.words if "=" not in word]
    if unknown := set(sections) - set(SECTIONS):
        parser.error(f"no such section: {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    from rich.console import Console

    from benchmarks.context import Workload

    overrides = tuple(word for word in arguments.words if "=" in word)
    sizes = arguments.vocabulary, arguments.head_tokens, arguments.matrices, arguments.rounds, arguments.gigabytes
    console = Console()
    try:
        figures = measure(
            Workload(overrides, *sizes),
            sections or ([] if arguments.compare else list(SECTIONS)),
            [words.split() for words in arguments.compare],
            not arguments.no_kernels,
            lambda name, rows: console.print(table(name, rows)),
        )
        if arguments.out:
            arguments.out.write_text(json.dumps(figures, indent=1) + "\n")
    except (RamenError, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_CODE)
    console.print(
        ", ".join(f"{key} {figures['machine'][key]}" for key in ("device", "threads", "precision", "kernels"))
    )


def positive(text: str) -> int:
    """A number of 1 or more."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def matrices(text: str) -> tuple[int, int, int]:
    """Number, rows and columns."""
    number, rows, columns = map(positive, text.split("x"))
    return number, rows, columns


def measure(
    work: Any,
    sections: list[str],
    lists: list[list[str]],
    with_kernels: bool,
    show_section: Callable[[str, list[dict[str, Any]]], None],
) -> dict[str, Any]:
    """Measure the sections, and steps under each of `lists` of overrides. ConfigError for a config that is wrong."""
    from benchmarks import head, jobs, loader, optimizers, step
    from benchmarks.context import BenchmarkContext
    from ramen import device, kernels
    from ramen.config.check import settings

    by_name: dict[str, Callable[..., list[dict[str, Any]]]] = {
        "model": step.model, "peer": step.against_peer, "optimizer": optimizers.optimizer, "head": head.head,
        "loader": loader.loader, "startup": jobs.startup, "sweep": jobs.sweep, "busy": jobs.busy_machine,
    }  # fmt: skip
    root = settings(work.config())
    where = device.select_device(root.device)
    device.prepare(where, root.threads)
    kernels.prepare_memory(where)
    if with_kernels:
        kernels.register()
    context = BenchmarkContext(where, device.select_precision(root.precision, where))
    facts = {
        "precision": str(context.precision).removeprefix("torch."),
        "kernels": kernels.status() if with_kernels else "off",
    }
    figures: dict[str, Any] = {"machine": device.describe(where) | facts, "overrides": list(work.overrides)}
    for name in sections:
        figures[name] = by_name[name](work, context)
        show_section(name, figures[name])
    if lists:
        figures["compare"] = step.compare(work, context, lists)
        show_section("compare", figures["compare"])
    return figures


def table(name: str, rows: list[dict[str, Any]]) -> Any:
    """One section as a table; a single row stands upright."""
    from rich.table import Table

    grid = Table(title=name, title_justify="left", title_style="bold", show_header=len(rows) > 1)
    keys = list(rows[0])
    lines = [[key.replace("_", " "), show(rows[0][key])] for key in keys]
    if len(rows) > 1:
        lines = [[show(row.get(key)) for key in keys] for row in rows]
    for number, key in enumerate(keys if len(rows) > 1 else ("figure", "value")):
        grid.add_column(key.replace("_", " "), justify="right" if number else "left")
    for line in lines:
        grid.add_row(*line)
    notes = [f"{row['name']}: {row['note'].splitlines()[0]}" for row in rows if "note" in row]
    grid.caption, grid.caption_justify = "\n".join(notes) or None, "left"
    return grid


def show(value: Any) -> str:
    """A figure to three digits or more."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    with tolerate_broken_pipe():
        main()

"""`ramen sample`: write text with a trained model: `ramen sample outputs/NAME/DATE/0-... --prompt "ROMEO."`."""

import argparse
import contextlib
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str]) -> int:
    """Print text that continues the prompt; Ctrl-C ends it."""
    parser = run_parser("ramen sample", "Write text with the model of a run folder, token by token.")
    add = parser.add_argument
    add("--prompt", default="", help="text to continue; empty opens a new document")
    add("--tokens", type=int, default=200, help="tokens to write, at most (%(default)s)")
    add("--temperature", type=float, default=0.8, help="0 takes the likeliest token every time (%(default)s)")
    add("--top-k", type=int, help="draw from the k likeliest tokens only (default: from all)")
    add("--seed", type=int, default=0, help="the same seed writes the same text (%(default)s)")
    options = vars(parser.parse_args(arguments))

    from ramen.inference.load import open_run

    run = open_run(*(options.pop(name) for name in ("run_folder", "device", "step", "allow_targets")))
    print(options["prompt"], end="", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        for piece in run.pieces(**options):
            print(piece, end="", flush=True)
    print(flush=True)
    return 0


def run_parser(command: str, description: str, epilog: str | None = None) -> argparse.ArgumentParser:
    """A parser of the options that open a trained run."""
    parser = argparse.ArgumentParser(prog=command, description=description, epilog=epilog)
    add = parser.add_argument
    add("run_folder", type=Path)
    add("--step", help="a step, or best (default: the newest)")
    trusted = "may be imported for it; can be repeated"
    add("--allow-targets", action="append", default=[], metavar="PACKAGE", help=trusted)
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N (%(default)s)")
    return parser

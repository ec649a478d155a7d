"""The `ramen` command and its doors in a clone, train.py and scripts/: arguments in, exit code out, errors without a traceback."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module

import ramen
from ramen.errors import EXIT_CODE, RamenError, printable, tolerate_broken_pipe

COMMANDS = {
    "train": "train a model, or with -m several; its arguments are those of train.py",
    "compare": "compare runs: report, pictures, table",
    "sample": "write text with a trained model",
    "evaluate": "loss and bits per byte of a trained model",
    "prepare": "fetch or tokenize data ahead of a run",
    "dashboard": "make a W&B workspace for a comparison",
}
SPINNING = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}  # loops of GNU's OpenMP, milliseconds of Intel's and LLVM's
INTERRUPTED = 130  # what a shell reports of a process that Ctrl-C ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code. What a user can mend is a message on stderr and code 2."""
    if "OMP_WAIT_POLICY" not in os.environ:
        # Before torch is loaded. By default a thread that waits for others spins, which on a busy machine takes their time.
        os.environ.update(SPINNING | os.environ)
    try:
        with tolerate_broken_pipe():
            try:
                command, *rest = _command(list(sys.argv[1:] if arguments is None else arguments))
                return import_module(f"ramen.cli.{command}").main(rest)
            except SystemExit as ending:  # of argparse, and of Hydra after its help
                return int(ending.code or 0)
    except RamenError as error:
        print(printable(error), file=sys.stderr)
    except OSError as error:  # of a folder, before a run has one
        print(printable(f"{error.filename or 'output'}: {error.strerror or error}"), file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    return EXIT_CODE


def _command(arguments: list[str]) -> list[str]:
    """The name of a command, and its arguments."""
    if {*arguments[:1]} & {"-sc", "--shell-completion"}:  # a shell asks for completions of COMP_LINE, for train
        os.environ["COMP_LINE"] = re.sub(r"^(\S+)\s+train\b", r"\1", os.environ.get("COMP_LINE", ""))
        return ["train", *arguments]
    parser = argparse.ArgumentParser(prog="ramen", description="Fair, fast, single-GPU ablations of GPT training.")
    parser.add_argument("--version", action="version", version=f"ramen {ramen.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        commands.add_parser(name, help=summary, add_help=False)
    name = parser.parse_known_args(arguments[:1])[0].command
    return [name, *arguments[1:]]

"""Loss and bits per byte of a trained model: `python scripts/evaluate.py outputs/NAME/DATE/0-... [FILE ... | data=...]`."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ramen.errors import EXIT_CODE, RamenError, a_reader_may_leave
from ramen.runs.folder import EVALUATIONS, RunFolder

if TYPE_CHECKING:
    from ramen.inference.evaluate import Evaluation


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Loss and bits per byte of a run folder's model on its validation split, or on other data.",
        epilog="examples: RUN | RUN shard.bin | RUN 'books/*.txt' | RUN data=fineweb10b | RUN data.validation_tokens=null",
    )
    parser.add_argument("run_folder", type=Path)
    parser.add_argument(
        "on", nargs="*", help=".bin shards, or .txt, .jsonl, .parquet files (whole), or overrides of data"
    )
    parser.add_argument("--step", help="a step, or best (default: the newest)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one line of json")
    parser.add_argument("--save", action="store_true", help=f"add that line to {EVALUATIONS} in the run folder")
    return parser.parse_intermixed_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    try:
        from ramen.inference.evaluate import evaluate_on
        from ramen.inference.load import open_run

        run = open_run(options.run_folder, options.device, options.step)
        found = evaluate_on(run, *options.on)
        line = json.dumps(asdict(found))
        if not found.tokenizer_known:
            print(
                "no manifest beside the shard: its ids are in range, that they mean the same is trusted",
                file=sys.stderr,
            )
        print(line if options.json else _sentence(found))
        if options.save:
            RunFolder(options.run_folder).evaluated(asdict(found))
    except RamenError as error:
        print(error, file=sys.stderr)
        return EXIT_CODE
    return 0


def _sentence(found: "Evaluation") -> str:
    return (
        f"{found.on}, step {found.step}: loss {found.loss:.4f} nats a token, {found.bits_per_byte:.4f} bits per byte\n"
        f"over {found.tokens:,} tokens of {found.bytes_per_token:.3f} bytes"
    )


if __name__ == "__main__":
    with a_reader_may_leave():
        sys.exit(main())

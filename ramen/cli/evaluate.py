"""`ramen evaluate`: loss and bits per byte of a trained model: `ramen evaluate outputs/NAME/DATE/0-... [FILE ... | data=...]`."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from ramen.cli.sample import run_parser
from ramen.runs.folder import EVALUATIONS, RunFolder


def main(arguments: Sequence[str]) -> int:
    """Print the loss of a run folder's model on its validation split, or on other data."""
    parser = run_parser(
        "ramen evaluate",
        "Loss and bits per byte of a run folder's model on its validation split, or on other data.",
        "examples: RUN | RUN shard.bin | RUN 'books/*.txt' | RUN data=fineweb10b | RUN data.validation_tokens=null",
    )
    add = parser.add_argument
    add("on", nargs="*", help=".bin shards, or .txt, .jsonl, .parquet files (whole), or overrides of data")
    add("--json", action="store_true", help="print one line of json")
    add("--save", action="store_true", help=f"add that line to {EVALUATIONS} in the run folder")
    options = parser.parse_intermixed_args(arguments)

    from ramen.inference.evaluate import evaluate_on
    from ramen.inference.load import open_run

    result = evaluate_on(open_run(options.run_folder, options.device, options.step, options.allow_targets), *options.on)
    if not result.tokenizer_known:
        print("no manifest beside the shard: its ids are in range, their meaning is trusted", file=sys.stderr)
    if options.json:
        print(json.dumps(asdict(result)))
    else:
        losses = f"loss {result.loss:.4f} nats a token, {result.bits_per_byte:.4f} bits per byte"
        print(f"{result.on}, step {result.step}: {losses}")
        print(f"over {result.tokens:,} tokens of {result.bytes_per_token:.3f} bytes")
    if options.save:
        RunFolder(options.run_folder).append(EVALUATIONS, asdict(result))
    return 0

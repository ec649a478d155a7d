"""Write text with a trained model: `python scripts/sample.py outputs/NAME/DATE/0-... --prompt "ROMEO."`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ramen.errors import EXIT_CODE, RamenError, a_reader_may_leave


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Write text with the model of a run folder, token by token.")
    parser.add_argument("run_folder", type=Path)
    parser.add_argument("--prompt", default="", help="text to continue; empty opens a new document")
    parser.add_argument("--tokens", type=int, default=200, help="tokens to write, at most (%(default)s)")
    parser.add_argument(
        "--temperature", type=float, default=0.8, help="0 takes the likeliest token every time (%(default)s)"
    )
    parser.add_argument("--top-k", type=int, help="draw from the k likeliest tokens only (default: from all)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed writes the same text (%(default)s)")
    parser.add_argument("--step", help="a step, or best (default: the newest)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N (%(default)s)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    try:
        from ramen.inference.load import open_run
        from ramen.inference.sample import sample

        run = open_run(options.run_folder, options.device, options.step)
        drawn = sample(
            run.model,
            run.tokenizer,
            prompt=options.prompt,
            tokens=options.tokens,
            temperature=options.temperature,
            top_k=options.top_k,
            seed=options.seed,
        )
        print(options.prompt, end="", flush=True)
        for piece in drawn:
            print(piece, end="", flush=True)
        print(flush=True)
    except RamenError as error:
        print(error, file=sys.stderr)
        return EXIT_CODE
    except KeyboardInterrupt:
        print()
    return 0


if __name__ == "__main__":
    with a_reader_may_leave():
        sys.exit(main())

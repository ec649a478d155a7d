"""Compare runs: `ramen compare`, from a clone."""

import sys

from ramen.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))

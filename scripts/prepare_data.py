"""Tokenize or fetch data ahead of a run: `ramen prepare`, from a clone."""

import sys

from ramen.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["prepare", *sys.argv[1:]]))

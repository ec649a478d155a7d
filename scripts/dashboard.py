"""Make a W&B workspace for a comparison: `ramen dashboard`, from a clone."""

import sys

from ramen.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["dashboard", *sys.argv[1:]]))

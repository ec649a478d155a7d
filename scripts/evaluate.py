"""Loss and bits per byte of a trained model: `ramen evaluate`, from a clone."""

import sys

from ramen.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))

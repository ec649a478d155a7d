"""Write text with a trained model: `ramen sample`, from a clone."""

import sys

from ramen.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["sample", *sys.argv[1:]]))

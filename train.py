"""Train a GPT: `python train.py optimizer=bam mlp=nff`, or a sweep: `python train.py -m optimizer=muon,bam`.

The same as `ramen train`, from a clone.
"""

import sys

from ramen.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))

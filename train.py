"""Train a GPT: `python train.py optimizer=bam mlp=nff`, or a sweep: `python train.py -m optimizer=muon,bam`.

The door. It imports no torch, so that --help and tab completion are quick; ramen.build.run does the work.
"""

from ramen.cli.command import main

if __name__ == "__main__":
    main()

"""A W&B workspace that compares the runs of a sweep: `python scripts/dashboard.py outputs/my_sweep --by optimizer`.

The runs must be in W&B: trained with `logger=wandb`, and synced (`wandb sync`) if that was offline. See docs/wandb.md.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ramen.cli.dashboard import build, plan, send
from ramen.errors import EXIT_CODE, RamenError, a_reader_may_leave


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make a W&B workspace that compares the runs of one or more sweeps.")
    parser.add_argument("folders", nargs="+", type=Path, help="run folders, or folders that hold runs at any depth")
    parser.add_argument("--by", action="append", help="config group or dotted key to group by; repeat or use commas")
    parser.add_argument("--entity", help="W&B entity (default: the runs', else your default one)")
    parser.add_argument("--project", help="W&B project (default: the runs')")
    parser.add_argument("--dry-run", action="store_true", help="print the workspace as json, send nothing")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    try:
        found = plan(options.folders, options.by, options.entity, options.project)
        for warning in found.warnings:
            print(warning, file=sys.stderr)
        workspace = build(found)
        told = json.dumps(workspace._spec, indent=1) if options.dry_run else send(workspace)
    except (RamenError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return EXIT_CODE
    print(told)
    return 0


if __name__ == "__main__":
    with a_reader_may_leave():
        sys.exit(main())

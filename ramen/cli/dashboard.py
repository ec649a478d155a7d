"""`ramen dashboard`: a W&B workspace that compares the runs of sweeps: `ramen dashboard outputs/my_sweep --by optimizer`.

The runs must be in W&B: trained with `logger=wandb`, and synced (`wandb sync`) if that was offline. Every key that the workspace
refers to is one that ramen.logger.wandb logs. See docs/wandb.md.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ramen.errors import ConfigError, DataError, RamenError, one_line, printable
from ramen.logger.wandb import group_name
from ramen.report.grouping import default_by, group, parse_by, setting_keys
from ramen.runs.read import Run, read_runs

AXES = {"Step": "step", "tokens": "tokens of training", "seconds": "seconds of training alone"}
MOST_RUNS = 200  # drawn in a panel


def main(arguments: Sequence[str]) -> int:
    """Make the workspace and print its address."""
    parser = argparse.ArgumentParser(
        prog="ramen dashboard", description="Make a W&B workspace that compares the runs of one or more sweeps."
    )
    add = parser.add_argument
    add("folders", nargs="+", type=Path, help="run folders, or folders that hold runs at any depth")
    add("--by", action="append", help="config group or dotted key to group by; repeat or use commas")
    add("--entity", help="W&B entity (default: the runs', else your default one)")
    add("--project", help="W&B project (default: the runs')")
    add("--dry-run", action="store_true", help="print the workspace as json, send nothing")
    options = parser.parse_args(arguments)
    built, warnings = workspace(options.folders, options.by, options.entity, options.project)
    for warning in warnings:
        print(printable(warning), file=sys.stderr)
    print(json.dumps(built._spec, indent=1) if options.dry_run else send(built))
    return 0


def workspace(
    tops: Sequence[Path], by: Sequence[str] | None = None, entity: str | None = None, project: str | None = None
) -> tuple[Any, list[str]]:
    """The workspace of the runs below `tops`, grouped by method, best first, and warnings of runs that could not be read.

    DataError where the runs were not logged to one W&B project.
    """
    all_runs, warnings = read_runs(tops)
    runs = [run for run in all_runs if run.value("logger._target_") == "ramen.logger.wandb.WandB"]
    if not runs:
        raise DataError(f"{tops[0]}: holds no run that W&B knows, got none with logger=wandb; train with it")
    method_keys = parse_by(by, runs) or default_by(runs)
    varying = (  # within a method besides the seed, as its learning rate: runs are never averaged over that
        key
        for method in group(runs, method_keys, "final_val_loss")
        for key in setting_keys(method.runs, method_keys)
        if len({run.value(key) for run in method.runs}) > 1
    )
    choices = {key for run in runs for key in run.choices}
    unique = dict.fromkeys([*method_keys, *varying])
    keys = [f"choice.{key.replace('.', '_')}" if key in choices else key for key in unique]  # as W&B names them
    sweeps = [str(run.value("logger.group") or group_name(run.folder.resolve(), "job" in run.facts)) for run in runs]
    sweeps = list(dict.fromkeys(sweeps))
    try:
        import wandb_workspaces.workspaces as spaces
        from wandb_workspaces import expr
    except ImportError as error:
        raise ConfigError(f"dashboard: cannot be built: {error}; pip install -e '.[dashboard]'") from error

    shown = ["summary:final_val_loss", "summary:final_val_bits_per_byte", "summary:status"]
    for key in dict.fromkeys([*keys, "optimizer.lr", "seed"]):
        first, dot, rest = key.partition(".")
        shown.append(f"config:{first}.value{dot}{rest}")  # where W&B stores `optimizer.lr`
    try:
        run_table = spaces.RunsetSettings(
            filters=expr.And(expr.Metric("Group").isin(sweeps)),
            groupby=[expr.Config(key) for key in keys],
            order=[expr.Ordering(expr.Summary("final_val_loss"), ascending=True)],
            pinned_columns=shown,
        )
        built = spaces.Workspace(
            entity=entity or _same(runs, "entity", "--entity") or "",
            project=project or _same(runs, "project", "--project") or "",
            name=f"{' and '.join(method_keys)}: {', '.join(sweeps)}"[:120],
            sections=_sections(keys),
            settings=spaces.WorkspaceSettings(max_runs=MOST_RUNS),
            runset_settings=run_table,
        )
    except ValueError as error:  # of the library, for a name that W&B does not take
        raise ConfigError(
            f"dashboard: cannot be built, got {one_line(error)}; --entity and --project name its place"
        ) from error
    return built, warnings


def _same(runs: list[Run], key: str, option: str) -> str | None:
    values = {run.value(f"logger.{key}") for run in runs}
    if len(values) > 1:
        raise DataError(f"{option}: the runs were logged to {', '.join(sorted(map(str, values)))}; name one")
    [value] = values
    return None if value is None else str(value)


def _sections(keys: list[str]) -> list[Any]:
    """The panels of a comparison of runs that are grouped by these config keys."""
    import wandb_workspaces.reports.v2 as panels
    import wandb_workspaces.workspaces as spaces

    # A panel takes one key; with several it follows the grouping of the run table.
    grouped: dict[str, Any] = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stddev", "max_runs_to_show": MOST_RUNS}
    grouped |= {"groupby": panels.Config(keys[0])} if len(keys) == 1 else {}

    def line(metric: str, axis: str) -> Any:
        outliers, label = metric.startswith("val_") or None, AXES[axis]
        return panels.LinePlot(
            title=f"{metric} over {label}", x=axis, y=[metric], title_x=label, ignore_outliers=outliers, **grouped
        )

    def bars(metric: str) -> Any:
        return panels.BarPlot(title=f"{metric}, mean and standard deviation", metrics=[metric], **grouped)

    def scatter(key: str) -> Any:
        x, y = panels.Config(key), panels.SummaryMetric("final_val_loss")
        return panels.ScatterPlot(title=f"final_val_loss against {key}", x=x, y=y, log_x=key.endswith(".lr") or None)

    column = panels.ParallelCoordinatesPlotColumn
    columns = [column(panels.Config(k), log=k.endswith(".lr") or None) for k in dict.fromkeys([*keys, "optimizer.lr"])]
    columns += [column(panels.SummaryMetric(key)) for key in ("tokens_per_second", "final_val_loss")]
    sections = {
        "Which is better": [
            line("val_loss", "tokens"),
            line("val_loss", "seconds"),
            bars("final_val_loss"),
            line("val_bits_per_byte", "tokens"),
            line("val_loss", "Step"),
            bars("final_val_bits_per_byte"),
        ],
        "Is each tuned": [
            scatter("optimizer.lr"),
            scatter("seed"),
            panels.ParallelCoordinatesPlot(title="settings", columns=columns),
        ],
        "How it trained": [line(key, "Step") for key in ("train_loss", "grad_norm", "lr")],
        "What it costs": [bars(key) for key in ("tokens_per_second", "train_seconds", "peak_memory")],
    }
    return [
        spaces.Section(
            name=name, panels=of, is_open=True, layout_settings=spaces.SectionLayoutSettings(3, math.ceil(len(of) / 3))
        )
        for name, of in sections.items()
    ]


def send(workspace: Any) -> str:
    """Save it in W&B; its address. ConfigError when there is no login or no way to W&B."""
    import wandb

    try:
        if not wandb.login(prompt=False, verify=True):
            raise ConfigError("dashboard: not logged in to W&B; wandb login, or --dry-run to see what would be sent")
        workspace.entity = workspace.entity or wandb.Api(timeout=20).default_entity
        return str(workspace.save().url)
    except RamenError:
        raise
    except Exception as error:  # wandb raises many kinds for a refused key, no network, no such project
        raise ConfigError(
            f"dashboard: W&B did not take it, got {one_line(error)}; it needs wandb login and a network, or use --dry-run"
        ) from error

"""Tokenize or fetch data ahead of time: `python scripts/prepare_data.py data=fineweb10b data.shards=9`.

train.py does the same by itself when the data is not there yet; this door is for large corpora and for a look at
their numbers. Stopped or killed, the same command goes on where it was.
"""

import os
import sys
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ramen.cli.command import INTERRUPTED, fail
from ramen.config.compose import plain
from ramen.config.diagnosis import diagnose
from ramen.errors import ConfigError, RamenError, a_reader_may_leave

if TYPE_CHECKING:
    from ramen.data.dataset import Dataset

NO_FILES = ["hydra.output_subdir=null", "hydra.run.dir=.", "hydra.sweep.dir=outputs", "hydra.sweep.subdir=."]
NO_CLAIM = ["++hydra.callbacks.run._target_=hydra.experimental.callback.Callback"]  # on this folder, as on a run's
NO_LOG = ["hydra/job_logging=disabled", "hydra/hydra_logging=disabled"]


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def main(config: DictConfig) -> None:
    """Prepare `data` of the config and print what it holds."""
    from ramen.config.check import check_node
    from ramen.config.registry import build

    try:
        node = plain(config, HydraConfig.get())["data"]
        if problems := check_node(node, "data", "data", config.get("allow_targets") or ()):
            raise ConfigError(*problems)
        show(build(node).dataset())
    except (RamenError, OmegaConfBaseException) as problem:
        fail(problem)  # here: Hydra would announce it in its own words
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        sys.exit(INTERRUPTED)


def show(dataset: "Dataset") -> None:
    """One row a split."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "split",
        "documents",
        "tokens",
        "share",
        "bytes / token",
        "shards",
        title=f"{dataset.tokenizer.vocabulary} ids, {dataset.hash}",
    )
    total = dataset.train_tokens + dataset.validation_tokens
    for split, shards in (("train", dataset.train), ("validation", dataset.validation)):
        documents, tokens, size = (getattr(dataset, f"{split}_{what}") for what in ("documents", "tokens", "bytes"))
        table.add_row(
            split, f"{documents:,}", f"{tokens:,}", f"{tokens / total:.1%}", f"{size / tokens:.2f}", str(len(shards))
        )
    console = Console(markup=False)
    console.print(table)
    console.print(str(dataset.folder), soft_wrap=True)


if __name__ == "__main__":
    # Beside the other overrides (argparse wants them together) and in front of them, so that the user's own win.
    first = next(
        (at for at, word in enumerate(sys.argv) if at and "=" in word and not word.startswith("-")), len(sys.argv)
    )
    given = [word for word in sys.argv[first:] if not word.startswith("-")]
    sys.argv[first:first] = NO_FILES + NO_CLAIM + NO_LOG
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come here to be told, not printed by Hydra
    try:
        with a_reader_may_leave():
            main()
    except (HydraException, OmegaConfBaseException) as problem:
        fail(diagnose(given, problem))

"""`ramen prepare`: tokenize or fetch data ahead of a run: `ramen prepare data=fineweb10b data.shards=9`.

A run does the same by itself; this is for large corpora, and for a look at their numbers. Stopped or killed, the same command
continues.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ramen.cli.command import parse
from ramen.cli.train import print_config

if TYPE_CHECKING:
    from ramen.data.dataset import Dataset


def main(arguments: Sequence[str]) -> int:
    """Prepare `data` of a config, given by overrides, and print what it holds."""
    from ramen.build.objects import build_section

    command = parse(arguments)
    if command.prints:
        return print_config(command)
    with command.composer().open() as composer:
        _, config = composer.checked(command.overrides)
    _print(build_section(config, "data").dataset())
    return 0


def _print(dataset: "Dataset") -> None:
    """Print a row for each split."""
    from rich.console import Console
    from rich.table import Table

    columns = ("split", "documents", "tokens", "share", "bytes / token", "shards")
    table = Table(*columns, title=f"{dataset.tokenizer.vocabulary} ids, {dataset.hash}")
    d, total = dataset, dataset.train_tokens + dataset.validation_tokens
    for split, documents, tokens, size, shards in (
        ("train", d.train_documents, d.train_tokens, d.train_bytes, d.train),
        ("validation", d.validation_documents, d.validation_tokens, d.validation_bytes, d.validation),
    ):
        shares = (f"{tokens / total:.1%}", f"{size / tokens:.2f}", str(len(shards)))
        table.add_row(split, f"{documents:,}", f"{tokens:,}", *shares)
    console = Console(markup=False)
    console.print(table)
    console.print(str(dataset.folder), soft_wrap=True)

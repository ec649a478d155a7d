"""`ramen prepare`: tokenize or fetch data ahead of a run: `ramen prepare data=fineweb10b data.shards=9`.

A run does the same by itself; this is for large corpora, and for a look at their numbers. Stopped or killed, the same command
continues.
"""

from collections.abc import Sequence

from ramen.cli.command import parse
from ramen.cli.train import print_config


def main(arguments: Sequence[str]) -> int:
    """Prepare `data` of a config, given by overrides, and print what it holds."""
    from rich.console import Console
    from rich.table import Table

    from ramen.build.objects import build_section
    from ramen.data.dataset import Dataset

    command = parse(arguments)
    if command.prints:
        return print_config(command)
    with command.composer().open() as composer:
        _, config = composer.checked(command.overrides)
    d: Dataset = build_section(config, "data").dataset()
    columns = "split", "documents", "tokens", "share", "bytes / token", "shards"
    table = Table(*columns, title=f"{d.tokenizer.vocabulary} ids, {d.hash}")
    total = d.train.tokens + d.validation.tokens
    for name, split in (("train", d.train), ("validation", d.validation)):
        shares = f"{split.tokens / total:.1%}", f"{split.bytes / split.tokens:.2f}", str(len(split.paths))
        table.add_row(name, f"{split.documents:,}", f"{split.tokens:,}", *shares)
    console = Console(markup=False)
    console.print(table)
    console.print(str(d.folder), soft_wrap=True)
    return 0

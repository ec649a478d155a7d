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
    columns = ("split", "documents", "tokens", "share", "bytes / token", "shards")
    table, total = (
        Table(*columns, title=f"{d.tokenizer.vocabulary} ids, {d.hash}"),
        d.train_tokens + d.validation_tokens,
    )
    for split, documents, tokens, size, shards in (
        ("train", d.train_documents, d.train_tokens, d.train_bytes, d.train),
        ("validation", d.validation_documents, d.validation_tokens, d.validation_bytes, d.validation),
    ):
        shares = (f"{tokens / total:.1%}", f"{size / tokens:.2f}", str(len(shards)))
        table.add_row(split, f"{documents:,}", f"{tokens:,}", *shares)
    console = Console(markup=False)
    console.print(table)
    console.print(str(d.folder), soft_wrap=True)
    return 0

"""A trained run on other data: loss and bits per byte of its own validation split, of shards, of text files, of any data config.

Shards must be of the run's tokenizer; text is tokenized with it, whatever tokenizer its own config names.
"""

import hashlib
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ramen.build.objects import build_section
from ramen.config.check import check
from ramen.config.compose import plain
from ramen.config.diagnosis import Composer
from ramen.data.index import MANIFEST
from ramen.data.prepare import validation_shards
from ramen.data.shard import ShardRecord, read_record
from ramen.data.source import Source, TextSource
from ramen.data.tokenizer import TOKENIZER, Tokenizer, gpt2_tokenizer, load_tokenizer
from ramen.errors import ConfigError, DataError
from ramen.inference.load import Run
from ramen.training.evaluate import bits_per_byte

KEPT = (
    "folder",
    "tokenizer",
    "bpe_vocabulary",
    "sequence_length",
    "batching",
    "long_documents",
)  # of the run's data, unless given
SHARD = ".bin"


@dataclass(frozen=True)
class Evaluation:
    """What a model scores on some data."""

    on: str  # what was asked for
    step: int  # of the checkpoint
    loss: float  # nats a counted token
    bits_per_byte: float  # of text: comparable between tokenizers
    tokens: int  # counted: predicted from what stands before them in their row
    bytes_per_token: float  # of the counted ones
    data_hash: str
    tokenizer_known: bool  # False for a shard without a manifest: only the range of its ids could be checked


@dataclass(frozen=True)
class _Part:
    """Shards to evaluate on, and what is known of them."""

    shards: Sequence[Path]
    hash: str
    tokenizer_known: bool = True


def evaluate_on(run: Run, *words: str) -> Evaluation:
    """Evaluate on what `words` name: nothing (the run's validation split, as in training), `.bin` shards, text files (whole),
    or overrides of the data config (`data=hub data.path=...`: the validation split of that corpus).

    ConfigError or DataError tells what is wrong with them, is of another tokenizer, or holds nothing to evaluate.
    """
    files, overrides = _sorted(words)
    shards = bool(files) and files[0].suffix == SHARD
    if files and not shards:
        overrides = ["data=text", f"data.files={[str(path) for path in files]}", *overrides]
    source = _source(run, overrides, whole=bool(files))
    with tempfile.TemporaryDirectory(prefix="ramen_evaluation_") as scratch:
        if shards:
            part = _of_shards(files, run.tokenizer)
        elif "data" in _keys(overrides) and isinstance(source, TextSource):
            part = _of_text(source, run.tokenizer, Path(scratch), whole=bool(files))
        else:
            part = _of_dataset(source, run.tokenizer)
        rows = source.rows.validation_batch(part.shards, run.tokenizer.bos)
    bytes_per_target = run.tokenizer.bytes_per_target(rows.targets.numpy())
    loss = run.evaluate(rows.tokens, rows.targets)
    return Evaluation(
        on=" ".join(words) or "validation split",
        step=run.step,
        loss=loss,
        bits_per_byte=bits_per_byte(loss, bytes_per_target),
        tokens=rows.counted,
        bytes_per_token=bytes_per_target,
        data_hash=part.hash,
        tokenizer_known=part.tokenizer_known,
    )


def _sorted(words: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Files and overrides. ConfigError for what is neither, or does not go together."""
    overrides = [word for word in words if re.match(r"data(\.\w+)*=", word)]
    files = [Path(word) for word in words if word not in overrides]
    problems = [
        f"{path}: is nothing to evaluate on, got an override; allowed are files, folders and data=... overrides"
        for path in files
        if "=" in path.name and not path.exists()
    ]
    if len({path.suffix == SHARD for path in files}) > 1:
        problems.append(f"shards and text cannot be mixed, got {', '.join(map(str, files))}; evaluate one by one")
    given = _keys(overrides)
    if files and given & {"data", "data.files"}:
        problems.append(f"files and another data config cannot be mixed, got {' '.join(words)}; evaluate one by one")
    if given & {"data.tokenizer", "data.bpe_vocabulary"}:
        problems.append("data.tokenizer: is that of the run, whose ids its model knows; leave it out")
    if problems:
        raise ConfigError(*problems)
    return files, overrides


def _keys(overrides: Sequence[str]) -> set[str]:
    return {word.partition("=")[0] for word in overrides}


def _source(run: Run, overrides: list[str], whole: bool) -> Source:
    """The run's data config with the overrides; another corpus keeps the run's batching. `whole`: all tokens by default."""
    own, given = run.config["data"], _keys(overrides)
    with Composer().open() as composer:
        parsed = composer.parse(overrides)
        node = plain(composer.compose(overrides))["data"] if "data" in given else {**own}
    if "data" in given:
        node |= {key: own[key] for key in KEPT if key in own and key in node and f"data.{key}" not in given}
    else:
        node |= {override.key_or_group.removeprefix("data."): override.value() for override in parsed}
    if whole and "data.validation_tokens" not in given:
        node["validation_tokens"] = None
    check({**run.config, "data": node})
    source: Source = build_section({**run.config, "data": node}, "data")
    if source.rows.sequence_length > run.text.sequence_length:
        raise ConfigError(
            f"data.sequence_length: is more than the model was made for, got {source.rows.sequence_length}; "
            f"allowed is up to {run.text.sequence_length}"
        )
    return source


def _of_dataset(source: Source, tokenizer: Tokenizer) -> _Part:
    data = source.dataset()
    _check_tokenizer(data.tokenizer, tokenizer, data.folder)
    return _Part(data.validation, data.hash)


def _of_shards(paths: list[Path], tokenizer: Tokenizer) -> _Part:
    """Shards as they are; what lies beside them tells their tokenizer."""
    known = True
    for folder in {path.parent for path in paths}:
        if (folder / TOKENIZER).exists():
            _check_tokenizer(load_tokenizer(folder / TOKENIZER), tokenizer, folder)
        elif (folder / MANIFEST).exists():  # of shards that others tokenized
            _check_tokenizer(gpt2_tokenizer(), tokenizer, folder)
        else:
            known = False
    return _part(paths, [read_record(path, tokenizer) for path in paths], known)


def _of_text(source: TextSource, tokenizer: Tokenizer, folder: Path, whole: bool) -> _Part:
    """Documents, tokenized into a shard of this folder: all of them, or those that the corpus holds out."""
    records = validation_shards(source, tokenizer, folder, whole)
    if not records:
        raise DataError(f"data: holds no text to evaluate on, got none from {source.name}; a document is needed")
    return _part([folder / record.file for record in records], records, known=True)


def _part(shards: list[Path], records: list[ShardRecord], known: bool) -> _Part:
    size = sum(record.bytes for record in records)
    if not size:
        raise DataError(f"{shards[0]}: holds no text, got 0 bytes; documents are needed")
    digest = hashlib.sha256("".join(record.sha256 for record in records).encode()).hexdigest()[:16]
    return _Part(shards, digest, known)


def _check_tokenizer(found: Tokenizer, own: Tokenizer, where: Path) -> None:
    if found.hash != own.hash:
        raise DataError(
            f"{where}: is of another tokenizer, got {found.name} of {found.vocabulary} ids ({found.hash[:12]}); that of the "
            f"run is {own.name} of {own.vocabulary} ids ({own.hash[:12]}): give the text itself, which is tokenized with it"
        )

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
from ramen.config.check import check_node
from ramen.config.compose import Composer, plain
from ramen.data.dataset import MANIFEST
from ramen.data.prepare import validation_shards
from ramen.data.shard import ShardRecord, read_record
from ramen.data.source import Source, TextSource
from ramen.data.tokenizer import TOKENIZER, Tokenizer, gpt2_tokenizer, load_tokenizer
from ramen.errors import ConfigError, DataError
from ramen.inference.load import Run
from ramen.training.loss import bits_per_byte

SHARD = ".bin"
OVERRIDE = re.compile(r"data(\.\w+)*=")
# Keys of the run's data that hold for other data, too, unless given.
INHERITED = (
    "folder", "tokenizer", "bpe_vocabulary", "sequence_length", "batching", "long_documents", "separator", "text_column",
)  # fmt: skip
# Keys that can be changed on the run's own data: its hash must be the same.
SAME_DATA = {f"data.{key}" for key in (
    "folder", "workers", "downloads", "sequence_length", "batching", "long_documents", "validation_tokens",
)}  # fmt: skip


@dataclass(frozen=True)
class Evaluation:
    """Scores of a model on some data."""

    on: str  # what was asked for
    step: int  # of the checkpoint
    loss: float  # nats a counted token
    bits_per_byte: float  # of text: comparable between tokenizers
    tokens: int  # counted: predicted from what stands before them in their row
    bytes_per_token: float  # of the counted ones
    data_hash: str
    tokenizer_known: bool  # False for a shard without a manifest: only the range of its ids could be checked


def evaluate_on(run: Run, *arguments: str) -> Evaluation:
    """Evaluate on nothing (the run's validation split, as in training), `.bin` shards, text files (whole), or overrides of the
    data config (`data=hub data.path=...`: the validation split of that corpus).

    ConfigError or DataError for an argument that is wrong, is of another tokenizer, or holds nothing to evaluate.
    """
    files, overrides = _sort(arguments)
    shards = files if files and files[0].suffix == SHARD else []
    if files and not shards:
        overrides = {"data": "data=text", "data.files": f"data.files={[str(path) for path in files]}", **overrides}
    source = _source(run, overrides, whole=bool(files))
    known = True
    with tempfile.TemporaryDirectory(prefix="ramen_evaluation_") as scratch:
        if shards:
            known = _check_tokenizer(shards, run.tokenizer)
            data_hash = _hash([read_record(path, run.tokenizer) for path in shards])
        elif "data" in overrides and isinstance(source, TextSource):
            records = validation_shards(source, run.tokenizer, Path(scratch), bool(files))
            if not records:
                raise DataError(f"data: holds no text to evaluate on, got none from {source.label}; give it a document")
            shards, data_hash = [Path(scratch, record.file) for record in records], _hash(records)
        else:
            dataset = source.dataset()
            shards, data_hash = list(dataset.validation.paths), dataset.hash
            _check_tokenizer(shards, run.tokenizer)
            if overrides.keys() <= SAME_DATA and run.data_hash not in (None, dataset.hash):
                problem = f"is not what {run.folder} was trained on, got hash {dataset.hash}"
                raise DataError(f"{dataset.folder}: {problem}; its data has {run.data_hash}")
        rows = source.validation_batch(shards, run.tokenizer.bos)
    size = run.tokenizer.bytes_per_target(rows.targets.numpy())
    if not size:
        raise DataError(f"{shards[0]}: holds no text, got 0 bytes; documents are needed")
    loss = run.evaluate(rows.tokens, rows.targets)
    on = " ".join(arguments) or "validation split"
    return Evaluation(on, run.step, loss, bits_per_byte(loss, size), rows.counted, size, data_hash, known)


def _sort(arguments: Sequence[str]) -> tuple[list[Path], dict[str, str]]:
    """Files, and key -> override. ConfigError for what is neither, or does not go together."""
    overrides = {text.partition("=")[0]: text for text in arguments if OVERRIDE.match(text)}
    files = [Path(text) for text in arguments if not OVERRIDE.match(text)]
    others = [path for path in files if "=" in path.name and not path.exists()]
    allowed = "allowed are files, folders and data=... overrides"
    problems = [f"{path}: is nothing to evaluate on, got an override; {allowed}" for path in others]
    if len({path.suffix == SHARD for path in files}) > 1:
        problems.append(f"shards and text cannot be mixed, got {', '.join(map(str, files))}; evaluate one by one")
    if files and overrides.keys() & {"data", "data.files"}:
        problems.append(f"files and a data config cannot be mixed, got {' '.join(arguments)}; evaluate one by one")
    if overrides.keys() & {"data.tokenizer", "data.bpe_vocabulary"}:
        problems.append("data.tokenizer: is that of the run, whose ids its model knows; leave it out")
    if problems:
        raise ConfigError(*problems)
    return files, overrides


def _source(run: Run, overrides: dict[str, str], whole: bool) -> Source:
    """The run's data config with the overrides; another corpus keeps the run's batching. `whole`: all tokens by default."""
    trained_on, allow = run.config["data"], run.config["allow_targets"]
    with Composer().open() as composer:
        parsed = composer.parse(list(overrides.values()))
        node = plain(composer.compose(list(overrides.values())))["data"] if "data" in overrides else {**trained_on}
    if "data" in overrides:
        inherited = (key for key in INHERITED if f"data.{key}" not in overrides)
        node |= {key: trained_on[key] for key in inherited if key in trained_on and key in node}
    else:
        node |= {override.key_or_group.removeprefix("data."): override.value() for override in parsed}
    if whole and "data.validation_tokens" not in overrides:
        node["validation_tokens"] = None
    if problems := check_node(node, "data", "data", allow):
        raise ConfigError(*problems)
    source: Source = build_section({"data": node, "allow_targets": allow}, "data")
    if source.sequence_length > run.text.sequence_length:
        problem = f"is more than the model was made for, got {source.sequence_length}"
        raise ConfigError(f"data.sequence_length: {problem}; allowed is up to {run.text.sequence_length}")
    return source


def _check_tokenizer(shards: list[Path], trained_on: Tokenizer) -> bool:
    """DataError when a file beside the shards is of another tokenizer. False if there is none beside some of them."""
    known = True
    for folder in {path.parent for path in shards}:
        if (folder / TOKENIZER).exists():
            tokenizer = load_tokenizer(folder / TOKENIZER)
        elif (folder / MANIFEST).exists():  # of shards that others tokenized
            tokenizer = gpt2_tokenizer()
        else:
            known = False
            continue
        if tokenizer.hash != trained_on.hash:
            other, expected = (f"{t.name} of {t.vocabulary} ids ({t.hash[:12]})" for t in (tokenizer, trained_on))
            remedy = f"the run's is {expected}: give the text itself, which is tokenized with that"
            raise DataError(f"{folder}: is of another tokenizer, got {other}; {remedy}")
    return known


def _hash(records: Sequence[ShardRecord]) -> str:
    return hashlib.sha256("".join(record.sha256 for record in records).encode()).hexdigest()[:16]

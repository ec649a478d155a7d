"""Preparation: documents -> tokenizer -> shards of both splits, in a folder that appears whole or not at all.

Everything is written to a hidden folder beside the target, which is renamed when it is complete. A preparation that is
killed leaves that folder with a journal, and the next one goes on from there; one that fails for good leaves nothing.
One process at a time works at a target, the others wait and use what it made. Memory is a few chunks of text, however
many documents there are and however long a shard is.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ramen.data.bpe import train_bpe
from ramen.data.display import Display
from ramen.data.gpt2 import gpt2_tokenizer
from ramen.data.journal import JOURNAL, Journal, load_journal
from ramen.data.manifest import TOKENIZER, write_manifest
from ramen.data.split import Survey, held_out
from ramen.data.tokenize import PausedError, chunks, refuse_inside_a_worker, tokenize_all
from ramen.data.tokenizer import Tokenizer, byte_tokenizer, load_tokenizer
from ramen.data.verified import Verified
from ramen.data.writer import SplitWriter
from ramen.errors import DataError, RamenError
from ramen.runs.lock import LOCK, discard, exclusive

if TYPE_CHECKING:
    from ramen.data.source import TextSource

BPE_CHARACTERS = 2**25  # training text that BPE looks at: more changes the merges little and costs memory and minutes
JOURNAL_SECONDS = 5.0  # of work that a kill can cost


def prepare(source: "TextSource", folder: Path, progress: bool) -> None:
    """Tokenize `source` into `folder`, unless another process has done so."""
    refuse_inside_a_worker()
    work = folder.with_name(f".{folder.name}.partial")
    try:
        with exclusive(work, unless=folder) as held:
            if held:
                _work(source, work, progress)
                work.rename(folder)
                (folder / LOCK).unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be prepared, got {error}; data.folder needs to be writable, with room"
        ) from error


def _work(source: "TextSource", folder: Path, progress: bool) -> None:
    """Fill the folder; an error that a later run would meet again removes it."""
    try:
        with closing(_Preparation(source, folder)) as preparation:
            preparation.run(progress)
    except PausedError:
        if load_journal(folder) is None:  # nothing to continue from
            discard(folder)
        raise
    except (RamenError, OSError):
        discard(folder)
        raise


class _Preparation:
    """The writers of both splits and how far the source has been read; begun, or taken up where one was killed."""

    def __init__(self, source: "TextSource", folder: Path):
        self.source = source
        self.folder = folder
        self.settings = source.settings()
        self.origin = source.origin()
        if not self._resume():
            _clear(folder)
            self._begin(_tokenizer(source))
            self.tokenizer.save(folder / TOKENIZER)

    def run(self, progress: bool) -> None:
        """Read the source to its end and leave a whole folder, but for its name."""
        source, train, validation = self.source, self.train, self.validation
        parts = tokenize_all(
            chunks(source.documents_from(self.read)),
            self.tokenizer,
            self.folder / TOKENIZER,
            source.validation_fraction,
            source.workers,
        )
        before = train.total + validation.total
        saved = 0.0  # at once, to find a folder that cannot be written to
        with Display(f"preparing {source.name}", progress) as display, closing(parts):
            for part in parts:
                train.write(part.train)
                validation.write(part.validation)
                self.survey += part.survey
                self.read += part.read
                tokens = train.total + validation.total
                display.tell(
                    f"{self.survey.documents:,} documents, {tokens:,} tokens, "
                    f"{(tokens - before) / display.seconds:,.0f} tokens/s"
                )
                if time.monotonic() - saved >= JOURNAL_SECONDS:
                    self._save()
                    saved = time.monotonic()
        self.survey.check(source.validation_fraction)
        if source.settings() != self.settings:
            raise DataError("data: the texts changed while they were read; start again when nothing writes to them")
        write_manifest(
            self.folder, self.settings, self.origin, self.tokenizer.hash, train.finish(), validation.finish()
        )
        self.verified.save()
        (self.folder / JOURNAL).unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the files."""
        self.train.abandon()
        self.validation.abandon()

    def _begin(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.read = 0
        self.survey = Survey()
        self.verified = Verified(self.folder)
        most = self.source.shard_tokens
        self.train = SplitWriter(self.folder, "train", 1, tokenizer, most, self.verified)
        self.validation = SplitWriter(self.folder, "validation", 0, tokenizer, most, self.verified)

    def _resume(self) -> bool:
        """Take up what a killed preparation left. False when there is nothing, or nothing to rely on."""
        journal = load_journal(self.folder)
        if journal is None or journal.origin != self.origin:
            return False
        with suppress(DataError, FileNotFoundError, TypeError, KeyError):
            tokenizer = load_tokenizer(self.folder / TOKENIZER)
            if tokenizer.hash != journal.tokenizer_sha256:
                return False
            self._begin(tokenizer)
            self.read, self.survey = journal.read, journal.survey
            return self.train.restore(journal.train) and self.validation.restore(journal.validation)
        return False

    def _save(self) -> None:
        states = self.train.sync(), self.validation.sync()
        Journal(self.origin, self.tokenizer.hash, self.read, self.survey, *states).save(self.folder)


def _tokenizer(source: "TextSource") -> Tokenizer:
    if source.tokenizer == "byte":
        return byte_tokenizer()
    if source.tokenizer == "gpt2":
        return gpt2_tokenizer()
    texts = (text for text in source.documents() if text.strip())
    training = (text for text in texts if not held_out(text, source.validation_fraction))
    return train_bpe(_head(training, BPE_CHARACTERS), source.bpe_vocabulary)


def _head(texts: Iterable[str], characters: int) -> Iterator[str]:
    """The first texts, up to about that many characters (the last one is cut)."""
    for text in texts:
        yield text[:characters]
        characters -= len(text)
        if characters <= 0:
            return


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name != LOCK:
            path.unlink()

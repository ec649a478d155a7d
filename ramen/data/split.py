"""The split of a corpus into training and validation.

`hash`: a document belongs to validation if the sha256 of its text, as a number in [0, 1), is below the fraction. The split
depends on neither order nor seed nor the other documents, and equal documents are never on both sides. `tail`: the last
fraction of the characters, as in nanoGPT; the document in which it begins is cut in two.
"""

import hashlib
import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from ramen.errors import ConfigError

Holdout = Literal["hash", "tail"]
Document = tuple[str, bool]  # its text, and True if it is held out

log = logging.getLogger("ramen")


def position(text: str) -> float:
    """A number in [0, 1) that depends on the text alone, evenly spread."""
    digest = hashlib.sha256(text.encode(errors="replace")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


@dataclass
class SplitStats:
    """The number of documents, and the range of their positions."""

    documents: int = 0
    lowest: float = 1.0
    highest: float = 0.0

    def add(self, place: float) -> None:
        """Count a document."""
        self.documents += 1
        self.lowest, self.highest = min(self.lowest, place), max(self.highest, place)

    def check(self, fraction: float) -> None:
        """ConfigError when one of the splits has no document."""
        if self.lowest >= self.highest:
            raise ConfigError(
                f"data: the corpus has too little text, got {self.documents} documents{' that are alike' * (self.documents > 1)}; "
                "needed are two different ones, to train on and to hold out, or one that can be cut"
            )
        if not self.lowest < fraction <= self.highest:
            few, side = ("low", "out") if fraction <= self.lowest else ("high", "in")
            low, high = math.ceil(self.lowest * 1e4 + 1) / 1e4, math.floor(self.highest * 1e4) / 1e4
            raise ConfigError(
                f"data.validation_fraction: is too {few} for these {self.documents} documents, none is held {side}, "
                f"got {fraction}; allowed is {low:g} to {high:g}"
            )


def split(
    texts: Callable[[], Iterable[str]], holdout: Holdout, fraction: float, stats: SplitStats
) -> Iterator[Document]:
    """The documents of a corpus that hold anything, each with its split. A corpus of one document holds out its tail."""
    documents = (text for text in texts() if text.strip())
    first = list(itertools.islice(documents, 2))
    if len(first) == 1 and holdout == "hash":
        log.warning("data: there is one document; its last %g %% are held out (data.holdout=tail)", 100 * fraction)
    if len(first) == 1 or holdout == "tail":
        characters = sum(len(text) for text in texts() if text.strip())
        yield from _tail(itertools.chain(first, documents), int(characters * (1 - fraction)), stats)
        return
    for text in itertools.chain(first, documents):
        place = position(text)
        stats.add(place)
        yield text, place < fraction


def _tail(documents: Iterable[str], training: int, stats: SplitStats) -> Iterator[Document]:
    """The first `training` characters of all, and those behind them."""
    for text in documents:
        for part, is_held_out in ((text[:training], False), (text[training:], True)):
            if part:
                stats.add(0.0 if is_held_out else 1.0)
                yield part, is_held_out
        training = max(0, training - len(text))

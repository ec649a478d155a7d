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
from typing import Literal

from ramen.errors import ConfigError

Holdout = Literal["hash", "tail"]
Document = tuple[str, bool]  # its text, and True if it is held out

log = logging.getLogger("ramen")


def position(text: str) -> float:
    """A number in [0, 1) that depends on the text alone, evenly spread."""
    digest = hashlib.sha256(text.encode(errors="replace")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


class Split:
    """The documents of a corpus that hold anything, each with its side. A corpus of one document holds out its tail."""

    def __init__(self, texts: Callable[[], Iterable[str]], holdout: Holdout, fraction: float):
        self.texts, self.holdout, self.fraction = texts, holdout, fraction
        self.documents = 0
        self.lowest, self.highest = 1.0, 0.0  # positions of the documents

    def __iter__(self) -> Iterator[Document]:
        texts = (text for text in self.texts() if text.strip())
        first = list(itertools.islice(texts, 2))
        training = None  # characters that are not held out
        if len(first) == 1 or self.holdout == "tail":
            training = int(sum(len(text) for text in self.texts() if text.strip()) * (1 - self.fraction))
        if len(first) == 1 and self.holdout == "hash":
            percent = 100 * self.fraction
            log.warning("data: there is one document; its last %g %% are held out (data.holdout=tail)", percent)
        for text in itertools.chain(first, texts):
            if training is None:
                parts = [(text, position(text))]
            else:
                parts = [(text[:training], 1.0), (text[training:], 0.0)]
                training = max(0, training - len(text))
            for part, place in parts:
                if part:
                    self.documents += 1
                    self.lowest, self.highest = min(self.lowest, place), max(self.highest, place)
                    yield part, place < self.fraction

    def check(self) -> None:
        """ConfigError when one of the sides has no document. To be called when all have been taken."""
        if self.lowest >= self.highest:
            content = f"{self.documents} documents{' that are alike' * (self.documents > 1)}"
            remedy = "needed are two different ones, to train on and to hold out, or one that can be cut"
            raise ConfigError(f"data: the corpus has too little text, got {content}; {remedy}")
        if not self.lowest < self.fraction <= self.highest:
            few, side = ("low", "out") if self.fraction <= self.lowest else ("high", "in")
            low, high = math.ceil(self.lowest * 1e4 + 1) / 1e4, math.floor(self.highest * 1e4) / 1e4
            raise ConfigError(
                f"data.validation_fraction: is too {few} for these {self.documents} documents, none is held {side}, "
                f"got {self.fraction}; allowed is {low:g} to {high:g}"
            )

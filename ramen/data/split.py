"""Which documents are held out, and whether both splits have some.

A document belongs to validation if the sha256 of its text, as a number in [0, 1), is below the fraction: the split
depends on neither order nor seed nor the other documents, and equal documents are never on both sides.
"""

import hashlib
import math
from dataclasses import dataclass

from ramen.errors import ConfigError


def position(text: str) -> float:
    """A number in [0, 1) that depends on the text alone, evenly spread."""
    digest = hashlib.sha256(text.encode(errors="replace")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def held_out(text: str, fraction: float) -> bool:
    """True for a document of the validation split."""
    return position(text) < fraction


@dataclass
class SplitStats:
    """The number of documents, and the range of their positions."""

    documents: int = 0
    lowest: float = 1.0
    highest: float = 0.0

    def add(self, position: float) -> None:
        """Count a document."""
        self.documents += 1
        self.lowest, self.highest = min(self.lowest, position), max(self.highest, position)

    def check(self, fraction: float) -> None:
        """ConfigError when one of the splits has no document."""
        if self.lowest >= self.highest:
            raise ConfigError(
                "data: the corpus needs two different documents, one to train on and one to hold out, "
                f"got {self.documents} (alike, if more than one); "
                "with data=text give more files, or data.separator to cut a file into documents"
            )
        if not self.lowest < fraction <= self.highest:
            few, side = ("low", "out") if fraction <= self.lowest else ("high", "in")
            low, high = math.ceil(self.lowest * 1e4 + 1) / 1e4, math.floor(self.highest * 1e4) / 1e4
            raise ConfigError(
                f"data.validation_fraction: is too {few} for these {self.documents} documents, none is held {side}, "
                f"got {fraction}; allowed is {low:g} to {high:g}"
            )

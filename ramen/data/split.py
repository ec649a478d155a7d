"""Which documents are held out, and whether the split works.

A document belongs to validation if the sha256 of its text, as a number in [0, 1), is below the fraction: the split
depends on neither order nor seed nor the other documents, and equal documents are never on both sides.
"""

import hashlib
import math
from dataclasses import dataclass

from ramen.errors import ConfigError


def place(text: str) -> float:
    """Where a document stands in [0, 1)."""
    own = hashlib.sha256(text.encode(errors="replace")).digest()
    return int.from_bytes(own[:8], "big") / 2**64


def held_out(text: str, fraction: float) -> bool:
    """Whether a document belongs to validation."""
    return place(text) < fraction


@dataclass(frozen=True)
class Survey:
    """How many documents there are, and the range of their places."""

    documents: int = 0
    lowest: float = 1.0
    highest: float = 0.0

    def __add__(self, other: "Survey") -> "Survey":
        return Survey(
            self.documents + other.documents, min(self.lowest, other.lowest), max(self.highest, other.highest)
        )

    def check(self, fraction: float) -> None:
        """ConfigError when one of the splits has no document."""
        if self.lowest >= self.highest:
            raise ConfigError(
                "data: the corpus needs two different documents, one to train on and one to hold out, "
                f"got {self.documents} (alike, if more than one); "
                "with data=text give more files, or data.separator to cut a file into documents"
            )
        if not self.lowest < fraction <= self.highest:
            out = fraction <= self.lowest
            side, few, low, high = (
                ("out", "low", self.lowest, self.highest) if out else ("in", "high", self.lowest, self.highest)
            )
            raise ConfigError(
                f"data.validation_fraction: is too {few} for these {self.documents} documents, none is held {side}, "
                f"got {fraction}; allowed is {math.ceil(low * 1e4 + 1) / 1e4:g} to {math.floor(high * 1e4) / 1e4:g}"
            )

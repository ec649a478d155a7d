"""progress.json: how far a preparation is, so that a killed one is continued and not begun again."""

from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ramen.data.manifest import check_seal, sealed
from ramen.data.split import Survey
from ramen.errors import DataError
from ramen.runs.atomic import read_json, write_atomically

JOURNAL = "progress.json"


@dataclass(frozen=True)
class Journal:
    """What has been read, and what the writers said when it had been written."""

    origin: str | None  # what exactly is read, of a source that may change
    tokenizer_sha256: str
    read: int  # documents of the source
    survey: Survey
    train: dict[str, Any]
    validation: dict[str, Any]

    def save(self, folder: Path) -> None:
        """Write it, whole or not at all."""
        write_atomically(folder / JOURNAL, sealed(asdict(self)))


def load_journal(folder: Path) -> Journal | None:
    """The journal of a folder; None when there is none that can be used."""
    with suppress(OSError, ValueError, TypeError, KeyError, DataError):
        stored = {**read_json(folder / JOURNAL)}
        check_seal(folder / JOURNAL, stored, "it is begun again")
        del stored["sha256"]
        return Journal(**{**stored, "survey": Survey(**stored["survey"])})
    return None

"""Any text data set of the Hugging Face hub, streamed through `datasets`: read once, never stored as text.

`path` may also be a local folder that `datasets` can read. A branch is pinned to its commit when the preparation begins. A
preparation that was killed goes on at the same document of that commit, or begins again if the branch has moved on.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ramen.data.prepare import PausedError
from ramen.data.shard import refusing
from ramen.data.source import TextSource, states_of


@dataclass(kw_only=True, eq=False)
class Hub(TextSource):
    """One column of one split of a data set; `name` is its configuration."""

    path: str
    name: str | None
    split: str
    revision: str
    text_column: str

    def documents(self) -> Iterator[str]:
        rows = ((f"data.path: row {number} of {self.path}", row) for number, row in enumerate(self._stream()))
        # Whatever the reader of the format and the http client raise.
        problem, remedy = f"data.path: {self.path} cannot be read on", "run again to continue where it stopped"
        with refusing(problem, remedy, Exception, kind=PausedError):
            yield from self.texts_of(rows, self.text_column)

    def fingerprint(self) -> Mapping[str, Any]:
        """The settings; of a local folder also size and time of change of every file."""
        settings = {"path": self.path, "name": self.name, "split": self.split, "text_column": self.text_column}
        if not Path(self.path).is_dir():
            return {**settings, "revision": self.revision}
        return {**settings, "files": states_of(sorted(path for path in Path(self.path).rglob("*") if path.is_file()))}

    def origin(self) -> str | None:
        return None if Path(self.path).is_dir() else self._commit

    @cached_property
    def _commit(self) -> str | None:
        from huggingface_hub import HfApi

        problem = f"data.path: the data set {self.path} (data.revision={self.revision}) cannot be reached on the hub"
        remedy = "with no network, data=text data.files=... reads files that you have"
        with refusing(problem, remedy, Exception, kind=PausedError):
            return HfApi().dataset_info(self.path, revision=self.revision).sha

    def _stream(self) -> Any:
        from datasets import load_dataset

        problem = f"data.path: {self.path} has no data.name={self.name} with data.split={self.split}"
        with refusing(problem, "the names and splits that it has are needed", ValueError):
            return load_dataset(self.path, self.name, split=self.split, revision=self.origin(), streaming=True)

"""Any text data set of the Hugging Face hub, streamed through `datasets`: read once, never stored as text.

`path` may also be a local folder that `datasets` can read. A branch is pinned to its commit when the preparation begins;
one that was killed goes on at the same document of the same commit, or begins again when the branch has moved on.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from ramen.data.prepare import PausedError
from ramen.data.source import TextSource, threads
from ramen.errors import DataError, told


class Hub(TextSource):
    """One column of one split of a data set."""

    name = "hub"

    def __init__(
        self,
        *,
        path: str,
        name: str | None,
        split: str,
        revision: str,
        text_column: str,
        workers: int | None,
        **base: Any,
    ):
        super().__init__(**base)
        self.workers = threads(workers)
        self.path = path
        self.subset = name
        self.split = split
        self.revision = revision
        self.text_column = text_column

    def documents(self) -> Iterator[str]:
        rows = ((f"data.path: row {number} of {self.path}", row) for number, row in enumerate(self._stream()))
        try:
            yield from self.texts_of(rows, self.text_column)
        except DataError:
            raise
        except Exception as error:  # whatever the reader of the format and the http client raise
            raise PausedError(
                f"data.path: {self.path} cannot be read on, got {told(error)}; run again to continue where it stopped"
            ) from error

    def fingerprint(self) -> Mapping[str, Any]:
        """The settings; of a local folder also size and time of change of every file."""
        asked = {"path": self.path, "name": self.subset, "split": self.split, "text_column": self.text_column}
        if not self._local:
            return {**asked, "revision": self.revision}
        files = sorted(path for path in Path(self.path).rglob("*") if path.is_file())
        return {**asked, "files": [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files]}

    def origin(self) -> str | None:
        return None if self._local else self._commit

    @property
    def _local(self) -> bool:
        return Path(self.path).is_dir()

    @cached_property
    def _commit(self) -> str | None:
        from huggingface_hub import HfApi

        try:
            return HfApi().dataset_info(self.path, revision=self.revision).sha
        except Exception as error:
            raise PausedError(
                f"data.path: the data set {self.path} (data.revision={self.revision}) cannot be reached on the Hugging "
                f"Face hub, got {told(error)}; with no network, data=text data.files=... reads files that you have"
            ) from error

    def _stream(self) -> Any:
        revision = self.origin()
        from datasets import load_dataset

        try:
            return load_dataset(self.path, self.subset, split=self.split, revision=revision, streaming=True)
        except ValueError as error:  # no such name, no such split: told with what there is
            raise DataError(
                f"data.path: {self.path} has no data.name={self.subset} with data.split={self.split}, got {told(error)}"
            ) from error

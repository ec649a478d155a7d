"""Files that are there whole or not at all, and what a json file says."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from ramen.errors import DataError


def read_json(path: Path) -> Any:
    """What a json file says. OSError, or ValueError for what is no json."""
    try:
        return json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError("brackets without end") from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write the content to a temporary file beside `path`, force it to disk, and rename it to `path`.

    DataError on any error, a full disk too; `path` is then left as it was.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written, got {error.strerror or error}; a folder with room is needed"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)

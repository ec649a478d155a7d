"""Read ordinary files of bounded size; write files whole or not at all.

Everything that comes from elsewhere (a run folder, a cache) is read through `read_bytes`: a pipe would block for ever, a
device never ends.
"""

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import yaml

from ramen.errors import DataError

T = TypeVar("T", dict[str, Any], list[Any])
MOST_BYTES = 1 << 30
MOST_NESTED = 1000  # brackets: beyond, libyaml's recursion would end the process
_FastLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_bytes(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """The content of an ordinary file. OSError; ValueError for a pipe, a device or a file that is too large."""
    if not stat.S_ISREG(path.stat().st_mode):  # to open a pipe would wait for a writer
        raise ValueError("is not an ordinary file")
    with path.open("rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"is larger than {most_bytes:,} bytes")
    return content


def read_value(path: Path) -> Any:
    """The value in a .json or a yaml file. OSError, or ValueError when it is damaged.

    A yaml file may not have aliases, which can multiply without end.
    """
    content = read_bytes(path)
    deep = sum(map(content.count, (b"[", b"{", b"- ", b"? "))) > MOST_NESTED
    loader = yaml.SafeLoader if deep else _FastLoader
    try:
        if path.suffix == ".json":
            return json.loads(content)
        if b"*" in content and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(content, loader)):
            raise ValueError("has YAML aliases; allowed are plain values")
        return yaml.load(content, loader)
    except RecursionError as error:
        raise ValueError("is nested too deep") from error
    except yaml.YAMLError as error:
        raise ValueError(str(error).splitlines()[0]) from error


def read_whole(path: Path, kind: type[T]) -> T:
    """The mapping or list in a .json or .yaml file; empty where there is none. DataError when it is damaged."""
    try:
        content = read_value(path)
    except FileNotFoundError:
        return kind()
    except OSError as error:
        raise DataError(f"{path}: cannot be read, got {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path}: is damaged, got {error}") from error
    if not isinstance(content, kind):
        raise DataError(f"{path}: is damaged, got {type(content).__name__}; allowed is a {kind.__name__}")
    return content


def sha256_of(content: Mapping[str, Any]) -> str:
    """sha256 over a content of json values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


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
        problem = f"{path}: cannot be written, got {error.strerror or error}; a folder with room is needed"
        raise DataError(problem) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)

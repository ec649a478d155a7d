"""The Python sources of installed packages: a bigger corpus (140 MB) that needs no download of data.

The packages are ones that ramen itself depends on. One document a file, equal files once, in the order of the sha256 that
the package states of it: the packages are mixed, and the corpus is the same wherever the same versions are installed.
Files that a build writes (version.py) are left out.
"""

import base64
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from ramen.data.shard import refusing
from ramen.data.source import TextSource
from ramen.errors import DataError

BUILT = ("version.py", "_version.py")


@dataclass(kw_only=True, eq=False)
class Python(TextSource):
    """The `.py` files of some packages."""

    packages: list[str]

    def documents(self) -> Iterator[str]:
        for sha256, file in sorted(self._files.items()):
            path = Path(str(file.locate()))
            with refusing(f"{path}: cannot be read", "install its package again"):
                content = path.read_bytes()
            if base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=") != sha256:
                raise DataError(f"{path}: was changed after it was installed; install its package again")
            yield content.decode(errors="replace")

    def fingerprint(self) -> Mapping[str, Any]:
        """The stated sha256 of all files."""
        files = hashlib.sha256("".join(sorted(self._files)).encode()).hexdigest()
        return {"packages": sorted(self.packages), "files": files}

    @cached_property
    def _files(self) -> dict[str, metadata.PackagePath]:
        """sha256 as the package states it -> file. DataError that names the packages that are not there."""
        files: dict[str, metadata.PackagePath] = {}
        missing = []
        for package in self.packages:
            try:
                installed = metadata.files(package) or []
            except (metadata.PackageNotFoundError, ValueError):  # ValueError: an empty name
                missing.append(package)
                continue
            for file in installed:
                if file.hash and file.suffix == ".py" and file.name not in BUILT:
                    files[file.hash.value] = file
        if missing or not files:
            remedy = f"`pip install {' '.join(missing)}`, or leave them out"
            raise DataError(f"data.packages: not installed with pip, got {', '.join(missing) or 'no name'}; {remedy}")
        return files

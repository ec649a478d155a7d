"""Errors that a user can mend: each is printed as its message alone, without a traceback, and the process ends with code 2."""

import contextlib
import difflib
import errno
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO

EXIT_CODE = 2
NOBODY = (errno.EPIPE, errno.EIO)  # a reader that left, a terminal that is gone


class RamenError(Exception):
    """A problem outside ramen's code: `<config path or file>: what is wrong, got <value>; what is allowed`."""


class ConfigError(RamenError):
    """One or more problems of the configuration, all at once."""

    def __init__(self, *problems: str):
        self.problems = problems
        super().__init__("\n".join(problems))


class DataError(RamenError):
    """A file of tokens, a corpus or a run folder that is missing, damaged or of another kind."""


def suggest(wrong: object, known: Iterable[str]) -> str:
    """'; did you mean X? allowed are A, B' for a name that is not among the known ones."""
    if not (known := sorted(known)):
        return "; there are none"
    close = difflib.get_close_matches(str(wrong), known, n=1)
    return (f"; did you mean '{close[0]}'?" if close else ";") + f" allowed are {', '.join(known)}"


@contextlib.contextmanager
def tolerate_broken_pipe() -> Iterator[None]:
    """Let a program go on when nobody takes its output: a closed pipe (`... | head`), a terminal that is gone, `>&-`.

    A character that the output has no code for is written as its number. OSError at the end if stdout was lost for another
    reason, as on a full disk.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: a file that is opened later would get its number, and the output
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    output, errors = (_Output(stream or open(os.devnull, "w")) for stream in before)  # noqa: PTH123, SIM115
    sys.stdout, sys.stderr = output, errors
    try:
        yield
    finally:
        output.flush()
        errors.flush()
        sys.stdout, sys.stderr = before
    if output.error and output.error.errno not in NOBODY:
        raise OSError(output.error.errno, output.error.strerror, "stdout")


class _Output:
    """A text stream that drops what its file no longer takes."""

    def __init__(self, stream: TextIO):
        self.stream = stream
        self.error: OSError | None = None
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        self._attempt(lambda: self.stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._attempt(self.stream.flush)

    def _attempt(self, output: Callable[[], object]) -> None:
        try:
            output()
        except OSError as error:
            self.error = error
            with open(os.devnull, "w") as nowhere:  # noqa: PTH123
                os.dup2(nowhere.fileno(), self.stream.fileno())  # what is buffered goes there, too


def printable(text: object) -> str:
    """Text for a terminal, which obeys control and direction characters: all but line ends and tabs are escaped."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in str(text))


def one_line(error: Exception) -> str:
    """A foreign error in one line: its type and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"

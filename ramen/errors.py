"""What a user can mend: an error here is printed as its message alone, without a traceback, and the process ends with code 2."""

import contextlib
import io
import os
import select
import sys
from collections.abc import Iterator

EXIT_CODE = 2


class RamenError(Exception):
    """A problem outside ramen's code: `<config path or file>: what is wrong, got <value>; what is allowed`."""


class ConfigError(RamenError):
    """One or more problems of the configuration, all told at once."""

    def __init__(self, *problems: str):
        self.problems = problems
        super().__init__("\n".join(problems))


class DataError(RamenError):
    """A file of tokens, a corpus or a run folder that is missing, damaged or of another kind."""


@contextlib.contextmanager
def a_reader_may_leave() -> Iterator[None]:
    """For what prints: `| head` has seen enough, and what is still to be told goes nowhere. What the terminal has no character
    for is told by its number."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        yield
    except BrokenPipeError:
        if not _left():  # another pipe's
            raise
    finally:
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.flush()
        if _left():
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _left() -> bool:
    """Whether stdout is a pipe that nobody reads any more."""
    stdout = select.poll()
    stdout.register(1, 0)
    return any(event & select.POLLERR for _, event in stdout.poll(0))


def told(error: Exception) -> str:
    """A foreign error in one line: its type and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"

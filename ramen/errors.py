"""What a user can mend: an error here is printed as its message alone, without a traceback, and the process ends with code 2."""

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


def told(error: Exception) -> str:
    """A foreign error in one line: its type and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"

"""What the tests of Triton's kernels share."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest


@pytest.fixture(scope="session")
def under_the_interpreter() -> Callable[[str], str]:
    """under_the_interpreter(file): what pytest says of it where Triton's interpreter runs the kernels.

    That must be chosen before Triton is imported, hence in a process of its own.
    """

    def run(file: str) -> str:
        command = [sys.executable, "-m", "pytest", "-vv", "-p", "no:cacheprovider", file]
        environment = {**os.environ, "TRITON_INTERPRET": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout[-3000:]
        return done.stdout

    return run

"""The code of a run: the commit and what differs from it."""

import functools
import subprocess
from pathlib import Path
from typing import Any

from ramen.config.secret import scrub_code


@functools.cache  # later jobs of a sweep run what was imported for the first
def describe_code() -> dict[str, Any]:
    """The commit and what differs from it, so that a run records the code it ran; None outside a git checkout."""
    root = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    changed = git("diff", "HEAD", "--", "*.py", "*.yaml")
    return {"git_commit": git("rev-parse", "HEAD"), "git_diff": None if changed is None else scrub_code(changed)}

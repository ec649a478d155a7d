"""The code of a run: the commit, what differs from it, and a hash of the source files that the run computes with."""

import ast
import difflib
import functools
import hashlib
import re
import subprocess
import sys
from collections.abc import Iterable
from importlib.util import resolve_name
from pathlib import Path
from typing import Any

from ramen.config.secret import scrub_code

ROOT = Path(__file__).resolve().parents[2]
COMPUTING = tuple(
    f"ramen.{room}" for room in ["build", "data", "kernels", "nn", "ops", "optimizer", "schedule", "training"]
)
CORE = ("ramen.build.objects", "ramen.training.loop")  # what every run computes with
LARGEST_DIFF = 100_000  # characters of an untracked file


@functools.cache  # later jobs of a sweep run what was imported for the first
def describe_commit() -> dict[str, Any]:
    """The commit and what differs from it, untracked .py and .yaml files included; None outside a git checkout."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    changed = git("diff", "HEAD", "--", "*.py", "*.yaml")
    untracked = git("ls-files", "--others", "--exclude-standard", "--", "*.py", "*.yaml") or ""
    new = [
        "\n".join(difflib.unified_diff([], text.splitlines(), "/dev/null", f"b/{name}", lineterm=""))
        for name in untracked.splitlines()
        if (text := _text(ROOT / name)) and len(text) <= LARGEST_DIFF
    ]
    diff = None if changed is None else scrub_code("\n".join(filter(None, [changed, *new])))
    return {"git_commit": git("rev-parse", "HEAD"), "git_diff": diff}


def describe_code(targets: Iterable[str]) -> dict[str, Any]:
    """Hashes of the modules of these `_target_`s, of the training loop, and of all that they import to compute with.

    Modules of a user's own package count as far as they are imported from the module of a target.
    """
    packages = tuple({target.partition(".")[0] for target in targets} - {"ramen", "torch"})
    modules: dict[str, str] = {}
    waiting = {*CORE, *(target.rpartition(".")[0] for target in targets)}
    while waiting:
        name = waiting.pop()
        path = getattr(sys.modules.get(name), "__file__", None)
        if name in modules or not path or not name.startswith((*COMPUTING, *packages)):
            continue
        modules[name], imported = _source(path, name.rpartition(".")[0])
        waiting |= imported
        if name.startswith("ramen.ops."):
            waiting |= {name.replace(".ops.", f".kernels.{place}.") for place in ("any", "cpu", "cuda")}
    whole = hashlib.sha256("".join(f"{name} {modules[name]}\n" for name in sorted(modules)).encode())
    return {"code_hash": whole.hexdigest()[:12], "code": dict(sorted(modules.items()))}


@functools.cache
def _source(path: str, package: str) -> tuple[str, frozenset[str]]:
    """Hash of a Python file and the C files beside it that it names, and the modules that it imports (and what may be one)."""
    text = _text(Path(path))
    native = "".join(_text(Path(path).with_name(name)) for name in re.findall(r"\w+\.[ch]\b", text))
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = resolve_name("." * node.level + (node.module or ""), package)
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return hashlib.sha256((text + native).encode()).hexdigest()[:12], frozenset(names)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""

"""The README tells the truth: its commands compose, its table is what conf/ holds, its links exist."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ramen.registry import options

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
SWAPPABLE = (
    "optimizer", "mlp", "attention", "residual", "stream", "position", "embedding", "value_embedding", "linear", "schedule",
    "data", "diagnostics", "logger",
)  # fmt: skip
COMMANDS = re.findall(r"^(?:\$ )?(python train\.py [^#\n]*?)\s*(?:#.*)?$", README, re.MULTILINE)


def row(kind: str, name: str, summary: str) -> str:
    return f"| `{kind}={name}` | {summary} |"


@pytest.mark.parametrize("kind", SWAPPABLE)
def test_everything_that_can_be_swapped_is_in_the_table(kind: str) -> None:
    missing = [row(kind, name, option.summary) for name, option in options(kind).items()]
    missing = [line for line in missing if line not in README]
    assert not missing, "add to README.md:\n" + "\n".join(missing)


def test_the_table_has_no_option_that_is_gone() -> None:
    told = re.findall(r"^\| `(\w+)=(\w+)` \|", README, re.MULTILINE)
    assert told
    assert [(kind, name) for kind, name in told if name not in options(kind)] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands_compose(command: str, compose: Callable[..., dict[str, Any]]) -> None:
    words = [word for word in shlex.split(command.removesuffix(" --cfg job"))[2:] if not word.startswith("-")]
    first = [
        word.split(",")[0] for word in words if not word.startswith(("resume=", "hydra."))
    ]  # of a sweep, its first job
    assert compose(*first)["model"]


def test_there_are_commands_and_their_scripts_and_targets_exist() -> None:
    assert len(COMMANDS) >= 3
    for script in re.findall(r"python (scripts/\w+\.py)", README):
        assert (ROOT / script).is_file(), script
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_its_links_exist() -> None:
    for link in re.findall(r"\]\((?!https?://)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link

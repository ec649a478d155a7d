"""README and docs tell the truth: their commands compose, the table is what conf/ holds, links and scripts exist."""

import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from ramen.config.check import check, parameters
from ramen.config.compose import sweep_values
from ramen.config.kinds import KINDS
from ramen.config.registry import options

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
OPTIONS = (ROOT / "docs" / "options.md").read_text()
PAGES = {path: path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))}
SWAPPABLE = [name for name, kind in KINDS.items() if kind.package and (kind.part or len(options(name)) > 1)]
COMMANDS = {
    command.strip(): path.name
    for path, page in PAGES.items()
    for command in re.findall(r"python train\.py ([^`#\n]*)", page.replace("\\\n", " "))
}


def row(kind: str, name: str, summary: str) -> str:
    return f"| `{kind}={name}` | {summary} |"


@pytest.mark.parametrize("kind", SWAPPABLE)
def test_every_option_has_its_row_and_a_place_in_the_readme(kind: str) -> None:
    rows = [row(kind, name, option.summary) for name, option in options(kind).items()]
    missing = [line for line in rows if line not in OPTIONS]
    assert not missing, "add to docs/options.md:\n" + "\n".join(missing)
    line = next(line for line in README.splitlines() if line.startswith("| [") and f"[`{kind}`]" in line)
    assert options(kind).keys() - set(re.findall(r"`(\w+)`", line)) == set()


def test_no_row_is_of_an_option_that_is_gone() -> None:
    rows = re.findall(r"^\| `(\w+)=(\w+)` \|", OPTIONS, re.MULTILINE)
    assert rows
    assert [(kind, name) for kind, name in rows if name not in options(kind)] == []


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 120


@pytest.mark.parametrize("command", [command for command in COMMANDS if "..." not in command])
def test_a_command_composes(command: str, compose: Callable[..., dict[str, Any]]) -> None:
    """As a shell hands it over; of a sweep, its first job."""
    own = ("-", "job", "resume=", "hydra.", "hydra/", "&")
    words = [word for word in shlex.split(command) if not word.startswith(own)]
    check(compose(*(next(sweep_values(OverridesParser.create().parse_override(word))) for word in words)))


def test_there_are_commands_and_their_scripts_and_targets_exist() -> None:
    assert len(COMMANDS) > 50
    for page in PAGES.values():
        for script in re.findall(r"python (scripts/\w+\.py)", page):
            assert (ROOT / script).is_file(), script
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_links_exist() -> None:
    for path, page in PAGES.items():
        for link in re.findall(r"\]\((?!https?://)([^)#]+)(?:#[^)]*)?\)", page):
            assert (path.parent / link).exists(), (path, link)


def test_its_new_method_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    source, options = (re.search(rf"```{kind}\n# (?:ramen|conf)/optimizer/soft_sign.*?\n(.*?)```", README, re.DOTALL)[1]
                       for kind in ("python", "yaml"))  # fmt: skip
    module = ModuleType("ramen.optimizer.soft_sign")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(source, vars(module))
    node = yaml.safe_load(options)
    made = getattr(module, node.pop("_target_").rpartition(".")[2])
    assert node.keys() == parameters(made)[0].keys()
    weight = torch.nn.Parameter(torch.ones(3, 4))
    weight.grad = torch.full((3, 4), 0.5)
    made([weight], **node | {"weight_decay": 0.0}).step()
    assert torch.allclose(weight, torch.tensor(1 - node["lr"]))

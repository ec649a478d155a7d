"""A new kind of part: three files beside its options, and every room knows it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
OPTION = '''"""A learned gain after the last block."""

from torch import Tensor, nn

from ramen.nn.parameter import constant, parameter


class Gain(nn.Module):
    """x times a number for each dimension, `start` at first."""

    def __init__(self, dim: int, *, start: float):
        super().__init__()
        self.gain = parameter((dim,), constant(start), "scalar")

    def forward(self, x: Tensor) -> Tensor:  # (B, T, D) -> same
        return x * self.gain.to(x.dtype)
'''
# What a maintainer would write into the model; a subclass here, so that the test does not depend on the file's text.
MODEL = """

class GPT(GPT):
    def __init__(self, data: DataSpec, factories: ComponentFactories, **model):
        super().__init__(data, factories, **model)
        self.ending = factories.make("ending", self.dim)

    def hidden(self, *arguments):
        return self.ending(super().hidden(*arguments))
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package with a kind `ending`, which has the option `gain`."""
    for name in ("ramen", "conf"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))

    def edit(path: str, old: str, new: str) -> None:
        text = (tmp_path / path).read_text()
        assert old in text
        (tmp_path / path).write_text(text.replace(old, new, 1))

    edit("ramen/config/kinds.py", "KINDS = {\n", 'KINDS = {\n    "ending": _part("ramen.nn.ending", "dim"),\n')
    edit("conf/config.yaml", "  - _self_\n", "  - _self_\n  - ending: gain\n")
    (tmp_path / "ramen/nn/gpt.py").write_text((tmp_path / "ramen/nn/gpt.py").read_text() + MODEL)
    for folder in ("ramen/nn/ending", "conf/ending"):
        (tmp_path / folder).mkdir()
    (tmp_path / "ramen/nn/ending/__init__.py").write_text('"""Endings."""\n')
    (tmp_path / "ramen/nn/ending/gain.py").write_text(OPTION)
    (tmp_path / "conf/ending/gain.yaml").write_text(
        "# Gain: a number for each dimension\n_target_: ramen.nn.ending.gain.Gain\nstart: 1.0\n"
    )
    return tmp_path


def python(copy: Path, script: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-c", script, *overrides]
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)


def test_a_new_kind_of_part_trains(copy: Path, small: tuple[str, ...]) -> None:
    main = "from ramen.cli.main import main; raise SystemExit(main())"
    done = python(copy, main, "train", *small, "ending.start=0.5", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    assert "finished after 6 steps" in done.stdout + done.stderr
    assert yaml.safe_load((copy / "run" / "config.yaml").read_text())["ending"]["start"] == 0.5
    wrong = python(copy, main, "train", *small, "ending.stard=0.5", "hydra.run.dir=wrong")
    assert (wrong.returncode, "did you mean 'start'?" in wrong.stderr) == (2, True), wrong.stderr


def test_a_report_compares_by_a_new_kind(copy: Path) -> None:
    done = python(copy, "from ramen.report.grouping import METHOD_KINDS; print(*METHOD_KINDS)")
    assert "ending" in done.stdout.split(), done.stderr


def test_a_new_kind_is_built_for_a_loop_of_ones_own(copy: Path) -> None:
    done = python(copy, "import ramen; print(ramen.component('ending', 'gain', 8, start=2.0).gain.sum().item())")
    assert done.stdout.strip() == "16.0", done.stderr

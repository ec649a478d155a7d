"""Output that nobody takes: a run goes on and ends as ever, and a result that is lost is told."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ramen.cli.main import main

ROOT = Path(__file__).resolve().parents[2]


def shell(command: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    """`command` with PYTHON for train.py and its words."""
    door = " ".join(f"'{word}'" for word in (sys.executable, str(ROOT / "train.py"), *overrides))
    return subprocess.run(["bash", "-c", command.replace("TRAIN", door)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("redirection", [">&- 2>&- <&-", ">/dev/full 2>/dev/full", "2>&1 | head -c 1"])
def test_a_run_ends_as_ever_when_nobody_takes_its_output(
    redirection: str, tmp_path: Path, small: tuple[str, ...]
) -> None:
    done = shell(f"set -o pipefail; TRAIN {redirection}", *small, f"hydra.run.dir={tmp_path}")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "finished"


def test_a_sweep_ends_as_ever_when_its_reader_has_left(tmp_path: Path, small: tuple[str, ...]) -> None:
    overrides = [*small, "-m", "seed=0,1", f"hydra.sweep.dir={tmp_path}"]
    assert shell("set -o pipefail; TRAIN 2>&1 | head -1", *overrides).returncode == 0
    summaries = [json.loads(path.read_text()) for path in tmp_path.glob("*/summary.json")]
    assert [summary["status"] for summary in summaries] == ["finished"] * 2


@pytest.mark.parametrize("option", ["--help", "--cfg=job"])
def test_a_result_that_a_full_disk_did_not_take_is_an_error(option: str) -> None:
    done = shell("TRAIN >/dev/full", option)
    assert (done.returncode, done.stderr) == (2, "stdout: No space left on device\n")


@pytest.mark.parametrize("command", ["evaluate", "sample", "compare", "dashboard", "train"])
def test_a_name_reaches_the_terminal_escaped(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    name = "\x1b]0;title\x07\u202e"
    assert main([command, f"resume={name}" if command == "train" else name]) == 2
    message = capsys.readouterr().err
    assert r"\x1b]0;title\x07\u202e" in message and "\x1b" not in message


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ({}, ("1000", "1", None)),
        ({"GOMP_SPINCOUNT": "7"}, ("7", "1", None)),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, (None, None, "ACTIVE")),
    ],
)
def test_threads_that_wait_leave_the_processor_unless_the_user_says(
    given: dict[str, str], values: tuple[str | None, ...]
) -> None:
    """The variables must stand before torch is loaded, whose OpenMP reads them once."""
    code = """
import os, sys
from ramen.cli.main import main
main(["--version"])
assert "torch" not in sys.modules
print([os.environ.get(name) for name in ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY")])
"""
    names = "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY"
    environment = {key: value for key, value in os.environ.items() if key not in names} | given
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == str([*values])

"""Damaged run folders: never a traceback, and never a number that no run has reached."""

import json
import math
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ramen.errors import DataError
from ramen.report import compare
from ramen.report.report import render

CASES = int(os.environ.get("FUZZ_CASES", "60"))  # a campaign is FUZZ_CASES=2000 pytest tests/report/test_damage.py
WRONG: list[Any] = [
    None, True, "3.0", "nan", "", [], [3.0], {}, {"a": 1}, -1, 10**400, math.nan, math.inf, "ünï", "\u0000", "finished", [[]] * 50,
]  # fmt: skip
FOREIGN = [
    b"", b"\x00" * 300, b"\xff\xfe\x00", b"null", b"[]", b"3", b'"finished"', b"{}", b"{}\n{}\n",
    b"[" * 50_000, b"- " * 50_000, b"{a: " * 9000,
    b"---\n- a\n",
    b"%PDF-1.4\n", b"a: &a [*a]\n", b"a: !!python/object/apply:os.system [true]\n", b'{"step": 1}\n', b"\xef\xbb\xbf{}",
]  # fmt: skip


def truncate(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


def scribble(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(content))
        content[at : at + rng.randrange(1, 9)] = rng.choice(
            [b"", b"\x00", b"\xff\xfe", b"\n", b"}", b'"', b"{", b":", b"\r"]
        )
    path.write_bytes(content)


def foreign(path: Path, rng: random.Random) -> None:
    path.write_bytes(rng.choice(FOREIGN))


def wrong_type(path: Path, rng: random.Random) -> None:
    """One value of one json object becomes another type; a yaml takes json as it is."""
    if path.name == "config.yaml":
        import yaml

        content = yaml.safe_load(path.read_text())
        content[rng.choice(list(content))] = rng.choice(WRONG)
        path.write_text(json.dumps(content))
        return
    lines = path.read_text().splitlines()
    at = rng.randrange(len(lines))
    content = json.loads(lines[at])
    key = rng.choice(list(content))
    content[key] = rng.choice(WRONG)
    lines[at] = json.dumps(content)
    path.write_text("\n".join(lines) + "\n")


def missing(path: Path, rng: random.Random) -> None:
    path.unlink()
    other = rng.choice(["nothing", "folder", "loop", "zero", "pipe", "stray"])
    if other == "folder":
        path.mkdir()
    elif other == "loop":
        path.symlink_to(path.name)
    elif other == "zero":
        path.symlink_to("/dev/zero")
    elif other == "pipe":
        os.mkfifo(path)
    elif other == "stray":
        (path.parent / f".{path.name}.123").write_text("{")


def repeat(path: Path, rng: random.Random) -> None:
    """Lines twice, out of order, half a line in the middle, none at the end."""
    lines = path.read_text().splitlines()
    at = rng.randrange(len(lines))
    lines[at:at] = [lines[rng.randrange(len(lines))], lines[at][: rng.randrange(1, len(lines[at]) + 1)]]
    path.write_text("\n".join(lines))


DAMAGES = (truncate, scribble, foreign, wrong_type, missing, repeat)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_run_is_left_out_or_read_as_it_was(
    write_sweep: Callable[..., Path],
    tmp_path: Path,
    damage: Callable[[Path, random.Random], None],
) -> None:
    top = write_sweep(tmp_path / "runs", {"adamw": 3.1, "bam": 3.0}, seeds=2, lrs=(0.01,))
    truth = {
        str(folder): json.loads((folder / "summary.json").read_text())["final_val_loss"] for folder in top.iterdir()
    }
    whole = {path: path.read_bytes() for path in top.rglob("*") if path.is_file()}
    for case in range(CASES // len(DAMAGES)):
        rng = random.Random(f"{damage.__name__} {case}")
        path = rng.choice(sorted(p for p in whole if damage is not repeat or p.name == "metrics.jsonl"))
        damage(path, rng)
        try:
            report = compare(top)
        except DataError as error:
            assert str(error)
        else:
            runs = dict(zip(report.runs["folder"], report.runs["final_val_loss"], strict=True))
            undamaged = {folder: loss for folder, loss in truth.items() if folder != str(path.parent)}
            assert {folder: runs[folder] for folder in undamaged} == undamaged
            loss, folder = runs.get(str(path.parent), math.nan), str(path.parent)
            warned = any(folder in warning for warning in report.warnings)
            assert math.isnan(loss) or loss == truth[folder] or warned, f"{path}: {loss}"
            assert report.answer and render(report, "html", {})
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
        path.write_bytes(whole[path])

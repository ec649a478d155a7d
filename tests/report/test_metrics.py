"""metrics.jsonl: damage is survived, and never turned into a number that nobody wrote."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramen.runs.read import MOST_LINES, number, read_metrics, series

RECORDS = [
    {
        "step": s,
        "tokens": s * 8192,
        "seconds": s * 0.5,
        "train_loss": 6.125 - s / 16,
        "val_loss": None if s % 2 else 6 - s / 8,
    }
    for s in range(12)
]
SOUND = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()
WRITTEN = {(r["step"], k): r[k] for r in RECORDS for k in ("tokens", "seconds", "train_loss", "val_loss")}
# Bytes that cannot make one sound number out of another: no digits, point, sign, exponent or blank.
HARMFUL = b'{}[]":,xyz\n\r\x00\xff\xc3\\nulNaIf'


def read(tmp_path, content: bytes):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(content)
    return read_metrics(path)[0]


def bad_lines(tmp_path):
    return read_metrics(tmp_path / "metrics.jsonl")[1]


def values(curve):
    return {
        (int(step), name): float(column[i])
        for i, step in enumerate(curve.step)
        for name, column in curve.items()
        if name in ("tokens", "seconds", "train_loss", "val_loss") and not math.isnan(column[i])
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged")


def test_sound_file(tmp_path):
    curve = read(tmp_path, SOUND)
    assert values(curve) == {key: value for key, value in WRITTEN.items() if value is not None}
    assert bad_lines(tmp_path) == 0
    steps, losses = series(curve, "step", "val_loss")
    assert steps.tolist() == [0, 2, 4, 6, 8, 10]
    assert losses[-1] == 6 - 10 / 8


@given(cut=st.integers(0, len(SOUND)))
def test_killed_run_keeps_every_whole_line(folder, cut):
    curve = read(folder, SOUND[:cut])
    whole = SOUND[:cut].count(b"\n") + SOUND[:cut].endswith(b"}")
    assert len(curve.step) == whole
    assert bad_lines(folder) == 0
    assert values(curve).items() <= WRITTEN.items()


@given(
    edits=st.lists(
        st.tuples(
            st.integers(0, len(SOUND) - 1), st.sampled_from(["replace", "insert"]), st.sampled_from(list(HARMFUL))
        ),
        max_size=8,
    )
)
def test_damaged_bytes_never_become_another_number(folder, edits):
    content = bytearray(SOUND)
    for place, kind, byte in edits:
        content[place : place + (kind == "replace")] = bytes([byte])
    curve = read(folder, bytes(content))
    wrong = {key: value for key, value in values(curve).items() if WRITTEN.get(key) != value and math.isfinite(value)}
    assert not wrong


@given(content=st.binary(max_size=300))
def test_any_bytes_are_read_without_error(folder, content):
    read(folder, content)


@pytest.mark.parametrize(
    "line",
    [
        '{"step": true}',
        '{"step": -1}',
        '{"step": 1.5}',
        '{"step": "3"}',
        "[1, 2]",
        "3",
        "null",
        "[" * 5000,
        '{"tokens": 3}',
        '{"step": 1' + "0" * 5000 + "}",
    ],
)
def test_line_that_is_no_record(tmp_path, line):
    curve = read(tmp_path, line.encode() + b"\n" + SOUND)
    assert len(curve.step) == len(RECORDS)
    assert bad_lines(tmp_path) == 1


@pytest.mark.parametrize("value", ["true", '"3.2"', "[3]", "{}", "NaN", "1" + "0" * 400])
def test_field_that_is_no_number_is_missing(tmp_path, value):
    curve = read(tmp_path, f'{{"step": 1, "val_loss": {value}}}\n{{"step": 2, "val_loss": 3.5}}\n'.encode())
    assert series(curve, "step", "val_loss")[1].tolist() == [3.5]


def test_infinite_loss_is_no_point_of_a_curve(tmp_path):
    curve = read(tmp_path, b'{"step": 1, "val_loss": Infinity}\n{"step": 2, "val_loss": 3.5}\n')
    assert series(curve, "step", "val_loss")[1].tolist() == [3.5]


def test_two_half_lines_are_not_one_record(tmp_path):
    assert not len(read(tmp_path, b'{"step": 3\n"val_loss": 1.0}\n').step)


def test_resumed_run_drops_the_abandoned_attempt(tmp_path):
    lines = [(0, 6.0), (10, 5.0), (20, 4.0), (30, 3.9), (15, 4.5), (20, 4.1)]
    text = "".join(json.dumps({"step": s, "val_loss": v}) + "\n" for s, v in lines)
    steps, losses = series(read(tmp_path, text.encode()), "step", "val_loss")
    assert steps.tolist() == [0, 10, 15, 20]
    assert losses.tolist() == [6.0, 5.0, 4.5, 4.1]


def test_training_and_evaluation_lines_of_one_step_are_one_record(tmp_path):
    curve = read(tmp_path, b'{"step": 5, "train_loss": 4.0, "val_loss": null}\n{"step": 5, "val_loss": 4.2}\n')
    assert (curve.train_loss.tolist(), curve.val_loss.tolist()) == ([4.0], [4.2])


def test_clock_that_was_set_back_gives_no_curve_against_seconds(tmp_path):
    curve = read(tmp_path, b'{"step": 1, "seconds": 9, "val_loss": 4}\n{"step": 2, "seconds": 1, "val_loss": 3}\n')
    assert not len(series(curve, "seconds", "val_loss")[0])
    assert len(series(curve, "step", "val_loss")[0]) == 2


def test_long_file_keeps_every_evaluation_and_the_last_line(tmp_path):
    n = 5 * MOST_LINES + 3
    text = "".join(
        json.dumps({"step": s, "train_loss": 1.0, "val_loss": None if s % 7 else 3.0}) + "\n" for s in range(n)
    )
    curve = read(tmp_path, text.encode())
    assert series(curve, "step", "val_loss")[0].tolist() == list(range(0, n, 7))
    assert curve["step"].iloc[-1] == n - 1
    assert len(curve.step) < n / 2


def test_missing_file_is_an_empty_curve(tmp_path):
    assert not len(read_metrics(tmp_path / "metrics.jsonl")[0])


def test_number():
    assert number(3) == 3.0
    assert all(math.isnan(number(v)) for v in (True, "3", None, [], 10**400))

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ramen.runs.lock import exclusive

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(tmp_path):
    (tmp_path / "work").mkdir()

    options = {"cwd": tmp_path / "work", "text": True}
    begin = [sys.executable, str(ROOT / "scripts" / "prepare_data.py"), "data=text"]

    def prepare(*overrides):
        return subprocess.run([*begin, *overrides], capture_output=True, timeout=120, **options)

    def start(*overrides):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        # A shell's background jobs ignore Ctrl-C, and so would what they start: the tests may run in one.
        heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        return subprocess.Popen([*begin, *overrides], start_new_session=True, preexec_fn=heard, **pipes, **options)

    prepare.start = start
    return prepare


def test_prints_a_table_and_leaves_only_the_data(run, jsonl, tmp_path):
    done = run(f"data.files={jsonl}", "data.tokenizer=byte", "data.validation_fraction=0.3")
    assert done.returncode == 0, done.stderr
    assert "validation" in done.stdout and "bytes / token" in done.stdout and "outputs/data/text_byte_" in done.stdout
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["outputs"]
    assert [path.name for path in (tmp_path / "work" / "outputs").iterdir()] == ["data"]


def test_another_process_in_the_folder_is_no_hindrance(run, jsonl, tmp_path):
    with exclusive(tmp_path / "work"):
        done = run(f"data.files={jsonl}", "data.tokenizer=byte", "data.validation_fraction=0.3")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.files=nothing.txt"], "data.files: no file matches"),
        ([], "data.files: must be given"),
        (["data=fineweb10b", "data.shards=104"], "data.shards must be in [1, 103], got 104"),
        (["data=nothing"], "data: no such option, got 'nothing'; allowed are fineweb100b"),
        (["data.fils=nothing.txt"], "data.fils: no such key; did you mean 'files'?"),
        (["data.files=nothing.txt", "data.sequence_length=short"], "data.sequence_length: "),
        (["data.files=nothing.txt", "data.sequence_length=1"], "data.sequence_length must be in [2, "),
    ],
)
def test_a_users_error_is_one_message(run, overrides, message):
    done = run(*overrides)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert "Error executing job" not in done.stderr
    assert not done.stdout


def test_ctrl_c_with_workers_is_one_line_and_the_next_run_continues(run, tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(f'{{"text": "{number} {"some words " * 200}"}}\n' for number in range(10_000)))
    process = run.start(f"data.files={corpus}", "data.tokenizer=gpt2", "data.workers=2")
    while process.poll() is None and not list((tmp_path / "work").glob("outputs/data/.*.partial/manifest.json")):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to the workers too
    assert process.communicate(timeout=60)[1] == "interrupted\n"
    assert process.returncode == 130
    assert list((tmp_path / "work").glob("outputs/data/.*.partial/manifest.json"))

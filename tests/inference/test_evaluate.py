"""Evaluation of a checkpoint: equal to what training reported, right on other data, and clear about what it refuses."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ramen.build.objects import build_section
from ramen.cli.main import main
from ramen.data.tokenizer import BYTE_TOKENIZER
from ramen.errors import ConfigError, DataError
from ramen.inference.evaluate import evaluate_on
from ramen.inference.load import Run, open_run

ROOT = Path(__file__).resolve().parents[2]
TEXT = "The quality of mercy is not strain'd; it droppeth as the gentle rain.\n" * 9


@pytest.fixture(scope="module")
def run(trained: Path) -> Run:
    return open_run(trained)


def test_the_own_validation_split_gives_what_training_reported(run: Run) -> None:
    result = evaluate_on(run)
    assert result.loss == run.summary["final_val_loss"]
    assert result.bits_per_byte == run.summary["final_val_bits_per_byte"]
    assert result.data_hash == run.summary["data_hash"]
    assert result.tokenizer_known


def test_windows_and_a_split_embedding_are_as_training_left_them(
    train_small: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """They follow from progress, which a checkpoint's reader does not know: the checkpoint holds them.

    Precision, too, is training's; and losses on tokens after the next one are training's alone.
    """
    overrides = (
        "precision=bf16",
        "model.mtp_weights=[0.5]",
        "embedding=split",
        "embedding.split_at=0.5",
        "schedule@long_window_schedule=stepped",
    )
    windows = (
        "attention.long_window_tokens=4", "long_window_schedule.values=[1.0,8.0]", "long_window_schedule.boundaries=[0.5]",
    )  # fmt: skip
    summary = train_small(tmp_path / "run", *overrides, *windows)
    opened = open_run(tmp_path / "run")
    assert opened.model.windows == (32, None)
    assert evaluate_on(opened).loss == summary["final_val_loss"]


def test_more_of_the_split_can_be_asked_for(run: Run) -> None:
    few, many = evaluate_on(run), evaluate_on(run, "data.validation_tokens=6000")
    assert few.tokens < many.tokens == pytest.approx(6000, rel=0.05)


def test_a_text_file_is_evaluated_whole_and_agrees_with_the_loss_of_its_text(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "mercy.txt"
    path.write_text(TEXT)
    result = evaluate_on(run, str(path))
    assert result.tokens == len(TEXT.encode()) + 1  # and that the document ends
    assert result.bytes_per_token == pytest.approx(len(TEXT) / (len(TEXT) + 1))
    assert result.bits_per_byte == pytest.approx(result.loss / math.log(2) / result.bytes_per_token)
    assert result.loss == pytest.approx(run.loss(TEXT), abs=0.05)  # which does not count the end
    assert result == evaluate_on(run, str(path))


def test_a_shard_scores_as_its_text_does(run: Run, tmp_path: Path, write_shard: Callable[..., None]) -> None:
    path, shard = tmp_path / "mercy.txt", tmp_path / "mercy.bin"
    path.write_text(TEXT)
    tokenizer = BYTE_TOKENIZER
    document = np.concatenate([[tokenizer.bos], tokenizer.encode(TEXT)])
    write_shard(shard, np.concatenate([document, document]))
    alone = evaluate_on(run, str(shard))
    assert not alone.tokenizer_known
    assert alone.loss == pytest.approx(evaluate_on(run, str(path)).loss, abs=0.05)
    tokenizer.save(tmp_path / "tokenizer.json")
    known = evaluate_on(run, str(shard))
    assert known.tokenizer_known
    assert known.loss == alone.loss


def test_another_corpus_is_tokenized_as_the_run_was(run: Run, tmp_path: Path) -> None:
    """`data=text` has tokenizer=bpe by default: the model would not know its ids."""
    (tmp_path / "many.txt").write_text("\n\n".join(f"{number}. {TEXT[:80]}" for number in range(60)))
    overrides = (
        "data=text",
        f"data.files={tmp_path / 'many.txt'}",
        "data.separator=''",
        "data.validation_fraction=0.5",
    )
    half, whole = evaluate_on(run, *overrides), evaluate_on(run, str(tmp_path / "many.txt"), "data.separator=''")
    assert 0.2 < half.tokens / whole.tokens < 0.8
    assert half.bytes_per_token == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["nowhere.bin"], "No such file"),
        (["nowhere.txt"], "no file matches"),
        (["FOLDER"], "no file matches"),
        (["data.folder=[a"], "data.folder"),
        (["data=txt"], "no such option, got 'txt'; did you mean 'text'"),
        (["data.validation_token=5"], "did you mean 'validation_tokens'"),
        (["data.sequence_length=128"], "more than the model was made for"),
        (["data.tokenizer=gpt2"], "leave it out"),
        (["optimizer.lr=1"], "nothing to evaluate on"),
        (["a.bin", "b.txt"], "cannot be mixed"),
        (["a.txt", "data=hub"], "cannot be mixed"),
    ],
)
def test_what_cannot_be_evaluated_is_told(run: Run, overrides: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        evaluate_on(run, *(str(tmp_path) if word == "FOLDER" else word for word in overrides))


def test_a_shard_of_another_tokenizer_is_refused(run: Run, tmp_path: Path, write_shard: Callable[..., None]) -> None:
    shard = tmp_path / "other.bin"
    write_shard(shard, [50256, 1, 2, 3, 4])
    with pytest.raises(DataError, match="another tokenizer"):
        evaluate_on(run, str(shard))  # ids out of range
    write_shard(shard, [256, 1, 2, 3, 4])
    (tmp_path / "manifest.json").write_text("{}")  # of a repository of GPT-2 shards
    with pytest.raises(DataError, match="is of another tokenizer, got gpt2 of 50257 ids"):
        evaluate_on(run, str(shard))


def test_empty_text_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("  \n")
    with pytest.raises(DataError, match="no text"):
        evaluate_on(run, str(tmp_path / "empty.txt"))


def test_the_script_tells_saves_and_exits_with_2(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mercy.txt").write_text(TEXT)
    assert main(["evaluate", str(trained), "--json", "--save", str(tmp_path / "mercy.txt"), "--device", "cpu"]) == 0
    saved = (trained / "evaluations.jsonl").read_text().splitlines()
    assert json.loads(capsys.readouterr().out) == json.loads(saved[-1])
    assert json.loads(saved[-1])["tokens"] == len(TEXT) + 1
    (trained / "evaluations.jsonl").unlink()
    (trained / "evaluations.jsonl").mkdir()
    assert main(["evaluate", str(trained), "--json", "--save", "--device", "cpu"]) == 2  # and the number is not lost
    (trained / "evaluations.jsonl").rmdir()
    assert json.loads(capsys.readouterr().out)["step"] == 6
    assert main(["evaluate", str(trained), "--device", "cpu"]) == 0
    assert capsys.readouterr().out.startswith("validation split, step 6: loss ")
    assert main(["evaluate", str(tmp_path)]) == 2
    assert "no run folder" in capsys.readouterr().err


def test_a_file_is_read_as_the_files_of_the_run_were(
    train_small: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Its separator and its text column."""
    lines = [f"{number} {TEXT[number : number + 60]}" for number in range(90)]
    (tmp_path / "corpus.txt").write_text("\n---\n".join(lines))
    (tmp_path / "other.txt").write_text("\n---\n".join(lines[:9]))
    (tmp_path / "other.jsonl").write_text("\n".join(json.dumps({"body": line}) for line in lines[:9]))
    overrides = ("data=text", f"data.files={tmp_path / 'corpus.txt'}", "data.separator='---'", "data.text_column=body")
    train_small(tmp_path / "run", *overrides, "data.validation_fraction=0.3")
    run = open_run(tmp_path / "run")
    text, table = (evaluate_on(run, str(tmp_path / f"other.{suffix}")) for suffix in ("txt", "jsonl"))
    assert table.tokens == sum(len(line.encode()) + 1 for line in lines[:9])
    assert text.tokens == table.tokens + 8  # line breaks


def test_data_that_was_changed_is_refused(train_small: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("\n\n".join(f"{number} {TEXT[:60]}" for number in range(60)))
    overrides = (
        "data=text",
        f"data.files={tmp_path / 'corpus.txt'}",
        "data.separator=''",
        "data.validation_fraction=0.3",
    )
    summary = train_small(tmp_path / "run", *overrides)
    run = open_run(tmp_path / "run")
    assert evaluate_on(run).loss == summary["final_val_loss"]
    (tmp_path / "corpus.txt").write_text("\n\n".join(f"{number} {TEXT[9:70]}" for number in range(60)))
    for changes in ([], ["data.validation_tokens=500"]):
        with pytest.raises(DataError, match=f"is not what .* was trained on, got hash .*{summary['data_hash']}"):
            evaluate_on(run, *changes)


@pytest.mark.parametrize("long_documents", ["split", "crop"])
def test_bits_per_byte_are_over_the_text_of_the_counted_targets(
    train_small: Callable[..., dict[str, Any]], tmp_path: Path, long_documents: str
) -> None:
    """Documents that begin with a byte a token and go on with several: those cut short count as far as they are seen."""
    documents = [f"{number} {number**20} " + "the time " * (3 + number) for number in range(90)]
    (tmp_path / "corpus.txt").write_text("\n\n".join(documents))
    overrides = (
        "data=text",
        f"data.files={tmp_path / 'corpus.txt'}",
        "data.separator=''",
        "data.validation_fraction=0.3",
    )
    more = (f"data.long_documents={long_documents}", "data.tokenizer=bpe", "data.bpe_vocabulary=270")
    summary = train_small(tmp_path / "run", *overrides, *more, "data.validation_tokens=600")
    result = evaluate_on(run := open_run(tmp_path / "run"))
    assert result.bits_per_byte == summary["final_val_bits_per_byte"]
    dataset = build_section(run.config, "data").dataset()
    targets = build_section(run.config, "data").validation_batch(dataset.validation.paths, run.tokenizer.bos).targets
    text = sum(len(run.tokenizer.tokens[target]) for target in targets.flatten() if 0 <= target < run.tokenizer.bos)
    assert result.bits_per_byte == pytest.approx(result.loss * result.tokens / math.log(2) / text)
    if long_documents == "crop":
        assert text / result.tokens < 0.9 * dataset.validation.bytes / dataset.validation.tokens

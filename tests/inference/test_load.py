"""A run folder opened again: what a notebook finds, and what is said when it cannot be opened."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import ramen
from ramen.cli.main import main
from ramen.errors import ConfigError, DataError
from ramen.inference.load import Run, draw


@pytest.fixture(scope="module")
def opened(trained: Path) -> Run:
    return ramen.load(trained)


def test_a_notebook_finds_what_it_expects(opened: Run, trained: Path) -> None:
    assert opened.step == 6
    assert opened.config["model"]["dim"] == 16
    assert opened.summary == json.loads((trained / "summary.json").read_text())
    assert opened.decode(opened.encode("To be, or not — to be")) == "To be, or not — to be"
    assert opened.model.training is False
    assert len(repr(opened)) < 200 + len(str(opened.folder))  # a cell that ends with it shows a line, not a module
    logits = opened.model(torch.tensor([[opened.tokenizer.bos, *opened.encode("To")]]))
    assert logits.shape[-1] == opened.tokenizer.vocabulary
    assert opened.generate("KING", tokens=12, seed=3) == opened.generate("KING", tokens=12, seed=3)
    assert len({opened.generate("KING", tokens=12, seed=seed) for seed in range(3)}) == 3


@pytest.mark.parametrize("letters", [1, 62, 63, 64, 200])
def test_the_loss_of_a_text_is_the_mean_over_its_tokens(opened: Run, letters: int) -> None:
    """Row by row, each opened by BOS, as training cuts a document."""
    text = "Now is the winter of our discontent made glorious summer; " * 4
    ids = opened.encode(text[:letters])
    width = opened.text.sequence_length - 1
    total = 0.0
    for start in range(0, len(ids), width):
        piece = ids[start : start + width]
        logits = opened.model(torch.tensor([[opened.tokenizer.bos, *piece]]))[0, :-1]
        total += torch.nn.functional.cross_entropy(logits, torch.tensor(piece), reduction="sum").item()
    assert opened.loss(text[:letters]) == pytest.approx(total / len(ids), rel=1e-5)


def test_the_folder_alone_is_enough(opened: Run, trained: Path, tmp_path: Path) -> None:
    """Copied to another machine, where the corpus is not: the tokenizer came along."""
    shutil.copytree(trained, tmp_path / "copy")
    config = (tmp_path / "copy" / "config.yaml").read_text()
    (tmp_path / "copy" / "config.yaml").write_text(
        config.replace(str(opened.config["data"]["folder"]), str(tmp_path / "nowhere"))
    )
    copied = ramen.load(str(tmp_path / "copy"))
    assert copied.generate("KING", tokens=8) == opened.generate("KING", tokens=8)
    assert not (tmp_path / "nowhere").exists()


def test_a_run_without_its_tokenizer_is_refused(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "copy")
    (tmp_path / "copy" / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"tokenizer\.json: is missing"):
        ramen.load(tmp_path / "copy")


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("config.yaml", "nonfinite: stop", "nonfinite: skip"),
        ("config.yaml", "seed: 0", "seed: 1"),
        ("summary.json", '"status": "finished"', '"status": "diverged"'),
        ("environment.json", '"precision": "float32"', '"precision": "bfloat16"'),
        ("tokenizer.json", '"A"', '"Z"'),
    ],
)
def test_a_file_that_was_changed_is_named(trained: Path, tmp_path: Path, name: str, old: str, new: str) -> None:
    """One number, one word: the run it tells of is not the run that was."""
    shutil.copytree(trained, tmp_path / "copy")
    path = tmp_path / "copy" / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(DataError, match=rf"{name}: "):
        ramen.load(tmp_path / "copy")


def test_what_a_folder_allows_itself_does_not_count(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "copy")
    module = ["import torch", f"open({str(tmp_path / 'ran')!r}, 'w')", "class MLP(torch.nn.Module):"]
    module += ["    def __init__(self, *runtime):", "        super().__init__()", ""]
    (tmp_path / "planted.py").write_text("\n".join(module))
    path = tmp_path / "copy" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config |= {"allow_targets": ["planted"], "mlp": {"_target_": "planted.MLP"}}
    path.write_text(yaml.safe_dump(config))
    (tmp_path / "copy" / "environment.json").unlink()
    (tmp_path / "copy" / "summary.json").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        with pytest.raises(DataError, match=r"mlp\._target_: may not .*\n.*allow_targets: \['planted'\] .* is ignored"):
            ramen.load(tmp_path / "copy")
        assert not (tmp_path / "ran").exists()
        with pytest.raises(DataError, match="of another model"):  # allowed by the caller it is imported
            ramen.load(tmp_path / "copy", allow_targets=["planted"])
        assert (tmp_path / "ran").exists()


def test_what_cannot_be_opened_is_told(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such run folder"):
        ramen.load(tmp_path / "nowhere")
    with pytest.raises(DataError, match="it holds runs, give one of them"):
        ramen.load(trained.parent)
    with pytest.raises(DataError, match=r"cannot be read, got .*too long"):  # as what may not be looked at
        ramen.load(tmp_path / ("long" * 100))
    (tmp_path / "left" / ".hydra").mkdir(parents=True)
    (tmp_path / "left" / ".hydra" / "config.yaml").touch()
    with pytest.raises(DataError, match=r"no or an empty config\.yaml in it$"):
        ramen.load(tmp_path / "left")
    for step in (5, "5", "last", "06"):
        with pytest.raises(DataError, match=f"no checkpoint of step {step}; there are 6, and best"):
            ramen.load(trained, step=step)
    assert ramen.load(trained, step="6").step == ramen.load(trained, step=6).step == 6
    shutil.copytree(trained, tmp_path / "copy")
    path = tmp_path / "copy" / "config.yaml"
    path.write_text(path.read_text().replace("dim: 16", "dim: 32"))
    with pytest.raises(
        DataError, match=r"config\.yaml: was changed after it was written, got hash \w{12}; recorded is"
    ):
        ramen.load(tmp_path / "copy")
    for name in ("environment.json", "summary.json"):  # what an older ramen did not write
        (tmp_path / "copy" / name).unlink()
    with pytest.raises(DataError, match="of another model"):
        ramen.load(tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "checkpoint")
    with pytest.raises(DataError, match="no checkpoint"):
        ramen.load(tmp_path / "copy")


@pytest.mark.parametrize("name", ["config.yaml", "summary.json", "environment.json"])
@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"[", b"[1]", b"null", b"[" * 9000])
def test_a_damaged_file_is_named(trained: Path, tmp_path: Path, name: str, content: bytes) -> None:
    shutil.copytree(trained, tmp_path / "copy")
    (tmp_path / "copy" / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        ramen.load(tmp_path / "copy")


def test_a_damaged_value_is_told(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "copy")
    summary, environment = ((tmp_path / "copy" / f"{name}.json") for name in ("summary", "environment"))
    whole = summary.read_bytes()
    for value in (1.5, [3], {}):
        summary.write_text(json.dumps({**json.loads(whole), "micro_batch_tokens": value}))
        with pytest.raises(DataError, match=r"summary\.json: is damaged, micro_batch_tokens"):
            ramen.load(tmp_path / "copy")
    summary.write_bytes(whole)
    for value in (None, 3, "float64", []):
        environment.write_text(json.dumps({"precision": value}))
        with pytest.raises(DataError, match=r"environment\.json: is damaged, .*precision"):
            ramen.load(tmp_path / "copy")


def test_the_best_checkpoint_is_opened_by_its_name(
    train_small: Callable[..., dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At a rate far too large the last step is not the best one."""
    overrides = ("optimizer.lr=0.5", "auxiliary.lr=0.5", "schedule=constant", "trainer.evaluate_every_steps=1")
    summary = train_small(tmp_path, *overrides, "trainer.keep_best=true")
    best, last = ramen.load(tmp_path, step="best"), ramen.load(tmp_path)
    assert summary["best_val_loss"] < summary["final_val_loss"]
    assert best.step < last.step == 6
    assert main(["sample", str(tmp_path), "--step", "best", "--tokens", "3", "--device", "cpu"]) == 0
    assert capsys.readouterr().out


def test_settings_that_draw_nothing_are_refused_before_anything_is_written(opened: Run) -> None:
    with pytest.raises(ConfigError) as caught:
        opened.pieces("", tokens=0, temperature=float("nan"), top_k=0, seed=0)
    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["tokens", "temperature", "top_k"]


def test_draws_follow_the_tempered_softmax_over_exactly_k() -> None:
    logits = torch.tensor([1.0, 3.0, 2.0, 2.0, -1.0])
    generator = torch.Generator().manual_seed(0)
    assert {draw(logits, 0, None, generator) for _ in range(5)} == {1}
    assert {draw(logits, 1.0, 1, generator) for _ in range(20)} == {1}
    assert len({draw(logits, 9.0, 2, generator) for _ in range(50)}) == 2  # the tie of 2 and 3 does not let in a third
    drawn = Counter(draw(logits, 0.5, None, generator) for _ in range(4000))
    shares = np.array([drawn[index] for index in range(5)]) / 4000
    assert np.abs(shares - (logits / 0.5).softmax(-1).numpy()).max() < 0.03


def test_characters_that_span_tokens_come_out_whole(opened: Run) -> None:
    """Byte tokens are drawn one by one; the pieces put together are the bytes decoded at once."""
    pieces = list(opened.pieces("é", tokens=60, temperature=5.0, top_k=None, seed=1))
    assert all(isinstance(piece, str) for piece in pieces)
    assert len("".join(pieces)) <= 60


def test_the_script_writes_the_same_text_for_the_same_seed(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def written(seed: str) -> str:
        overrides = ["--tokens", "20", "--prompt", "KING", "--seed", seed, "--device", "cpu"]
        assert main(["sample", str(trained), *overrides]) == 0
        return capsys.readouterr().out

    first, again, other = map(written, "112")
    assert first.startswith("KING")
    assert first == again != other
    assert main(["sample", str(trained / "nowhere")]) == 2
    assert "no such run folder" in capsys.readouterr().err

"""Compiled runs: the same losses, graphs shared by layers and jobs, loud failures, a cache of the user's choice."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from ramen.errors import ConfigError
from ramen.training.compilation import choose_compile_mode, configure_compiler, loss_function, raise_compile_errors


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are found as for the compiler, and then run as they are: a compiler takes tens of seconds."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *args, **more: real(*args, **more, backend="eager"))
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


def test_auto_compiles_on_cuda_alone() -> None:
    assert (
        choose_compile_mode("auto", torch.device("cpu")) == "off"
        and choose_compile_mode("auto", torch.device("cuda")) == "on"
    )
    assert [choose_compile_mode(how, torch.device("cpu")) for how in ("on", "off", "regional")] == [
        "on",
        "off",
        "regional",
    ]


@pytest.mark.parametrize("how", ["on", "regional"])
def test_jobs_share_graphs_and_layers_share_those_of_blocks(
    quick: None, build_gpt: Callable[..., Any], rows: Callable[..., torch.Tensor], how: Any
) -> None:
    """Whatever a later job's weights, a training and an evaluation graph serve it; deeper models need no more of a block's."""
    tokens = rows((5, 27), (32,))
    results = []
    for job, layers in enumerate((2, 2, 3)):
        model = build_gpt(f"model.layers={layers}", seed=job, noise=0.1)
        with torch.no_grad():
            expected = model(tokens, tokens)
        before, loss = graphs(), loss_function(model, how, False)
        value = loss(tokens, tokens)
        value.backward()
        torch.testing.assert_close(value, expected)
        results.append(graphs() - before)
    assert results == ([1, 0, 1] if how == "on" else [1, 0, 0])


@pytest.mark.parametrize("how", ["on", "regional"])
def test_recomputing_inside_a_compiled_model_gives_its_gradients(
    quick: None, build_gpt: Callable[..., Any], rows: Callable[..., torch.Tensor], how: Any
) -> None:
    tokens, results = rows((5, 27)), []
    for recompute in (False, True):
        model = build_gpt(noise=0.1)
        loss_function(model, how, recompute)(tokens, tokens).backward()
        results.append({name: p.grad for name, p in model.named_parameters()})
    for name, expected in results[0].items():
        torch.testing.assert_close(results[1][name], expected)


def test_every_phase_is_compiled_before_the_clock(quick: None, make_trainer: Callable[..., Any]) -> None:
    """Batches that grow, with a last micro-batch of its own size, and a window that changes for less than 1 % of the run."""
    trainer = make_trainer(
        "run", "compile=on", "schedule@batch_schedule=stepped", "batch_schedule.values=[1.0,1.5]",
        "batch_schedule.boundaries=[0.5]", "attention.long_window_tokens=8", "schedule@long_window_schedule=stepped",
        "long_window_schedule.values=[1.0,2.0,3.0]", "long_window_schedule.boundaries=[0.333,0.3335]",
        "trainer.steps=3", "model.layers=1",
    )  # fmt: skip
    trainer.warm_up()
    before = graphs()
    assert trainer.train()[0] == "finished"
    assert (graphs() - before, trainer.progress.step) == (0, 3)
    assert trainer.progress.compile_seconds > 0


def test_what_does_not_compile_is_an_error_in_one_sentence(quick: None) -> None:
    def reads_back(x: torch.Tensor) -> torch.Tensor:
        return x if x.sum().item() > 0 else -x

    with (
        pytest.raises(ConfigError, match=r"compile: this model does not compile here \(.+\), got on or regional"),
        raise_compile_errors(),
    ):
        torch.compile(reads_back, fullgraph=True)(torch.ones(2))
    with pytest.raises(RuntimeError, match="no compiler's fault"), raise_compile_errors():
        raise RuntimeError("no compiler's fault")


def test_products_are_kept_where_the_user_says_or_in_the_users_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/elsewhere")
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    configure_compiler()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/elsewhere"
    assert os.environ["TRITON_CACHE_DIR"] == str(tmp_path / "ramen" / "triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", "")  # so that it is put back to what it was

"""Diagnostics: the numbers against an SVD in float64, and that measuring changes nothing."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ramen.build.objects import build_section
from ramen.config.check import check
from ramen.errors import ConfigError
from ramen.optimizer.optimizers import ParamGroup
from ramen.training.diagnostics import Diagnostics

Train = Callable[..., dict[str, Any]]
ON = ("diagnostics=on", "diagnostics.every_steps=3")


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "diagnostics.jsonl").read_text().splitlines()]


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def watched(by: list[Any], shapes: dict[str, tuple[int, ...]], **more: Any) -> tuple[Diagnostics, list[Any], list[Any]]:
    """Diagnostics of parameters of these shapes, the first for `optimizer` and the rest for `auxiliary`; what they tell."""
    params = [nn.Parameter(random(*shape, seed=k)) for k, shape in enumerate(shapes.values())]
    groups = [
        ParamGroup(role, to, (name,), (p,), 0.1, 0.0)
        for k, (name, p) in enumerate(zip(shapes, params, strict=True))
        for role, to in [("matrix", "optimizer") if k == 0 else ("scalar" if p.ndim < 2 else "head", "auxiliary")]
    ]
    written: list[Any] = []
    diagnostics = Diagnostics(**({"every_steps": 2, "by": by, "power_steps": 200} | more))
    diagnostics.watch(groups, written.append)  # type: ignore[arg-type]
    return diagnostics, params, written


def walk(diagnostics: Diagnostics, params: list[Any], updates: list[list[Tensor]], first: int = 1) -> None:
    for step, moved in enumerate(updates, start=first):
        for k, p in enumerate(params):
            p.grad = random(*p.shape, seed=100 * step + k)
        diagnostics.before(step)
        with torch.no_grad():
            for p, update in zip(params, moved, strict=True):
                p += update
        diagnostics.after(step)


@pytest.mark.parametrize("shape", [(24, 7), (7, 24), (9, 9), (3, 12, 5), (1, 4, 6)])
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_the_figures_are_those_of_an_svd(shape: tuple[int, ...], scale: float) -> None:
    diagnostics, (p,), written = watched(["parameter"], {"blocks.0.mlp.up.weight": shape})
    start = scale * random(*shape, seed=5)
    with torch.no_grad():
        p.copy_(start)
    updates = [0.1 * scale * random(*shape, seed=k) for k in (6, 7)]
    walk(diagnostics, [p], [[u] for u in updates])
    (line,) = written
    figures = {key.removeprefix("parameter/blocks.0.mlp.up/"): value for key, value in line.items()}
    before = (start + updates[0]).double()
    update, last, gradient = (
        (start + updates[0] + updates[1]).double() - before,
        before - start.double(),
        p.grad.double(),
    )

    def cosine(a: Tensor, b: Tensor) -> float:
        return ((a * b).sum() / a.norm() / b.norm()).item()

    s, w = (torch.linalg.svdvals(x) for x in (update, before))  # (..., side)
    expected = {
        "step": 2,
        "update_rms": update.square().mean().sqrt().item(),
        "update_to_weight": (update.norm() / before.norm()).item(),
        "cosine_to_descent": cosine(update, -gradient),
        "cosine_to_last_update": cosine(update, last),
        "update_spectral_norm": s[..., 0].mean().item(),
        "update_stable_rank": (s.square().sum(-1) / s[..., 0] ** 2).mean().item(),
        "weight_spectral_norm": w[..., 0].mean().item(),
        "weight_stable_rank": (w.square().sum(-1) / w[..., 0] ** 2).mean().item(),
        "orthogonality_error": (s**2 / (s**2).mean(-1, keepdim=True) - 1).square().mean(-1).sqrt().mean().item(),
    }
    assert figures == pytest.approx(expected, rel=2e-3)


def test_parameters_are_taken_together_by_every_cut() -> None:
    shapes = {"blocks.0.mlp.up.weight": (4, 6), "blocks.1.mlp.up.weight": (4, 6), "head.weight": (5, 3), "gain": (7,)}
    diagnostics, params, written = watched(["role", "layer", "kind", "parameter"], shapes, every_steps=1)
    walk(diagnostics, params, [[0.1 * random(*p.shape, seed=k) for k, p in enumerate(params)]])
    (line,) = written
    places = {key.rpartition("/")[0] for key in line} - {""}
    assert places == {
        "role/matrix", "role/head", "role/scalar", "layer/0", "layer/1", "kind/mlp.up", "kind/head", "kind/gain",
        "parameter/blocks.0.mlp.up", "parameter/blocks.1.mlp.up", "parameter/head", "parameter/gain",
    }  # fmt: skip
    each = [line[f"parameter/blocks.{k}.mlp.up/update_rms"] for k in (0, 1)]
    assert line["kind/mlp.up/update_rms"] == pytest.approx(math.sqrt(sum(x * x for x in each) / 2))
    assert line["layer/1/update_rms"] == each[1]
    assert not any("last_update" in key for key in line)  # the first step has none before it
    assert "role/head/update_spectral_norm" in line and "role/head/orthogonality_error" not in line
    assert {key for key in line if key.startswith("kind/gain/")} == {
        f"kind/gain/{name}" for name in ("update_rms", "update_to_weight", "cosine_to_descent")
    }


def test_what_has_no_value_is_left_out() -> None:
    diagnostics, params, written = watched(["role"], {"w": (4, 3)})
    with torch.no_grad():
        params[0].zero_()
    walk(diagnostics, params, [[torch.zeros(4, 3)]] * 2)
    assert written == [{"step": 2, "role/matrix/update_rms": 0.0}]


def test_an_orthogonal_update_is_told() -> None:
    diagnostics, params, written = watched(["role"], {"w": (2, 8, 5)})
    q = torch.linalg.qr(random(2, 8, 5, seed=3)).Q
    walk(diagnostics, params, [[torch.zeros_like(q)], [0.02 * q]])
    assert written[0]["role/matrix/orthogonality_error"] < 1e-3
    assert written[0]["role/matrix/update_spectral_norm"] == pytest.approx(0.02, rel=1e-3)
    assert written[0]["role/matrix/update_stable_rank"] == pytest.approx(5, rel=1e-3)


class Counter(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


def test_nothing_is_computed_between_measures() -> None:
    diagnostics, params, written = watched(["role"], {"w": (4, 3)}, every_steps=10)
    with Counter() as counter:
        for step in range(1, 9):
            diagnostics.before(step)
            assert diagnostics.after(step) == 0.0
    assert counter.count == 0 and written == []
    walk(diagnostics, params, [[torch.ones(4, 3)]], first=9)
    assert diagnostics.state_dict()["weights"].keys() == {9}
    walk(diagnostics, params, [[torch.ones(4, 3)]], first=10)
    assert len(written) == 1 and diagnostics.state_dict() == {"weights": {}}


@pytest.mark.parametrize("more", [("optimizer=lite",), ("optimizer=adamw", "mlp=nff")])
def test_trajectories_are_equal_bit_by_bit(
    train: Train, assert_bitwise: Any, tmp_path: Path, more: tuple[str, ...]
) -> None:
    for name, overrides in (("off", ()), ("on", ON)):
        train(name, *more, *overrides)
    assert_bitwise("off", "on")
    assert not (tmp_path / "off" / "diagnostics.jsonl").exists()
    assert [line["step"] for line in lines(tmp_path / "on")] == [3, 6]
    assert all(math.isfinite(value) for line in lines(tmp_path / "on") for value in line.values())


@pytest.mark.parametrize("stop", [4, 5])  # the measured steps are 3 and 6
def test_a_resumed_run_tells_what_the_uninterrupted_one_does(train: Train, tmp_path: Path, stop: int) -> None:
    train("whole", *ON)
    train("parts", *ON, f"trainer.stop_after_steps={stop}")
    train("parts", *ON, "resume=here")
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")
    assert "role/matrix/cosine_to_last_update" in lines(tmp_path / "whole")[1]


def test_they_may_be_switched_on_and_off_between_the_parts_of_a_run(train: Train, tmp_path: Path) -> None:
    train("run", *ON, "trainer.stop_after_steps=3")
    train("run", "resume=here", "trainer.stop_after_steps=5")
    train("run", *ON, "resume=here")
    assert [line["step"] for line in lines(tmp_path / "run")] == [3, 6]
    assert not any("last_update" in key for key in lines(tmp_path / "run")[1])  # nothing was kept of step 5


def test_their_time_is_not_trainings(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Diagnostics, "after", lambda self, step: 1000.0)
    summary = train("run", *ON)
    assert summary["train_seconds"] < 0 and summary["evaluation_seconds"] > 7999


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("every_steps=0", r"^diagnostics.every_steps: input should be greater than 0, got 0"),
        ("power_steps=-1", r"^diagnostics.power_steps: input should be greater than 0, got -1"),
        ("by=[]", r"^diagnostics.by: must name cuts"),
        ("by=[role,role]", r"^diagnostics.by: must name cuts"),
    ],
)
def test_refuses_what_is_out_of_range(compose: Callable[..., dict[str, Any]], word: str, message: str) -> None:
    config = compose("diagnostics=on", f"diagnostics.{word}")
    with pytest.raises(ConfigError, match=message):
        check(config)
        build_section(config, "diagnostics")

"""Recorded steps are the steps, bit for bit: replayed here by a tape of operations, which bakes in what a CUDA graph does."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ramen.build.objects import build_optimizers
from ramen.config.registry import options
from ramen.kernels import plain_torch
from ramen.kernels.cuda.graphs import GraphedStep, Replay
from ramen.nn.parameter import declare_factors
from ramen.optimizer.contra_muon import ContraMuon
from ramen.optimizer.optimizers import Optimizers, ParamGroup

SHAPES = ((12, 5), (5, 12), (2, 6, 4), (2, 6, 4))
FOREIGN = "torch_muon"
OURS = [name for name, option in options("optimizer").items() if str(option.target).startswith("ramen.")]


class Tape(TorchDispatchMode):
    """Runs nothing ahead: keeps the operations of a function with the memory they worked on, and puts values back."""

    def __init__(self, launch: Callable[[], None], touched: list[Tensor]):
        super().__init__()
        self.lines: list[tuple[Any, Any, Any, Any]] = []
        before = [tensor.clone() for tensor in touched]
        with self:
            launch()
        for tensor, value in zip(touched, before, strict=True):
            tensor.copy_(value)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            raise RuntimeError("operation not permitted when stream is capturing")
        out = function(*args, **(kwargs or {}))
        self.lines.append((function, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        with torch.no_grad():
            for function, args, kwargs, out in self.lines:
                memory = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
                results = tree_leaves(function(*args, **kwargs))
                for old, new in zip(tree_leaves(out), results, strict=True):
                    if isinstance(old, Tensor) and old.untyped_storage().data_ptr() not in memory:
                        old.copy_(new)


@pytest.fixture
def build(compose) -> Callable[..., tuple[Optimizers, list[nn.Parameter]]]:
    """build(*overrides): the optimizers of a config, and the matrices, table and gain they step."""

    def make(*overrides: str) -> tuple[Optimizers, list[nn.Parameter]]:
        config = compose(*overrides)
        draw = torch.Generator().manual_seed(0)
        shapes = SHAPES
        if config["optimizer"]["_target_"].endswith("Spectron"):
            shapes = tuple(factor for *lead, m, n in SHAPES for factor in ((*lead, m, 2), (*lead, 2, n)))
        matrices = [nn.Parameter(torch.randn(shape, generator=draw)) for shape in shapes]
        if shapes is not SHAPES:
            for left, right in zip(matrices[::2], matrices[1::2], strict=True):
                declare_factors(left, right)
        others = [nn.Parameter(torch.randn(shape, generator=draw)) for shape in ((7, 5), (5,))]
        lr = config["auxiliary"]["lr"]
        groups = [
            ParamGroup("matrix", "optimizer", ("m",) * len(matrices), tuple(matrices), config["optimizer"]["lr"], 0.3)
        ]
        groups += [ParamGroup("embedding", "auxiliary", ("o",) * 2, tuple(others), lr, 0.3)]
        optimizers = build_optimizers(config, groups)
        optimizers.place(torch.device("cpu"))
        return optimizers, matrices + others

    return make


def tensors(optimizers: Optimizers, params: list[nn.Parameter]) -> list[Tensor]:
    """Parameters and state, which a step may change; each memory once."""
    state = [t for built in optimizers.by_name.values() for values in built.state.values() for t in values.values()]
    return [p.detach() for p in params] + state


def taped(optimizers: Optimizers, params: list[nn.Parameter]) -> Callable[[Callable[[], None]], Replay]:
    """A capture, by a tape."""
    return lambda launch: Tape(launch, tensors(optimizers, params)).replay


def train(optimizers: Optimizers, params: list[nn.Parameter], steps: int, rests: range = range(0)) -> list[Tensor]:
    """Steps under schedules, with gradients where they always are; in `rests` some matrices and the gain have none.

    The last matrix is one of two of a shape, so that banks are stacked anew.
    """
    resting = (0, 1, len(params) - 3, len(params) - 1)
    memory = [torch.empty_like(p) for p in params]
    with plain_torch():
        for step in range(steps):
            draw = torch.Generator().manual_seed(step)
            for index, (p, gradient) in enumerate(zip(params, memory, strict=True)):
                gradient.copy_(torch.randn(p.shape, generator=draw))
                p.grad = None if step in rests and index in resting else gradient
            optimizers.schedule((step + 0.5) / steps, 1 - step / (2 * steps))
            optimizers.step()
    return [p.detach().clone() for p in params]


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("more", [(), ("hyperball=true", "momentum=0.8"), ("cautious=false",)])
def test_a_recorded_run_is_the_eager_one_bit_for_bit(build, name, more) -> None:
    if name == "adamw" and more[:1] == ("hyperball=true",):
        more = ("beta1=0.8",)
    overrides = (f"optimizer={name}", *(f"optimizer.{word}" for word in more))
    if name == "aro_sinkhorn":
        overrides += ("+schedule@optimizer.stage_schedule=stepped",)
    if name == "soap_muon":
        overrides += ("optimizer.refresh_steps=3",)
    expected = train(*build(*overrides), 16, rests=range(6, 8))
    optimizers, params = build(*overrides)
    tapes: list[Tape] = []

    def record(launch: Callable[[], None]) -> Callable[[], None]:
        tapes.append(Tape(launch, tensors(optimizers, params)))
        return tapes[-1].replay

    optimizers.use_cuda_graphs(lambda optimizer: GraphedStep(optimizer, record))
    got = train(optimizers, params, 16, rests=range(6, 8))
    assert len(tapes) >= 2  # one for each optimizer
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("aro_sinkhorn", "+schedule@optimizer.rms_schedule=stepped"),
        ("contra_muon", "+schedule@optimizer.contra_schedule=linear"),
        ("muon", "+schedule@auxiliary.weight_decay_schedule=stepped"),
    ],
)
def test_a_scheduled_number_is_not_held_for_ever(build, name, word) -> None:
    """One that the method cannot take as a tensor: steps are replayed only while it stays."""
    overrides = (f"optimizer={name}", word)
    expected = train(*build(*overrides), 16)
    optimizers, params = build(*overrides)
    optimizers.use_cuda_graphs(lambda optimizer: GraphedStep(optimizer, taped(optimizers, params)))
    for a, b in zip(train(optimizers, params, 16), expected, strict=True):
        assert torch.equal(a, b)


def test_the_tape_finds_a_number_that_is_baked_in(build, monkeypatch) -> None:
    """Were steps replayed whatever their numbers, the runs would part: the tests above can fail."""
    overrides = ("optimizer=contra_muon", "+schedule@optimizer.contra_schedule=linear")
    expected = train(*build(*overrides), 8)
    monkeypatch.setattr(ContraMuon, "group_state", frozenset({"contra"}))
    optimizers, params = build(*overrides)
    optimizers.use_cuda_graphs(lambda optimizer: GraphedStep(optimizer, taped(optimizers, params)))
    assert not torch.equal(train(optimizers, params, 8)[0], expected[0])


def test_tensors_and_numbers_give_the_same_step(build) -> None:
    for name in OURS:
        optimizers, params = build(f"optimizer={name}")
        numbers, others = build(f"optimizer={name}")
        numbers._tensor = None
        for a, b in zip(train(optimizers, params, 5), train(numbers, others, 5), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_holds_numbers(build) -> None:
    optimizers, params = build("optimizer=lite")
    train(optimizers, params, 2)
    values = [
        value
        for state in optimizers.state_dict().values()
        for group in state["param_groups"]
        for value in group.values()
    ]
    assert not any(isinstance(value, Tensor) for value in values)
    assert isinstance(optimizers.by_name["optimizer"].param_groups[0]["chi_ramp"], Tensor)
    resumed, _ = build("optimizer=lite")
    resumed.load_state_dict(optimizers.state_dict())
    assert (
        resumed.by_name["optimizer"].param_groups[0]["lr"]
        == optimizers.state_dict()["optimizer"]["param_groups"][0]["lr"]
    )


def test_what_cannot_be_recorded_is_launched_and_told(build, caplog) -> None:
    expected = train(*build("optimizer=muon"), 4)
    optimizers, params = build("optimizer=muon")

    def refuse(launch: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    with caplog.at_level(logging.WARNING, logger="ramen"):
        optimizers.use_cuda_graphs(lambda optimizer: GraphedStep(optimizer, refuse))
        got = train(optimizers, params, 4)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert "Muon's step cannot be captured (operation not permitted when stream is capturing)" in caplog.text


def test_memory_is_no_reason_to_go_on(build) -> None:
    optimizers, params = build("optimizer=muon")

    def refuse(launch: Callable[[], None]) -> Callable[[], None]:
        raise torch.OutOfMemoryError("no memory")

    optimizers.use_cuda_graphs(lambda optimizer: GraphedStep(optimizer, refuse))
    with pytest.raises(torch.OutOfMemoryError):
        train(optimizers, params, 4)


def test_an_optimizer_from_elsewhere_is_launched_and_told(build, caplog) -> None:
    with caplog.at_level(logging.WARNING, logger="ramen"):
        optimizers, params = build(f"optimizer={FOREIGN}")
        optimizers.use_cuda_graphs(lambda optimizer: GraphedStep(optimizer, lambda launch: launch))
        before = params[0].detach().clone()
        train(optimizers, params, 3)
    assert "optimizer's step is launched as it is: it is not ramen's own" in caplog.text
    assert not torch.equal(before, params[0])


class Recorder:
    """An optimizer of two groups that lists what it was asked to do."""

    group_state = frozenset()

    def __init__(self) -> None:
        self.params = [nn.Parameter(torch.zeros(2)) for _ in range(2)]
        self.param_groups = [{"params": [p]} for p in self.params]
        self.kind, self.did = "a", []

    def begin(self) -> str:
        return self.kind

    def launch(self) -> None:
        self.did.append("launched")

    def record(self, launch: Callable[[], None]) -> Callable[[], None]:
        self.did.append("recorded")
        return lambda: self.did.append("replayed")


@pytest.fixture
def recorder() -> tuple[Recorder, GraphedStep]:
    """An optimizer whose steps, of gradients where they stay, are replayed by now."""
    optimizer = Recorder()
    recorded = GraphedStep(optimizer, optimizer.record)
    for p in optimizer.params:
        p.grad = torch.ones(2)
    for _ in range(3):
        recorded()
    assert optimizer.did == ["launched", "recorded", "replayed", "replayed"]
    optimizer.did.clear()
    return optimizer, recorded


def test_each_kind_is_recorded_once(recorder) -> None:
    """The second time it comes twice in a row, at the earliest; one that comes back is replayed at once."""
    optimizer, recorded = recorder
    for optimizer.kind in "bcbba":
        recorded()
    assert optimizer.did == ["launched"] * 3 + ["recorded", "replayed", "replayed"]


@pytest.mark.parametrize("place", [0, 1])
def test_gradients_elsewhere_in_memory_are_not_replayed(recorder, place) -> None:
    """In any group, and though the tensor or the memory is the one of before."""
    optimizer, recorded = recorder
    first, p = optimizer.params[0].grad, optimizer.params[place]
    p.grad = p.grad.view(2)
    recorded()
    assert optimizer.did == ["replayed"]  # another tensor, where it was
    p.grad.data = memory = torch.ones(2)
    recorded()
    assert optimizer.did == ["replayed", "launched"] and p.grad.data_ptr() == memory.data_ptr()
    optimizer.did.clear()
    for having, other in (optimizer.params, optimizer.params[::-1]):
        having.grad, other.grad = first, None
        recorded()
    assert optimizer.did == ["launched"] * 2  # the same memory is another parameter's

"""Every option of conf/optimizer: what any optimizer of matrices owes, whoever wrote it."""

import copy
import io
import sys
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from ramen.build.objects import build_optimizer, build_optimizers
from ramen.config.check import parameters, schedules, without_schedules
from ramen.config.registry import EXTRAS, locate, options
from ramen.errors import ConfigError
from ramen.kernels import plain_torch
from ramen.nn.parameter import declare_factors
from ramen.optimizer.base import MatrixOptimizer
from ramen.optimizer.optimizers import ParamGroup

SHAPES = ((12, 5), (5, 12), (8, 8), (3, 6, 4), (4, 4, 6))
PAIRED = ("spectron",)  # steps on factor pairs
RATES = {"shampoo": 0.3}  # on the quadratic, in place of 0.05: its steps shrink with the root of their number
PROBING = ("psgd",)  # draws a probe for each parameter in turn
# Options that do nothing by themselves, on a CPU or at a fixed hyperparameter: why.
SILENT = {
    "stage": "changes nothing until it changes: see tests/optimizer/test_aro_sinkhorn.py",
    "iteration_dtype": "see test_iteration_dtype",
}
OTHERS = {("lite", "ratio"): [0.5]}  # for matrices this small
Params = list[nn.Parameter]


@pytest.fixture(params=options("optimizer"))
def name(request) -> str:
    package = str(options("optimizer")[request.param].target).partition(".")[0]
    if package in EXTRAS:
        pytest.importorskip(package)
    return request.param


@pytest.fixture(params=[n for n, o in options("optimizer").items() if str(o.target).startswith("ramen.")])
def ours(request) -> str:
    return request.param


@pytest.fixture(autouse=True)
def any_processor(monkeypatch):
    """iteration_dtype=auto means the same on every processor."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)


@pytest.fixture
def node(compose) -> Callable[..., dict[str, Any]]:
    """node(name, **changes): an optimizer's node, without schedules."""
    return lambda name, **changes: without_schedules(compose(f"optimizer={name}")["optimizer"]) | changes


@pytest.fixture
def begin(node) -> Callable[..., tuple[Params, torch.optim.Optimizer]]:
    """begin(name, params=, dtype=, shapes=, **changes): matrices, always the same, and their optimizer."""

    def begin(name, params=None, dtype=torch.float32, shapes=SHAPES, **changes):
        params = matrices(name, dtype, shapes) if params is None else params
        return params, build_optimizer(node(name, **changes), [{"params": params}], [])

    return begin


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def matrices(name: str, dtype: torch.dtype = torch.float32, shapes: tuple[tuple[int, ...], ...] = SHAPES) -> Params:
    """Parameters of these shapes, or factor pairs whose products have them."""
    made: Params = []
    for seed, (*lead, m, n) in enumerate(shapes):
        if name in PAIRED:
            rank = max(1, min(m, n) // 2)
            left = nn.Parameter(0.5 * random(*lead, m, rank, seed=seed, dtype=dtype))
            right = nn.Parameter(0.5 * random(*lead, rank, n, seed=seed + 50, dtype=dtype))
            declare_factors(left, right)
            made += [left, right]
        else:
            made.append(nn.Parameter(0.5 * random(*lead, m, n, seed=seed, dtype=dtype)))
    return made


def products(params: Params) -> list[Tensor]:
    lefts = [p for p in params if hasattr(p, "right_factor")]
    return [p @ p.right_factor for p in lefts] if lefts else list(params)


def set_gradients(params: Params, seed: int, change: Callable[[Tensor], Tensor] = lambda gradient: gradient) -> None:
    for k, p in enumerate(params):
        p.grad = change(random(*p.shape, seed=1000 * seed + k, dtype=p.dtype)).to(p.dtype)


def run(optimizer: torch.optim.Optimizer, params: Params, steps: range, *change: Callable[[Tensor], Tensor]) -> None:
    for step in steps:
        set_gradients(params, step, *change)
        optimizer.step()


def values(params: Params) -> list[Tensor]:
    return [p.detach().clone() for p in params]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def lengths(params: Params, optimizer: torch.optim.Optimizer, change: Callable[[Tensor], Tensor]) -> Tensor:
    """How far three steps on changed gradients lead each parameter; all of it finite."""
    start = values(params)
    run(optimizer, params, range(3), change)
    assert all(p.isfinite().all() for p in params)
    return torch.stack([(p.detach().double() - q.double()).norm() for p, q in zip(params, start, strict=True)])


def known(target: str) -> dict[str, Any]:
    return parameters(locate(target))[0]


def test_yaml_keys_are_the_keyword_only_parameters(name, node):
    own = node(name)
    keys, accepted = set(own) - {"_target_"}, set(known(own["_target_"]))
    assert keys <= accepted
    if own["_target_"].startswith("ramen."):
        assert keys == accepted


def test_is_built_by_the_router_and_its_schedules_are_told(name, compose):
    config = compose(f"optimizer={name}")
    params, lr = matrices(name), config["optimizer"]["lr"]
    group = ParamGroup("matrix", "optimizer", tuple(map(str, range(len(params)))), tuple(params), lr, 0.1)
    built = build_optimizers(config, [group])
    told = [built.schedule(progress, 0.5) for progress in (0.0, 0.5, 1.0)]
    assert all(t["lr"] == 0.5 * lr for t in told)
    for key in schedules(config["optimizer"]):
        assert len({t[key] for t in told}) > 1, key
    before = values(params)
    run(built, params, range(2))  # SOAP spends its first step on its basis
    assert not equal(values(params), before)


def test_descends_a_quadratic(name, begin):
    rate = RATES.get(name, 0.05)
    params, optimizer = begin(name, lr=rate, weight_decay=0.0)
    targets = [0.5 * random(*p.shape, seed=77 + k) for k, p in enumerate(products(params))]
    losses = []
    for step in range(150):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / 150)
        optimizer.zero_grad()
        terms = torch.stack([(w - t).square().sum() for w, t in zip(products(params), targets, strict=True)])
        terms.sum().backward()
        losses.append(terms.detach())
        optimizer.step()
    # Factors of half rank cannot reach a full-rank target; of gradients without noise SOAP-Muon's source makes no better.
    floor = {"spectron": 0.6, "soap_muon": 0.5}.get(name, 0.2)
    assert (losses[-1] < floor * losses[0]).all(), losses[-1] / losses[0]


def test_bitwise_determinism(name, begin):
    runs = [begin(name) for _ in range(2)]
    for params, optimizer in runs:
        run(optimizer, params, range(5))
    assert equal(runs[0][0], runs[1][0])


@pytest.mark.parametrize("source", ["file", "memory"])
def test_state_round_trip_continues_bitwise(name, begin, source):
    (params, optimizer), (others, other) = begin(name), begin(name)
    run(optimizer, params, range(3))
    run(other, others, range(7, 9))  # what was before the load must not show
    state = optimizer.state_dict()
    if source == "file":
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        state = torch.load(file, weights_only=True)
    assert state["state"]
    with torch.no_grad():
        for p, q in zip(params, others, strict=True):
            q.copy_(p)
    other.load_state_dict(state)
    run(other, others, range(3, 6))  # the loaded one first: it must not write into the other's state
    run(optimizer, params, range(3, 6))
    assert equal(params, others)


def test_a_parameter_without_gradient_is_left_alone(name, begin):
    (params, optimizer), (full, reference) = begin(name), begin(name)
    pair = 2 if name in PAIRED else 1
    before = values(params)
    for step in range(4):
        set_gradients(params, step)
        for p in params[:pair]:
            p.grad = None
        optimizer.step()
    run(reference, full, range(4))
    assert equal(params[:pair], before[:pair])
    for p, q in zip(params[pair:], full[pair:], strict=True) if name not in PROBING else ():
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
    run(optimizer, params, range(4, 6))  # it joins later
    assert not torch.equal(params[0], before[0]) and all(p.isfinite().all() for p in params)
    optimizer.zero_grad()
    before = values(params)
    optimizer.step()
    assert equal(params, before)


def test_zero_gradients_are_harmless(name, begin):
    params, optimizer = begin(name, weight_decay=0.0)
    before = values(params)
    run(optimizer, params, range(3), torch.zeros_like)
    assert equal(params, before)
    run(optimizer, params, range(2))
    assert all(p.isfinite().all() for p in params) and not equal(params, before)


def test_learning_rate_zero_moves_nothing(name, begin):
    if name == "mars":
        pytest.skip("MARS divides by the configured learning rate; a schedule may still set it to 0")
    params, optimizer = begin(name, lr=0.0)
    before = values(params)
    run(optimizer, params, range(3))
    assert equal(params, before)


def test_gradients_are_not_touched(name, begin):
    params, optimizer = begin(name)
    for step in range(3):
        set_gradients(params, step)
        same = [p.grad for p in params]
        before = values(same)
        optimizer.step()
        assert all(p.grad is g for p, g in zip(params, same, strict=True))
        assert equal(same, before)


def test_closure_gives_its_loss(name, begin):
    params, optimizer = begin(name)

    def loss() -> Tensor:
        optimizer.zero_grad()
        total = sum(w.square().sum() for w in products(params))
        total.backward()
        return total

    assert optimizer.step(loss) > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_types_are_kept_and_state_is_wide(ours, begin, dtype):
    params, optimizer = begin(ours, dtype=dtype)
    run(optimizer, params, range(3))
    assert all(p.dtype == dtype and p.isfinite().all() for p in params)
    if isinstance(optimizer, MatrixOptimizer):
        types = {torch.promote_types(dtype, torch.float32)} | ({torch.float64} if ours == "soap_muon" else set())
        assert {value.dtype for p in params for value in optimizer.state[p].values()} == types
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        assert {value.dtype for p in params for value in optimizer.state[p].values()} == types


def test_a_loss_scale_does_not_matter(ours, begin):
    """For the methods of matrices; Adam's eps is absolute."""
    params, optimizer = begin(ours)
    if not isinstance(optimizer, MatrixOptimizer):
        pytest.skip("AdamW's eps is absolute, as the paper's")
    run(optimizer, params, range(3))
    for scale in (3e8, 1e-8, 1e30, 1e-30):
        scaled, other = begin(ours)
        run(other, scaled, range(3), lambda gradient, scale=scale: scale * gradient)
        for p, q in zip(params, scaled, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_gradients_of_rank_one_give_finite_steps(ours, begin, dtype, scale):
    """And none is longer than what the method gives a full-rank gradient."""
    full = lengths(*begin(ours, dtype=dtype, weight_decay=0.0), lambda g: scale * g)
    one = lengths(*begin(ours, dtype=dtype, weight_decay=0.0), lambda g: scale * (g[..., :1] * g[..., :1, :]))
    assert (one <= 3 * full + 1e-3).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
def test_extreme_gradients_of_any_shape_give_steps_of_the_usual_size(ours, begin, dtype, scale):
    """Tiny, huge, with rows and columns of zeros, on matrices down to 1 x 1."""
    shapes = ((1, 1), (1, 9), (9, 1), (2, 3), (2, 1, 5), (40, 6), (6, 40), (16, 16))

    def holed(gradient: Tensor) -> Tensor:
        if min(gradient.shape[-2:]) > 1:
            gradient[..., 0, :] = 0
            gradient[..., :, -1] = 0
        return gradient.float()

    params, optimizer = begin(ours, dtype=dtype, shapes=shapes, weight_decay=0.0)
    usual = lengths(params, optimizer, holed)
    extreme = lengths(*begin(ours, dtype=dtype, shapes=shapes, weight_decay=0.0), lambda g: scale * holed(g))
    assert dtype == torch.bfloat16 or (usual > 0).all()
    if isinstance(optimizer, MatrixOptimizer):
        atol = 1e-2 if dtype == torch.bfloat16 else 1e-6
        torch.testing.assert_close(extreme, usual, rtol=0.05, atol=atol)


def test_leading_axes_are_a_batch(ours, begin):
    stacked, optimizer = begin(ours, shapes=((3, 7, 4),))
    apart = []
    for k in range(3):
        parts = [nn.Parameter(p[k].detach().clone()) for p in stacked]
        if ours in PAIRED:
            declare_factors(*parts)
        apart.append(begin(ours, parts))
    for step in range(3):
        set_gradients(stacked, step, lambda g, step=step: g * torch.tensor([100.0**step, 1, 1])[:, None, None])
        optimizer.step()
        for k, (parts, other) in enumerate(apart):
            for p, whole in zip(parts, stacked, strict=True):
                p.grad = whole.grad[k].clone()
            other.step()
    for k, (parts, _) in enumerate(apart):
        for p, whole in zip(parts, stacked, strict=True):
            torch.testing.assert_close(p, whole[k], rtol=1e-4, atol=1e-6)


def other_values(value: Any, annotation: Any) -> list[Any]:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, str) or get_origin(annotation) is Literal:
        return [choice for choice in get_args(annotation) if choice != value]
    if isinstance(value, int):
        return [value + 1]
    if isinstance(value, float):
        return [0.5 * value or 0.3]
    return []


def test_every_option_changes_the_update(ours, node, begin):
    def moved(**changes: Any) -> list[list[Any]]:
        params, optimizer = begin(ours, **{"weight_decay": 0.5} | changes)
        run(optimizer, params, range(4))
        return [p.tolist() for p in params]

    start, own = moved(), node(ours)
    for key, annotation in known(own["_target_"]).items():
        others = OTHERS.get((ours, key)) or other_values(own[key], annotation)
        for value in others if key not in SILENT else []:
            assert moved(**{key: value}) != start, (key, value)


def test_iteration_dtype(ours, node, begin, monkeypatch):
    if "iteration_dtype" not in node(ours):
        pytest.skip("makes no iteration of matrix products")

    def moved(dtype: str) -> list[Tensor]:
        params, optimizer = begin(ours, iteration_dtype=dtype)
        run(optimizer, params, range(2))
        return values(params)

    auto, wide, narrow = map(moved, ("auto", "float32", "bfloat16"))
    assert equal(auto, wide) and not equal(wide, narrow)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert equal(moved("auto"), narrow)


def test_refuses_what_is_out_of_range(ours, node, begin):
    own = node(ours)
    for key, annotation in known(own["_target_"]).items():
        wrong: list[Any] = []
        if get_origin(annotation) is Literal:
            wrong = ["nonsense"]
        elif isinstance(own[key], (int, float)) and not isinstance(own[key], bool):
            wrong = [-5, float("nan")]
        for value in wrong:
            with pytest.raises(ValueError, match=rf"^{key} must be .*, got {value!r}"):
                begin(ours, **{key: value})


def test_a_range_error_is_the_config_s(name, compose):
    config = compose(f"optimizer={name}", "optimizer.lr=-1")
    group = ParamGroup("matrix", "optimizer", ("w",), tuple(matrices(name)), -1.0, 0.1)
    with pytest.raises(ConfigError, match=r"(?i)^optimizer: .*(lr|learning rate)"):
        build_optimizers(config, [group])


def test_a_package_that_is_missing_is_told_with_the_command(compose, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    target = compose("optimizer=soap")["optimizer"]["_target_"]
    with pytest.raises(ConfigError, match=r"pytorch_optimizer.SOAP.* pip install 'pytorch-optimizer>=4.1,<5'"):
        locate(target)


class Counter(TorchDispatchMode):
    """Counts tensor operations that are no views."""

    VIEWS = ("view", "slice", "select", "split", "unsqueeze", "squeeze", "transpose", "t.", "expand", "unbind", "alias",
             "detach", "diagonal", "as_strided", "permute", "_unsafe_view", "empty", "record_function")  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += not str(function).removeprefix("aten.").removeprefix("profiler._").startswith(self.VIEWS)
        return function(*args, **(kwargs or {}))


def test_under_a_hundred_operations_a_step(ours, begin):
    """Dispatches do not grow with the number of matrices, nor with their size up to 1024 x 256 and beyond."""
    params, optimizer = begin(ours, shapes=((256, 64),) * 24)
    for p in params:
        p.grad = torch.full_like(p, 0.1)
    optimizer.step()
    with Counter() as counter:
        optimizer.step()
    assert counter.count < (130 if ours == "soap_muon" else 100)  # which turns two bases


def vary(optimizer: torch.optim.Optimizer) -> None:
    """Move every number that a schedule may move."""
    for group in optimizer.param_groups:
        for key, value in group.items():
            if isinstance(value, float | Tensor):
                group[key] = 0.97 * value


@pytest.mark.parametrize("hyperparameters", ["numbers", "tensors"])
def test_nothing_is_read_back(ours, node, begin, hyperparameters):
    """Fake tensors have no values: a step that asked for one, to compute or to branch, would fail. Nor does it for a new rate."""
    if (ours, hyperparameters) == ("adamw", "tensors"):
        pytest.skip("torch has no fake kernel of its fused AdamW for a learning rate in a tensor")
    with FakeTensorMode(), plain_torch():
        params, optimizer = begin(ours, **({"hyperball": True} if "hyperball" in node(ours) else {}))
        if hyperparameters == "tensors":
            for group in optimizer.param_groups:
                group |= {key: torch.tensor(group[key]) for key in optimizer.tensors if key in group}
        for _ in range(3):
            for p in params:
                p.grad = torch.empty_like(p)
            optimizer.step()
            vary(optimizer)
        assert all(isinstance(value, FakeTensor) for p in params for value in optimizer.state[p].values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_no_step_waits_for_the_gpu(ours, begin):
    params = [nn.Parameter(p.detach().cuda()) for p in matrices(ours)]
    if ours in PAIRED:
        for left, right in zip(params[::2], params[1::2], strict=True):
            declare_factors(left, right)
    _, optimizer = begin(ours, params)
    for p in params:
        p.grad = torch.randn_like(p)
    optimizer.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(2):
            vary(optimizer)
            optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(p.isfinite().all() for p in params)

"""Every option of conf/optimizer as a citizen of torch: what torch's own optimizers can do, whoever wrote it."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ramen.build.objects import build_optimizer
from ramen.config.check import without_schedules
from ramen.config.registry import EXTRAS, options
from ramen.nn.parameter import declare_factors, normal, parameter

Params = list[nn.Parameter]
SHAPES = ((8, 5), (5, 8), (3, 6, 4))
PAIRED = ("spectron",)  # steps on factor pairs
OURS = [name for name, option in options("optimizer").items() if str(option.target).startswith("ramen.")]
MATRIX = [name for name in OURS if name != "adamw"]
PROBING = ("psgd",)  # draws for each parameter in turn, as many times as it has stepped
AT_REST = ("adamw", "ademamix", "adopt", "lion", "mars")  # elementwise: vectors suit them as well


@pytest.fixture(params=options("optimizer"))
def name(request) -> str:
    package = str(options("optimizer")[request.param].target).partition(".")[0]
    if package in EXTRAS:
        pytest.importorskip(package)
    return request.param


@pytest.fixture
def make(compose) -> Callable[..., torch.optim.Optimizer]:
    """make(name, params or groups, **changes): an optimizer without schedules."""

    def make(name: str, params: list[Any], **changes: Any) -> torch.optim.Optimizer:
        groups = params if params and isinstance(params[0], dict) else [{"params": params}]
        return build_optimizer(without_schedules(compose(f"optimizer={name}")["optimizer"]) | changes, groups, [])

    return make


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def matrices(name: str, seed: int = 0) -> Params:
    """Parameters of SHAPES, or declared factor pairs of these products."""
    values: Params = []
    for place, (*lead, m, n) in enumerate(SHAPES):
        shapes = [(*lead, m, 2), (*lead, 2, n)] if name in PAIRED else [(*lead, m, n)]
        new = [parameter(shape, normal(0.5), "matrix") for shape in shapes]
        with torch.no_grad():
            for k, p in enumerate(new):
                p.copy_(0.5 * random(*p.shape, seed=100 * seed + 10 * place + k))
        if name in PAIRED:
            declare_factors(*new)
        values += new
    return values


def run(optimizer: torch.optim.Optimizer, params: Params, steps: range) -> list[Tensor]:
    """The parameters' values after steps on gradients that depend on the step and the parameter's place."""
    for step in steps:
        for place, p in enumerate(params):
            p.grad = random(*p.shape, seed=1000 * step + place).to(p.dtype)
        optimizer.step()
    return [p.detach().clone() for p in params]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def pickled(both: Any) -> Any:
    return pickle.loads(pickle.dumps(both))


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled], ids=["deepcopy", "pickle"])
def test_a_copy_goes_on_as_the_original(name, make, copied):
    if (name, copied) == ("adopt", pickled):
        pytest.skip("the package's optimizer holds a lambda, which pickle refuses in so many words")
    params = matrices(name)
    optimizer = make(name, params)
    run(optimizer, params, range(3))
    others, other = copied((params, optimizer))
    before = [p.detach().clone() for p in params]
    copies = run(other, others, range(3, 6))
    assert equal([p.detach() for p in params], before), "the copy writes into the original"
    assert equal(copies, run(optimizer, params, range(3, 6)))
    assert not equal(copies, before)


def test_a_copy_of_the_optimizer_alone_can_be_stepped_and_saved(name, make):
    params = matrices(name)
    optimizer = make(name, params)
    run(optimizer, params, range(2))
    other = copy.deepcopy(optimizer)
    own = [p for group in other.param_groups for p in group["params"]]
    assert equal(run(other, own, range(2, 4)), run(optimizer, params, range(2, 4)))
    other.load_state_dict(optimizer.state_dict())
    assert equal(run(other, own, range(4, 6)), run(optimizer, params, range(4, 6)))


def test_a_group_added_later_trains_as_one_given_at_once(name, make):
    if name in PROBING:
        pytest.skip("draws for each parameter in turn")
    first, second = matrices(name), matrices(name, seed=1)
    optimizer = make(name, first)
    optimizer.add_param_group({"params": second, "lr": 0.01})
    again, others = matrices(name), matrices(name, seed=1)
    expected = make(name, [{"params": again}, {"params": others, "lr": 0.01}])
    assert equal(run(optimizer, first + second, range(4)), run(expected, again + others, range(4)))
    late = matrices(name, seed=2)
    optimizer.add_param_group({"params": late})
    before = [p.detach().clone() for p in late]
    after = run(optimizer, first + second + late, range(4, 8))[-len(late) :]
    assert not any(torch.equal(p, q) for p, q in zip(after, before, strict=True))


def test_a_cleared_state_is_a_fresh_start(name, make):
    if name in PROBING:
        pytest.skip("its draws depend on how often it has stepped")
    params = matrices(name)
    optimizer = make(name, params, weight_decay=0.0)
    run(optimizer, params, range(3))
    optimizer.state.clear()
    again = matrices(name)
    with torch.no_grad():
        for p, q in zip(again, params, strict=True):
            p.copy_(q)
    fresh = make(name, again, weight_decay=0.0)
    for group in optimizer.param_groups:  # some packages count there
        group |= {"step": 0} if "step" in group else {}
    assert equal(run(optimizer, params, range(3, 6)), run(fresh, again, range(3, 6)))


def test_an_empty_group_does_nothing(name, make):
    params = matrices(name)
    optimizer = make(name, [{"params": []}, {"params": params}])
    alone = matrices(name)
    expected = run(make(name, alone), alone, range(3))
    if name in PROBING:
        assert not equal(run(optimizer, params, range(3)), [p.detach() for p in matrices(name)])
    else:
        assert equal(run(optimizer, params, range(3)), expected)


@pytest.mark.parametrize("scheduler", ["StepLR", "OneCycleLR", "LambdaLR"])
def test_torchs_schedules_move_the_rate(name, make, scheduler):
    params = matrices(name)
    optimizer = make(name, params, lr=0.01)
    scheduled: Any = {
        "StepLR": lambda: torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5),
        "OneCycleLR": lambda: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=8, cycle_momentum=False),
        "LambdaLR": lambda: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step),
    }[scheduler]()
    again = matrices(name)
    by_hand = make(name, again, lr=0.01)
    for step in range(4):
        by_hand.param_groups[0]["lr"] = optimizer.param_groups[0]["lr"]
        assert equal(run(optimizer, params, range(step, step + 1)), run(by_hand, again, range(step, step + 1)))
        scheduled.step()


def test_hooks_run_once_a_step(name, make):
    params = matrices(name)
    optimizer = make(name, params)
    torch.optim.AdamW(matrices("adamw"))  # torch hooks the step of each class that was ever made
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    run(optimizer, params, range(1))
    assert calls == ["before", "after"]


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_gradient_scaler_unscales_and_skips_what_is_not_finite(name, make, weight_decay):
    """Scaled gradients give the step of the plain ones; an infinite one gives none, and the state stays as it was."""
    if name in PROBING:
        pytest.skip("draws anew in each step")
    params, plain = matrices(name), matrices(name)
    optimizer, reference = (make(name, p, weight_decay=weight_decay) for p in (params, plain))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1)
    for step in range(4):
        scale = scaler.scale(torch.ones(())).item()
        for place, (p, q) in enumerate(zip(params, plain, strict=True)):
            q.grad = random(*p.shape, seed=1000 * step + place)
            p.grad = q.grad * scale
        if step == 2:
            params[0].grad.flatten()[0] = torch.inf
            before = [p.detach().clone() for p in params]
        scaler.step(optimizer)
        scaler.update()
        if step == 2:
            assert equal([p.detach() for p in params], before)
        else:
            reference.step()
            assert equal([p.detach() for p in params], [p.detach() for p in plain])


@pytest.mark.parametrize("moved", ["transposed", "data"])
def test_parameters_are_trained_wherever_they_lie_in_memory(name, make, moved):
    """A bank whose axes do not merge, and one whose `data` was replaced between steps."""
    if moved == "transposed":  # with the bank's axis in the middle
        shapes = [(6, 3, 2), (2, 3, 4)] if name in PAIRED else [(6, 3, 4)]
        values = [random(*shape, seed=k) for k, shape in enumerate(shapes)]
        params = [nn.Parameter(value.transpose(0, 1)) for value in values]
        again = [nn.Parameter(value.transpose(0, 1).contiguous()) for value in values]
        assert not params[0].is_contiguous()
    else:
        params, again = matrices(name), matrices(name)
    if name in PAIRED and moved == "transposed":
        declare_factors(*params), declare_factors(*again)
    optimizer, reference = make(name, params), make(name, again)
    for step in range(4):
        if moved == "data":
            for p in params:
                p.data = p.data.clone()
        one, other = run(optimizer, params, range(step, step + 1)), run(reference, again, range(step, step + 1))
        for p, q in zip(one, other, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in options("optimizer") if name not in AT_REST])
def test_a_parameter_of_four_axes_is_refused_with_its_shape(make, name):
    """Its last two axes would be taken for matrices, 3 x 3 ones of a convolution."""
    package = str(options("optimizer")[name].target).partition(".")[0]
    if package in EXTRAS:
        pytest.importorskip(package)
    weight = nn.Parameter(torch.zeros(8, 4, 3, 3))
    with pytest.raises(ValueError, match=r"banks of them \(N, m, n\), got a parameter of shape \(8, 4, 3, 3\)"):
        make(name, [weight])
    optimizer = make(name, matrices(name))
    groups = len(optimizer.param_groups)
    with pytest.raises(ValueError, match=r"got a parameter of shape \(8, 4, 3, 3\)"):
        optimizer.add_param_group({"params": [weight]})
    assert len(optimizer.param_groups) == groups


@pytest.mark.parametrize("name", OURS)
def test_unknown_words_are_refused(make, name):
    with pytest.raises(TypeError, match=r"unknown maximize; allowed are .*lr|unexpected keyword argument 'maximize'"):
        make(name, matrices(name), maximize=True)
    with pytest.raises(TypeError, match=r"unknown momentun; allowed are .*lr"):
        make(name, [{"params": matrices(name), "momentun": 0.9}])


@pytest.mark.parametrize("name", OURS)
def test_a_groups_values_are_checked_as_the_constructors_are(make, name):
    """When the optimizer is made and when a group is added; a refused group leaves nothing behind."""
    optimizer = make(name, matrices(name))
    own = optimizer.param_groups[0]
    wrong = {key: "nonsense" for key, value in own.items() if isinstance(value, str)}
    wrong |= {key: -5 for key, value in own.items() if isinstance(value, int | float) and not isinstance(value, bool)}
    assert {"lr", "weight_decay"} <= set(wrong)
    for key, value in wrong.items():
        with pytest.raises(ValueError, match=rf"^{key} must be .*, got '?{value}"):
            make(name, [{"params": matrices(name)}, {"params": matrices(name), key: value}])
        with pytest.raises(ValueError, match=rf"^{key} must be"):
            optimizer.add_param_group({"params": matrices(name), key: value})
    assert len(optimizer.param_groups) == 1
    run(optimizer, optimizer.param_groups[0]["params"], range(1))


def test_a_matrix_without_its_partner_is_refused_when_it_comes_later(make):
    optimizer = make("spectron", matrices("spectron"))
    with pytest.raises(ValueError, match=r"needs factor pairs, got matrices without one, of shape \(4, 4\)"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(4, 4))]})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("name", MATRIX)
def test_a_state_that_was_replaced_is_the_one_in_use(make, name):
    """Whoever writes into `state`, as torch's own tools do, is heard: stacked banks hold no second truth."""
    params, others = matrices(name), matrices(name)
    optimizer, other = make(name, params), make(name, others)
    run(optimizer, params, range(3))
    run(other, others, range(7, 9))
    with torch.no_grad():
        for p, q in zip(params, others, strict=True):
            q.copy_(p)
            other.state[q] = {key: value.clone() for key, value in optimizer.state[p].items()}
    assert equal(run(other, others, range(3, 5)), run(optimizer, params, range(3, 5)))

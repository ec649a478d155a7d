"""Every option of conf/mlp and conf/residual: token by token, deterministic, within its ranges, and no key without effect."""

from typing import Any, Literal, get_args, get_origin

import pytest
import torch

from ramen.config.check import parameters
from ramen.config.registry import locate, options
from ramen.nn.parameter import lr_scale

DIM, ROWS, TIME = 24, 2, 6
# Keys that show, or are allowed, only beside another: a plain MLP is what others are matched with.
BESIDE = {
    ("default", "match_parameters"): {"activation": "swiglu"},
    ("residual_normed", "residual_every"): {"depth": 8},
}
# Names of one function.
SAME = [{"silu", "swish"}, {"linear", "identity"}, {"silu_squared", "swish_squared"}]
SAME_GATE = [{"silu", "swish", "swiglu"}, {"gelu", "geglu"}, *SAME[1:]]


@pytest.fixture(params=[(kind, name) for kind in ("mlp", "residual") for name in options(kind)], ids="=".join)
def option(request):
    return request.param


@pytest.fixture
def make(component, option):
    """make(noise=, seed=, **changes): the option; a connection is that of sublayer 1."""
    kind, name = option
    runtime = (DIM,) if kind == "mlp" else (DIM, 1)
    return lambda **arguments: component(kind, name, *runtime, **arguments)


@pytest.fixture
def node(compose, option):
    """The option's defaults, without its target, and the annotations of its keys."""
    node = dict(compose("=".join(option))[option[0]])
    return node, parameters(locate(node.pop("_target_")))[0]


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def output(module: Any, x: torch.Tensor) -> torch.Tensor:
    """An MLP's delta; of a connection the stream after it, from streams that differ and under a branch."""
    if not hasattr(module, "connect"):
        return module(x)
    h = module.open(x)
    turn = values(DIM, DIM, seed=9)
    return module.close(module.connect(h + 0.5 * values(*h.shape, seed=100), lambda z: torch.tanh(z @ turn)))


def test_a_token_sees_no_other(make):
    module, x = make(noise=0.2), values(ROWS, TIME, DIM)
    changed = x.clone()
    changed[:, 3] = values(ROWS, DIM, seed=5)
    y, z = output(module, x), output(module, changed)
    others = torch.arange(TIME) != 3
    torch.testing.assert_close(z[:, others], y[:, others], atol=1e-6, rtol=1e-6)
    assert (z[:, 3] - y[:, 3]).abs().max() > 1e-3


def test_deterministic(make):
    x, module = values(ROWS, TIME, DIM), make(noise=0.2)
    y = output(module, x)
    assert torch.equal(output(module, x), y) and torch.equal(output(make(noise=0.2), x), y)
    assert not list(module.parameters()) or not torch.equal(output(make(noise=0.2, seed=1), x), y)


def test_refuses_what_is_out_of_range(make, node):
    arguments, annotations = node
    for key, annotation in annotations.items():
        if isinstance(arguments[key], (int, float)) and not isinstance(arguments[key], bool):
            with pytest.raises(ValueError, match=rf"^{key} must be .*, got -1"):
                make(**{key: -1})
        if get_origin(annotation) is Literal:
            with pytest.raises(ValueError, match=rf"^{key} must be .*, got 'nonsense'"):
                make(**{key: "nonsense"})


def other_values(key: str, value: Any, annotation: Any) -> list[Any]:
    if key == "iterations":
        return [2]  # ten are as good as twenty on such logits
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [2 * value]
    if isinstance(value, float):
        return [0.5 * value or 0.5]
    return [0.25] if value is None else [choice for choice in get_args(annotation) if choice != value]


def test_every_option_changes_the_values_or_the_parameters(make, node, option):
    x = values(ROWS, TIME, DIM).requires_grad_()

    def fingerprint(**changes: Any) -> tuple[Any, ...]:
        module = make(noise=0.2, **changes)
        y = output(module, x)
        y.sum().backward()  # relu and relu_nelu differ in the gradient alone
        shapes = tuple((key, tuple(p.shape), lr_scale(p)) for key, p in module.named_parameters())
        return (shapes, *(p.grad.flatten().tolist() for p in module.parameters()), y.tolist())

    arguments, annotations = node
    same = SAME_GATE if option == ("mlp", "nff") else SAME
    for key, annotation in annotations.items():
        beside = BESIDE.get((option[1], key), {})
        start = fingerprint(**beside)
        for value in other_values(key, arguments[key], annotation):
            if key == "activation" and any({value, arguments[key]} <= names for names in same):
                continue
            assert fingerprint(**beside, **{key: value}) != start, (key, value)

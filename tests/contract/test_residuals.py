"""Every option of conf/residual: opens, connects and closes, alive in every parameter.

Variants with `init: identity` and `hc` start as `standard`, with projections that are not zero.
"""

import pytest
import torch

from ramen.config.registry import options

DIM, ROWS, TIME = 12, 2, 6
START_AS_STANDARD = [
    ("standard", {}),
    *(("hc", {"streams": s, "fractions": f}) for s, f in [(4, 1), (2, 3), (1, 4)]),
    ("hc", {"streams": 3, "fractions": 2, "dynamic": False}),
    *(("mhc", {"init": "identity", "streams": s}) for s in (2, 3, 4, 8)),
    ("mhc", {"init": "identity", "dynamic": False}),
    ("mhc", {"init": "identity", "projection": "orthostochastic"}),
    ("mhc", {"init": "identity", "identity_mix": 0.01}),
    *(("kromhc", {"init": "identity", "streams": s}) for s in (2, 4, 8)),
]  # fmt: skip
KEEP_THE_MEAN = [(option, changes) for option, changes in START_AS_STANDARD if option != "hc"]


def variant(case) -> str:
    return "-".join((case[0], *(f"{key}={value}" for key, value in case[1].items())))


@pytest.fixture(params=options("residual"))
def name(request):
    return request.param


@pytest.fixture
def make(component):
    """make(name, sublayer=, noise=, seed=, **changes): a connection."""
    return lambda name, *, sublayer=1, **arguments: component("residual", name, DIM, sublayer, **arguments)


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stream(module, seed: int = 0) -> torch.Tensor:
    """h with streams that differ."""
    h = module.open(values(ROWS, TIME, DIM, seed=seed))
    return h + 0.5 * values(*h.shape, seed=seed + 100)


MAP = values(DIM, DIM, seed=9)


def branch(x: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x @ MAP)


def test_opens_connects_and_closes(name, make):
    module, seen = make(name, noise=0.3), []

    def watched(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return branch(x)

    x = values(ROWS, TIME, DIM)
    h = stream(module)
    before = h.clone()
    after = module.connect(h, watched)
    assert len(seen) == 1 and seen[0].shape == x.shape
    assert after.shape == h.shape and after.dtype == torch.float32 and after.isfinite().all()
    assert torch.equal(h, before)
    assert module.close(after).shape == x.shape
    torch.testing.assert_close(module.close(module.open(x)), x)


@pytest.mark.parametrize("case", START_AS_STANDARD, ids=variant)
def test_starts_as_standard(case, make):
    x = values(ROWS, TIME, DIM)
    connections = [make(case[0], sublayer=sublayer, **case[1]) for sublayer in range(5)]
    h = connections[0].open(x)
    expected = x
    for connection in connections:
        h = connection.connect(h, branch)
        expected = expected + branch(expected)
    torch.testing.assert_close(connections[-1].close(h), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", START_AS_STANDARD, ids=variant)
@pytest.mark.parametrize("between", options("stream"))
def test_a_gpt_starts_as_one_with_a_standard_stream(case, between, build_gpt, rows):
    tokens = rows((16, 16), (32,))
    small = ("model.dim=24", "model.layers=3", f"stream={between}")
    live = (*small, "attention.output_init_scale=1", "mlp.output_init_scale=1")
    changes = [f"residual.{key}={value}" for key, value in case[1].items()]
    expected = build_gpt(*live)(tokens)
    logits = build_gpt(*live, f"residual={case[0]}", *changes)(tokens)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-5)
    assert (build_gpt(*small)(tokens) - expected).abs().max() > 0.01


@pytest.mark.parametrize("case", KEEP_THE_MEAN, ids=variant)
def test_an_empty_branch_keeps_the_mean_of_the_streams(case, make):
    module = make(case[0], noise=1.0, **case[1])
    h = stream(module)
    after = h
    for _ in range(10):
        after = module.connect(after, torch.zeros_like)
    torch.testing.assert_close(module.close(after), module.close(h), atol=1e-5, rtol=1e-5)
    assert after.abs().max() <= h.abs().max() + 1e-5  # nothing grows


def test_an_empty_branch_changes_nothing_at_the_start_of_hc(make):
    module = make("hc", fractions=3)
    h = stream(module)
    assert torch.equal(module.connect(h, torch.zeros_like), h)


def test_every_parameter_has_a_gradient_after_two_steps(name, make):
    connections = torch.nn.ModuleList([make(name, sublayer=sublayer) for sublayer in range(3)])
    if not list(connections.parameters()):
        return
    x, target = values(ROWS, 32, DIM), values(ROWS, 32, DIM, seed=1)
    optimizer = torch.optim.AdamW(connections.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        h = connections[0].open(x)
        for connection in connections:
            h = connection.connect(h, branch)
        (connections[-1].close(h) - target).square().mean().backward()
        gradients = {key: p.grad for key, p in connections.named_parameters()}
        optimizer.step()
    for key, gradient in gradients.items():
        assert gradient is not None and gradient.isfinite().all() and gradient.abs().max() > 1e-6, key


def test_what_depends_on_the_token_starts_at_nothing_and_at_a_hundredth(name, make):
    """Of all papers: its map is zero and its factor 0.01, so that the first steps leave the start nearly as it is."""
    parts = dict(make(name).named_parameters())
    assert not parts or (not parts["weight"].any() and (parts["scale"] == 0.01).all())


def test_no_parameter_goes_to_the_matrix_optimizer(name, make):
    assert {p.role for p in make(name).parameters()} <= {"gate", "scalar"}


def test_autocast_rounds_the_branch_and_not_the_stream(name, make):
    module = make(name, noise=0.3)
    h = stream(module)
    exact = module.connect(h, branch)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = module.connect(h, branch)
        still = module.connect(h, torch.zeros_like)
        narrow.sum().backward() if narrow.requires_grad else None
    assert narrow.dtype == torch.float32 and (narrow - exact).norm() < 0.02 * exact.norm()
    assert torch.equal(still, module.connect(h, torch.zeros_like))
    assert all(p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_streams_are_at_least_float32(name, make, dtype):
    module = make(name, noise=0.3).double() if dtype == torch.float64 else make(name, noise=0.3)
    x = values(ROWS, TIME, DIM).to(dtype)
    if name != "standard":
        assert module.open(x).dtype == torch.promote_types(dtype, torch.float32)
    y = module.close(module.connect(module.open(x), lambda z: torch.tanh(z @ MAP.to(z.dtype))))
    assert y.isfinite().all()


@pytest.mark.parametrize("case", [("hc", {}), ("mhc", {"iterations": 2})], ids=variant)
def test_compiles_in_one_piece(case, make):
    module = make(case[0], noise=0.3, **case[1])
    h = stream(module).requires_grad_()
    compiled = torch.compile(lambda x: module.connect(x, branch), backend="aot_eager", fullgraph=True)
    (expected,) = torch.autograd.grad(module.connect(h, branch).square().sum(), h)
    (gradient,) = torch.autograd.grad(compiled(h).square().sum(), h)
    torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-4)

"""Paired heads, gated XSA, and query and key maps in matrices of a few heads: what each is, and what it leaves alone."""

import pytest
import torch

from ramen.build.objects import build_groups, build_optimizers
from ramen.config.registry import factory
from ramen.errors import ConfigError
from ramen.nn.parameter import generator, initialise
from ramen.ops.attention import exclude_self
from ramen.ops.document_mask import DocumentMask

DIM, HEADS, TIME = 16, 4, 10
DOCUMENTS = torch.tensor([[1, 1, 1, 1, 1, 1, 2, 3, 3, 3], [0, 0, 1, 1, 1, 1, 1, 1, 1, 1]])


@pytest.fixture
def make(compose):
    """make(**changes): attention of layer 0 with every weight alive, and its position."""

    def result(position="half_rope", linear="dense", **changes):
        config = compose(f"position={position}", f"linear={linear}")
        turn = factory(config["position"])(DIM // HEADS, TIME, DIM)
        module = factory(config["attention"] | changes)(DIM, HEADS, factory(config["linear"]), 0, 4, turn.turning)
        initialise(module, 0)
        with torch.no_grad():
            for name, value in module.named_parameters():
                value += 0.3 * torch.randn(value.shape, generator=generator(0, name))
        return module, turn

    return result


def inputs(seed=0):
    return torch.randn(2, TIME, DIM, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("backend", ["kernel", "sdpa"])
@pytest.mark.parametrize("window", [None, 1, 3, 50])
def test_paired_heads_see_exactly_the_window_of_their_document(make, window, backend):
    module, turn = make(paired_layers=[0], long_window_tokens=window, backend=backend)
    x, mask = inputs().requires_grad_(), DocumentMask(DOCUMENTS)
    y, seen = module(x, turn, mask), torch.zeros(2, TIME, TIME, dtype=torch.bool)
    for t in range(TIME):
        (gradient,) = torch.autograd.grad(y[:, t].square().sum(), x, retain_graph=True)
        seen[:, t] = gradient.abs().sum(-1) > 0
    assert torch.equal(seen, mask.dense(window)[:, 0])


@pytest.mark.parametrize("window", [None, 3])
def test_paired_heads_equal_an_explicit_softmax(make, window):
    """Head i reads its own keys up to t and its partner's up to t - 1; the partner reads both up to t."""
    module, turn = make(paired_layers=[0], long_window_tokens=window)
    x = inputs()
    q, k, v = module.qkvo(x, 0, 3).view(2, TIME, 3, HEADS, -1).unbind(2)
    q, k = (turn(z / z.square().mean(-1, keepdim=True).sqrt()) for z in (q, k))
    expected = torch.zeros_like(q)
    for b in range(2):
        for h in range(HEADS):
            first, second = h % 2, h % 2 + 2  # a pair: i and i + H / 2
            for t in range(TIME):
                # Places 2 t and 2 t + 1 of one row; a window of w tokens is 2 w - 1 places.
                place, reach = 2 * t + (h >= 2), 2 * (window or TIME) - 1
                places = [p for p in range(place + 1) if place - p < reach and DOCUMENTS[b, p // 2] == DOCUMENTS[b, t]]
                keys = torch.stack([k[b, p // 2, (first, second)[p % 2]] for p in places])
                values = torch.stack([v[b, p // 2, (first, second)[p % 2]] for p in places])
                expected[b, t, h] = (keys @ q[b, t, h] * q.shape[-1] ** -0.5).softmax(0) @ values
    y = module(x, turn, DocumentMask(DOCUMENTS))
    torch.testing.assert_close(y, module.qkvo(expected.flatten(2), 3), rtol=1e-4, atol=1e-5)


def test_paired_heads_are_in_their_layers_alone(build_gpt):
    model = build_gpt("model.layers=3", "attention.paired_layers=[0,2]")
    assert [block.attention.paired for block in model.blocks] == [True, False, True]


@pytest.mark.parametrize("window", [None, 3])
def test_paired_heads_see_twice_as_many_keys(make, window):
    module, _ = make(paired_layers=[0], long_window_tokens=window)
    dense = DocumentMask(torch.zeros(1, 2 * TIME, dtype=torch.long)).dense(window and 2 * window - 1)
    assert module.visible_keys(TIME) == pytest.approx(dense.sum().item() / (2 * TIME))


def test_xsa_takes_out_what_lies_along_the_own_value():
    y, v = torch.randn(2, 2, 5, HEADS, 4)
    left = exclude_self(y, v, torch.tensor([1.0, 0.0, 0.5, -1.0]))
    along = lambda z: (z * v).sum(-1) / v.square().sum(-1)  # noqa: E731
    torch.testing.assert_close(along(left), along(y) * torch.tensor([0.0, 1.0, 0.5, 2.0]), rtol=1e-4, atol=1e-5)
    assert torch.equal(left[:, :, 1], y[:, :, 1])
    torch.testing.assert_close(exclude_self(y, 1e-4 * v, torch.ones(HEADS)), exclude_self(y, v, torch.ones(HEADS)))
    ones, narrow = torch.ones(HEADS), torch.stack((y, v)).bfloat16()
    exact = exclude_self(*narrow.float(), ones)
    error, rounding = (exclude_self(*narrow, ones) - exact).norm(), (exact.bfloat16() - exact).norm()
    assert error <= 1.01 * rounding  # once
    nothing = torch.zeros_like(v).requires_grad_()
    saved = exclude_self(y, nothing, torch.ones(HEADS))
    assert torch.equal(saved, y) and torch.autograd.grad(saved.sum(), nothing)[0].isfinite().all()


def test_xsa_starts_as_nothing_and_knows_value_embeddings(build_gpt, rows):
    tokens, on = rows((5, 7), (12,)), ("attention.output_init_scale=1.0", "value_embedding=tables")
    assert torch.equal(build_gpt(*on)(tokens), build_gpt(*on, "attention.xsa=true")(tokens))
    module = build_gpt(*on, "attention.xsa=true").blocks[0].attention
    assert module.xsa.shape == (2,) and module.xsa.role == "scalar"
    with torch.no_grad():
        module.xsa.fill_(100.0)  # all of it
    x, value = torch.randn(1, 1, 16), torch.randn(1, 1, 16)
    alone = module(x, torch.nn.Identity(), DocumentMask(torch.zeros(1, 1, dtype=torch.long)), value)
    torch.testing.assert_close(alone, torch.zeros_like(alone), atol=1e-5, rtol=0)  # a lone token has but its own value


@pytest.mark.parametrize("linear", ["dense", "low_rank"])
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_matrices_of_some_heads_are_the_same_attention(make, heads, linear):
    """The banks say what is orthogonalised by itself, and the layer computes as with the same weights in one bank."""
    split, turn = make(qk_matrix_heads=heads, linear=linear)
    if linear == "low_rank":
        assert split.qk.left.shape[:2] == (2 * HEADS // heads, heads * DIM // HEADS)
        assert split(inputs(), turn, DocumentMask(DOCUMENTS)).isfinite().all()
        return
    assert split.qk.weight.shape == (2 * HEADS // heads, heads * DIM // HEADS, DIM)
    assert split.vo.weight.shape == (2, DIM, DIM)
    whole, _ = make()
    with torch.no_grad():
        whole.qkvo.weight[:2] = split.qk.weight.view(2, DIM, DIM)
        whole.qkvo.weight[2:] = split.vo.weight
    mask = DocumentMask(DOCUMENTS)
    torch.testing.assert_close(split(inputs(), turn, mask), whole(inputs(), turn, mask))


def test_matrices_of_some_heads_start_as_those_of_all(compose):
    """At the same standard deviations: query, key and value maps at one, output maps at theirs."""
    node = compose()["attention"] | {"qk_matrix_heads": 2, "init_scale": 2.0, "output_init_scale": 0.5}
    linear = factory(compose()["linear"])
    module = factory(node)(64, 4, linear, 0, 1, 0)
    initialise(module, 0)
    stds = [*module.qk.weight.std(dim=(1, 2)), *module.vo.weight.std(dim=(1, 2))]
    assert [std.item() * 64**0.5 for std in stds] == pytest.approx([2.0] * 5 + [0.5], rel=0.05)


def test_a_matrix_optimizer_sees_head_pairs(compose, build_gpt):
    """A first Muon step of a pair's rows is orthogonal by itself, not as a part of all rows."""
    config = compose("optimizer=muon", "optimizer.weight_decay=0", "optimizer.nesterov=false")
    model = build_gpt("model.heads=4", "attention.qk_matrix_heads=2", noise=0.1)
    weight = model.blocks[0].attention.qk.weight
    before = weight.detach().clone()
    optimizers = build_optimizers(config, build_groups(config, model))
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    optimizers.step()
    step = (weight.detach() - before) / config["optimizer"]["lr"]  # (4, 8, 16)
    singular = torch.linalg.svdvals(step)
    assert singular.shape == (4, 8) and (singular - 1).abs().max() < 0.25


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("attention.paired_layers=[2]",),
            r"paired_layers must be different layers that have attention, of \[0, 1\], got \[2\]",
        ),
        (("attention.paired_layers=[0,0]",), "paired_layers must be different"),
        (("attention.pattern=LN", "attention.paired_layers=[1]"), r"of \[0\], got \[1\]"),
        (("model.heads=1", "attention.paired_layers=[0]"), "paired_layers needs an even number of heads, got 1"),
        (("attention.qk_matrix_heads=3",), "qk_matrix_heads must divide model.heads = 2, or null, got 3"),
        (("attention.qk_matrix_heads=0",), "qk_matrix_heads must divide"),
    ],
)
def test_refuses_what_cannot_be(build_gpt, overrides, message):
    with pytest.raises(ConfigError, match=message):
        build_gpt(*overrides)

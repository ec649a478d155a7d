"""Smear, lambdas, skip and backout against their formulas, and every part of them alive."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ramen.nn.gpt import GPT
from ramen.nn.stream.modded import Modded
from ramen.ops.rms_norm import rms_norm

PLACES = ("smear_init", "residual_init", "x0_init", "skip_from", "skip_to", "backout_at")
OFF: dict[str, Any] = {
    **dict.fromkeys((*PLACES, "bigram_rows")),
    "bigram_init": 0.1,
    "skip_init": -1.5,
    "backout_init": 0.5,
}


def result(**passed: Any) -> Modded:
    from ramen.nn.parameter import initialise

    stream = Modded(16, 4, **OFF | passed)
    initialise(stream, 0)
    return stream


def test_with_everything_off_it_is_plain(build_gpt: Callable[..., GPT], rows: Callable[..., torch.Tensor]) -> None:
    off = [f"stream.{key}=null" for key, value in OFF.items() if value is None]
    tokens = rows((5, 7), (12,))
    plain = build_gpt("attention.output_init_scale=1", "mlp.output_init_scale=1")
    modded = build_gpt("attention.output_init_scale=1", "mlp.output_init_scale=1", "stream=modded", *off)
    assert torch.equal(plain(tokens), modded(tokens)) and not list(modded.stream.parameters())


def test_smear_adds_the_predecessor_but_not_across_documents() -> None:
    stream = result(smear_init=0.6)
    embedded = torch.randn(1, 5, 16)
    opens = torch.tensor([[False, False, False, True, False]])  # a row that begins in a document has nothing before it
    out = stream.enter(embedded, torch.zeros(1, 5, dtype=torch.long), opens, {})
    expected = embedded.clone()
    for t in (1, 2, 4):
        expected[0, t] += 0.6 * 0.5 * embedded[0, t - 1]  # the gate starts at sigmoid(0)
    torch.testing.assert_close(out, expected)


def test_lambdas_mix_the_stream_with_the_embedding() -> None:
    stream = result(residual_init=1.1, x0_init=0.3)
    h, start = torch.randn(2, 1, 3, 16).unbind()
    torch.testing.assert_close(stream.before(2, h, start, start, {}), 1.1 * h + 0.3 * start)


@pytest.mark.parametrize("streams", [(), (3,)])
def test_the_skip_adds_what_the_earlier_layer_wrote(streams: tuple[int, ...]) -> None:
    stream = result(skip_from=0.25, skip_to=0.75)
    h, saved = torch.randn(2, 1, 3, *streams, 16).unbind()
    remaining: dict[str, torch.Tensor] = {}
    stream.after(1, saved, remaining)
    x0 = torch.randn(1, 3, 16)
    torch.testing.assert_close(stream.before(3, h, h, x0, remaining), h + 0.1824255 * saved)
    assert torch.equal(stream.before(2, h, h, x0, remaining), h)


def test_backout_takes_the_middle_out_again() -> None:
    stream = result(backout_at=0.5)
    h, middle = torch.randn(2, 1, 3, 16).unbind()
    remaining: dict[str, torch.Tensor] = {}
    for layer, value in enumerate((h, h, middle, h)):
        stream.after(layer, value, remaining)
    torch.testing.assert_close(stream.leave(h, remaining), h - 0.5 * middle)


def test_a_bigrams_row_depends_on_the_pair_and_stays_in_its_document() -> None:
    """The same pair has the same row wherever it stands; a first token's row does not know what was before."""
    stream = result(bigram_rows=1000, bigram_init=0.5)
    with torch.no_grad():
        stream.bigram_table.normal_()
    tokens = torch.tensor([[0, 5, 6, 0, 5, 6, 7, 6], [0, 9, 6, 0, 6, 5, 6, 7]])
    remaining: dict[str, torch.Tensor] = {}
    stream.enter(torch.zeros(2, 8, 16), tokens, tokens == 0, remaining)
    rows = remaining["bigram"]
    where: dict[tuple[int, int], list[torch.Tensor]] = {}
    for b in range(2):
        for t in range(8):
            token = int(tokens[b, t])
            where.setdefault((token if token == 0 else int(tokens[b, t - 1]), token), []).append(rows[b, t])
    assert len(where[0, 0]) == 4 and len(where[5, 6]) == 3 and len(where) == 9
    assert all(torch.equal(row, same[0]) for same in where.values() for row in same)
    assert len({tuple(same[0].tolist()) for same in where.values()}) == len(where)  # no two pairs share a row of 1,000
    h = torch.randn(2, 8, 3, 16)
    torch.testing.assert_close(stream.before(2, h, h, h[:, :, 0], remaining), h + 0.5 * rows[:, :, None])


def test_bigrams_use_all_rows_alike() -> None:
    """All pairs of 200 tokens over 1,000 rows: 40 a row, as a fair hash would spread them."""
    stream = result(bigram_rows=1000)
    with torch.no_grad():
        stream.bigram_table.copy_(torch.arange(1000.0)[:, None].expand(1000, 16))
    pairs = torch.cartesian_prod(torch.arange(1, 201), torch.arange(1, 201))
    remaining: dict[str, torch.Tensor] = {}
    stream.enter(torch.zeros(len(pairs), 2, 16), pairs, torch.zeros_like(pairs, dtype=torch.bool), remaining)
    counts = remaining["bigram"][:, 1, 0].long().bincount(minlength=1000)
    assert counts.max() < 80 and counts.min() > 5


def test_numbers_of_tokens_do_not_run_over() -> None:
    stream = result(bigram_rows=1000)
    with torch.no_grad():
        stream.bigram_table.normal_()
    rows, tokens = [], torch.randint(50_000, (1, 100))
    for same in (tokens, tokens.int()):
        remaining: dict[str, torch.Tensor] = {}
        stream.enter(torch.zeros(1, 100, 16), same, tokens == 0, remaining)
        rows.append(remaining["bigram"])
    assert torch.equal(*rows)


def test_places_are_layers_and_the_last_is_not_taken_out_again() -> None:
    """Of the last layer's output backout would leave a multiple, which the final norm makes the output again."""
    for layers in (2, 3, 4, 7):
        for fraction in (0.0, 0.5, 0.6, 0.99):
            stream = Modded(16, layers, **OFF | dict(backout_at=fraction, skip_from=0.0, skip_to=max(fraction, 0.5)))
            assert stream.backout_at == min(math.floor(fraction * layers), layers - 2)
            assert stream.skip_from == 0 and stream.skip_to == math.floor(max(fraction, 0.5) * layers) < layers
    with pytest.raises(ValueError, match="backout_at needs at least two layers, got 1"):
        Modded(16, 1, **OFF | dict(backout_at=0.5))


def test_parts_are_of_their_roles_in_any_width(
    build_gpt: Callable[..., GPT], rows: Callable[..., torch.Tensor]
) -> None:
    """None is a matrix to be orthogonalised, whatever its shape."""
    model = build_gpt("stream=modded", "stream.bigram_rows=50", "model.dim=8", "model.layers=4", noise=0.3)
    roles = {"gate": "gate", "table": "embedding"}
    for name, value in model.stream.named_parameters():
        assert value.role == roles.get(name.rpartition("_")[2], "scalar"), name
    assert model(rows((5, 7))).isfinite().all()


def test_bigrams_are_counted_as_embeddings_and_start_as_nothing(
    build_gpt: Callable[..., GPT], rows: Callable[..., torch.Tensor]
) -> None:
    without, model = build_gpt("stream=modded"), build_gpt("stream=modded", "stream.bigram_rows=50")
    assert model.embedding_parameters() - without.embedding_parameters() == 50 * 16
    assert torch.equal(model(rows((5, 7))), without(rows((5, 7))))


@pytest.mark.parametrize("residual", ["standard", "hc"])
def test_a_gpt_has_every_part_in_its_place(
    build_gpt: Callable[..., GPT], rows: Callable[..., torch.Tensor], residual: str
) -> None:
    """By the formulas, before and after blocks that are taken as they are."""
    overrides = "stream=modded", f"residual={residual}", "stream.bigram_rows=50", "model.layers=4"
    model, tokens, readings = build_gpt(*overrides, noise=0.3), rows((5, 7), (12,)), []
    model.blocks[0].register_forward_pre_hook(lambda block, arguments: readings.append(arguments[1:]))
    result, stream, remaining = model.hidden(tokens), model.stream, {}
    e, opens = model.embedding(tokens), (tokens == 0).unsqueeze(-1)
    stream.enter(e, tokens, opens[..., 0], remaining)  # for the rows of pairs
    smear = torch.where(opens, 0, stream.smear * torch.sigmoid(e[..., :12] @ stream.smear_gate.T))
    x0 = rms_norm(e + smear * e.roll(1, dims=1))
    connection = model.blocks[-1].mlp_residual
    h = start = connection.open(x0)
    pair, gate = remaining["bigram"], 2 * torch.sigmoid(x0[..., :12] @ stream.skip_gate.T) * torch.sigmoid(stream.skip)
    if residual == "hc":
        pair, gate = pair.unsqueeze(2), gate.unsqueeze(2)
    written = []
    for layer, block in enumerate(model.blocks):
        h = h + gate * written[1] if layer == 3 else h  # from 1/4 of the depth to 3/4
        h = stream.residual[layer] * h + stream.x0[layer] * start + stream.bigram[layer] * pair
        h = block(h, *readings[0])
        written.append(h)
    expected = rms_norm(connection.close(h - stream.backout * written[2]))
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
    weights, direction = dict(model.named_parameters()), torch.randn(result.shape)
    for name, actual, right in zip(
        weights,
        *(torch.autograd.grad((y * direction).sum(), list(weights.values())) for y in (result, expected)),
        strict=True,
    ):
        assert (actual - right).norm() <= 1e-3 * right.norm(), name


@pytest.mark.parametrize("residual", ["standard", "hc"])
def test_every_scalar_and_gate_moves(
    build_gpt: Callable[..., GPT], rows: Callable[..., torch.Tensor], residual: str
) -> None:
    """Two steps: a gate behind a scalar that starts at zero has a gradient from the second one on."""
    model = build_gpt(
        "stream=modded", "stream.bigram_rows=50", f"residual={residual}", "model.layers=4", "attention.output_init_scale=1",
        "mlp.output_init_scale=1",
    )  # fmt: skip
    tokens = rows((5, 7), (12,))
    before = {name: value.detach().clone() for name, value in model.stream.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        (model(tokens, tokens.roll(-1, 1)) / tokens.numel()).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert len(before) == 9
    for name, value in model.stream.named_parameters():
        assert not torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    ("passed", "reported"),
    [
        (dict(skip_from=0.5), "skip_from and skip_to must both"),
        (dict(skip_from=0.5, skip_to=0.5), "skip_from must be a layer before"),
        (dict(bigram_rows=0), "bigram_rows must be >= 1 or null, got 0"),
        (dict(backout_at=1.0), r"backout_at must be in \[0, 1\)"),
        (dict(skip_from=-0.1, skip_to=0.5), r"skip_from must be in \[0, 1\)"),
    ],
)
def test_impossible_places_are_refused(passed: dict[str, Any], reported: str) -> None:
    with pytest.raises(ValueError, match=reported):
        result(**passed)

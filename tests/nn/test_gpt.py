"""The GPT as a whole: loss and logits agree, nothing leaks, and weights are shared by name."""

import math

import pytest
import torch
from torch.nn import functional as F

from ramen.build.objects import build_model
from ramen.config.kinds import PARTS
from ramen.config.registry import build, factory, options
from ramen.errors import ConfigError
from ramen.nn.contracts import Attention, ComponentFactories
from ramen.nn.gpt import DataSpec
from ramen.nn.parameter import initialise
from ramen.nn.residual.standard import Standard

ALIVE = ("attention.output_init_scale=1.0", "mlp.output_init_scale=1.0")
IGNORED = -100
EVERY_PART = [(kind, name) for kind in PARTS for name in options(kind)]


def targets_of(tokens: torch.Tensor) -> torch.Tensor:
    """The next token; the last of a row is ignored."""
    return torch.cat((tokens[:, 1:], torch.full_like(tokens[:, :1], IGNORED)), dim=1)


@pytest.mark.parametrize("softcap", ["{form: sigmoid, limit: 23.0, shift: 5.0, scale: 7.5}", "null"])
@pytest.mark.parametrize("embedding", options("embedding"))
def test_the_loss_is_the_cross_entropy_of_the_logits(build_gpt, rows, softcap, embedding):
    model = build_gpt(f"model.softcap={softcap}", f"embedding={embedding}", noise=0.3)
    tokens = rows((5, 7), (12,))
    logits, targets = model(tokens), targets_of(tokens)
    assert logits.shape == (2, 12, 37) and logits.dtype == torch.float32
    loss = model(tokens, targets)
    assert loss.dtype == torch.float32 and loss.shape == ()
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum", ignore_index=IGNORED)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-4)


def test_the_softcap_bounds_the_logits_and_null_leaves_them(build_gpt, rows):
    tokens = rows((12,))
    steep = build_gpt("model.softcap.limit=0.5", noise=1.0)(tokens)
    free = build_gpt("model.softcap=null", noise=1.0)(tokens)
    assert steep.min() > 0 and steep.max() < 0.5
    assert free.abs().max() > 0.5 and free.min() < 0


def test_the_first_loss_is_that_of_a_uniform_guess(build_gpt, rows):
    """Branches start at zero, so only the head's spread of .005 sqrt(D) is left."""
    model = build_gpt("embedding=untied", vocabulary=101, length=60)
    tokens = rows((40, 20), (60,), vocabulary=101)
    loss = model(tokens, targets_of(tokens)) / (2 * 59)
    assert loss.item() == pytest.approx(math.log(101), abs=0.03)


def test_every_parameter_learns_from_the_first_step(build_gpt, rows):
    tokens = rows((5, 7), (12,))
    model = build_gpt(*ALIVE)
    model(tokens, targets_of(tokens)).backward()
    assert [name for name, value in model.named_parameters() if not value.grad.any()] == []


def test_with_branches_at_zero_only_what_feeds_them_waits(build_gpt, rows):
    """Output maps and the table learn at once, their inputs from the second step."""
    tokens = rows((5, 7), (12,))
    model = build_gpt("attention.output_init_scale=0", "mlp.output_init_scale=0")
    model(tokens, targets_of(tokens)).backward()
    for block in model.blocks:
        assert block.attention.qkvo.weight.grad[3].any() and not block.attention.qkvo.weight.grad[:3].any()
        assert block.mlp.down.weight.grad.any() and not block.mlp.up.weight.grad.any()
    assert model.embedding.weight.grad.any()


@pytest.mark.parametrize(("kind", "name"), EVERY_PART)
def test_no_document_is_touched_by_another_and_no_token_by_its_future(build_gpt, rows, kind, name):
    """Change one token: exactly the tokens of its document from there on change, every one of them."""
    model = build_gpt(f"{kind}={name}", noise=0.3)
    tokens = rows((5, 4, 3), (1, 6, 5))
    documents = (tokens == model.data.bos).cumsum(-1)
    before = model(tokens)
    for b, t in (tokens != model.data.bos).nonzero().tolist():
        changed = tokens.clone()
        changed[b, t] = tokens[b, t] % 36 + 1
        moved = (model(changed) != before).any(-1)
        expected = torch.zeros_like(moved)
        expected[b, t:] = documents[b, t:] == documents[b, t]
        assert torch.equal(moved, expected), (b, t)


def test_documents_are_opened_by_the_texts_own_token(compose, rows):
    """Two tokens that change their names, the one that opens documents among them, change nothing else."""
    config = compose("model.layers=2", "model.dim=16", "model.heads=2", "model.mtp_weights=[0.5]", *ALIVE)
    first, second = (build_model(config, DataSpec(37, bos, 32)) for bos in (0, 5))
    for model in (first, second):
        initialise(model, 0)
    with torch.no_grad():
        second.embedding.weight[[0, 5]] = second.embedding.weight[[5, 0]]
    tokens, names = rows((5, 7, 4), (16,)), torch.arange(37)
    tokens[1, 3], names[0], names[5] = 5, 5, 0
    targets = tokens.roll(-1, 1)
    losses = first(tokens, targets), second(names[tokens], names[targets])
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-4)


def test_a_window_reaches_as_far_as_its_layers_together(build_gpt, rows):
    """Two layers of window 3 see 2 + 2 tokens back, and no further."""
    model = build_gpt("attention.long_window_tokens=3", noise=0.3)
    tokens = rows((16,))
    changed = tokens.clone()
    changed[0, 6] = tokens[0, 6] % 36 + 1
    moved = (model(changed) != model(tokens)).any(-1)[0]
    assert moved.nonzero().flatten().tolist() == [6, 7, 8, 9, 10]


@pytest.mark.parametrize(("kind", "name"), EVERY_PART)
def test_rows_do_not_meet_and_micro_batches_sum_to_the_batch(build_gpt, rows, kind, name):
    """Losses and gradients of parts add up to those of the whole."""
    tokens = rows((5, 7), (12,), (2, 10), (11, 1))
    targets = targets_of(tokens)
    model = build_gpt(f"{kind}={name}", noise=0.3)
    whole = model(tokens, targets)
    whole.backward()
    expected = {path: value.grad.clone() for path, value in model.named_parameters()}
    model.zero_grad()
    parts = [model(tokens[part], targets[part]) for part in (slice(0, 1), slice(1, 4))]
    sum(parts).backward()
    torch.testing.assert_close(sum(parts), whole, rtol=1e-6, atol=1e-4)
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    for path, value in model.named_parameters():
        error = (value.grad - expected[path]).abs().max().item()
        assert error < 1e-5 * largest, f"{path}: {error} of {largest}"
    torch.testing.assert_close(model(tokens)[1:2], model(tokens[1:2]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        ("mlp=nff",),
        ("position=none",),
        ("model.layers=3",),
        ("embedding=untied",),
        ("attention.long_window_tokens=4", "model.softcap=null"),
    ],
    ids=str,
)
def test_architectures_of_one_seed_share_every_weight_they_have_in_common(build_gpt, changes):
    first, second = (dict(build_gpt(*ALIVE[:1], *chosen).named_parameters()) for chosen in ((), changes))
    common = [name for name in first if name in second and first[name].shape == second[name].shape]
    if "mlp=nff" in changes:  # restored to the sphere by after_step, and another width
        common = [name for name in common if ".mlp." not in name]
    assert {"embedding.weight", "blocks.0.attention.qkvo.weight", "blocks.1.attention.qkvo.weight"} <= set(common)
    assert [name for name in common if not torch.equal(first[name], second[name])] == []


def test_seeds_and_layers_differ(build_gpt):
    weights = [build_gpt(seed=seed).blocks[layer].attention.qkvo.weight for seed in (0, 1) for layer in (0, 1)]
    assert not any(torch.equal(a[:3], b[:3]) for i, a in enumerate(weights) for b in weights[:i])


def test_after_step_reaches_every_part(build_gpt):
    """nFF's maps go back to unit vectors of the model width."""
    model = build_gpt("mlp=nff")
    with torch.no_grad():
        for value in model.parameters():
            value *= 3
    attention = model.blocks[0].attention.qkvo.weight.clone()
    model.after_step()
    for block in model.blocks:
        up, down = block.mlp.up.weight, block.mlp.down.weight  # (2, F, D), (1, D, F)
        torch.testing.assert_close(up.norm(dim=-1), torch.ones(up.shape[:-1]))
        torch.testing.assert_close(down.norm(dim=-2), torch.ones(1, down.shape[-1]))
    assert torch.equal(model.blocks[0].attention.qkvo.weight, attention)


def test_parts_are_built_anew_for_every_layer(build_gpt):
    """Shared objects would tie weights silently."""
    model = build_gpt("model.layers=3")
    modules = [m for block in model.blocks for m in (block.attention, block.mlp, *block.children())]
    modules = list(dict.fromkeys(modules))
    assert len(modules) == 3 * 6
    assert len({value.data_ptr() for value in model.parameters()}) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("overrides", "numbers"),
    [
        (("model.dim=16", "model.heads=3"), "dim=16, heads=3"),
        (("model.dim=6", "model.heads=2"), "dim=6, heads=2"),  # an odd head width has no pairs
        (("model.layers=0",), r"layers must be in \[1, 10000\], got 0"),
        (("model.dim=0",), "dim must be >= 1, got 0"),
        (("model.heads=-2",), "heads must be >= 1, got -2"),
        (("model.softcap.scale=0.0",), "softcap limit and scale must be > 0, got 23.0 and 0.0"),
        (("model.mtp_weights=[0.5,0.0]",), r"mtp_weights must be > 0, .* got \[0.5, 0.0\]"),
        ((f"model.mtp_weights={[1] * 32}",), "fewer than tokens of a row"),
    ],
)
def test_impossible_sizes_are_refused_with_their_numbers(build_gpt, overrides, numbers):
    with pytest.raises(ConfigError, match=rf"^model\..*{numbers}"):
        build_gpt(*overrides)


def test_autocast_is_close_with_a_loss_in_float32(build_gpt, rows):
    tokens = rows((5, 7), (12,))
    model = build_gpt(noise=0.3)
    exact = model(tokens, targets_of(tokens))
    with torch.autocast("cpu", torch.bfloat16):
        close = model(tokens, targets_of(tokens))
    close.backward()
    assert close.dtype == torch.float32 and close.item() == pytest.approx(exact.item(), rel=0.02)
    assert all(value.grad.dtype == torch.float32 for value in model.parameters())


def test_int32_tokens_are_tokens(build_gpt, rows):
    tokens = rows((5, 7))
    model = build_gpt()
    assert torch.equal(model(tokens.int()), model(tokens))


def test_embeddings_are_counted_apart(build_gpt):
    tied, untied = build_gpt(vocabulary=37), build_gpt("embedding=untied", vocabulary=37)
    assert tied.embedding_parameters() == 64 * 16
    assert untied.embedding_parameters() == 2 * 64 * 16
    total = [sum(value.numel() for value in model.parameters()) for model in (tied, untied)]
    assert total[1] - total[0] == 64 * 16


def test_a_gpt_knows_no_method_by_name(compose):
    """Any callable that keeps a part's contract will do."""
    config = compose("model.layers=1", "model.dim=8", "model.heads=2")

    class Silent(Attention):
        def forward(self, x, position, mask, value=None):
            return torch.zeros_like(x)

    class Zero(torch.nn.Module):
        def forward(self, x):
            return torch.zeros_like(x)

    factories = {kind: factory(config[kind]) for kind in PARTS}
    factories |= {"attention": lambda *runtime: Silent(), "mlp": lambda *runtime: Zero()}
    model = build(config["model"], DataSpec(10, 0, 6), ComponentFactories(factories))
    initialise(model, 0)
    tokens = torch.tensor([[0, 3, 4]])
    x = F.rms_norm(model.embedding(tokens), (8,), eps=torch.finfo(torch.float32).eps)
    x = F.rms_norm(x, (8,), eps=torch.finfo(torch.float32).eps)
    torch.testing.assert_close(model.hidden(tokens), x)


@pytest.mark.parametrize("kind", [kind for kind in PARTS if kind != "mlp"])
def test_a_part_that_is_not_of_its_kinds_class_is_refused(compose, kind):
    """Of a plain nn.Module the model could not know what it may call."""
    config = compose("model.layers=1", "model.dim=8", "model.heads=2")
    factories = {kind: factory(config[kind]) for kind in PARTS} | {kind: lambda *runtime: torch.nn.Identity()}
    with pytest.raises(
        ConfigError, match=rf"^{kind}\._target_: must be a subclass of ramen\.nn\.contracts\..*, got Identity"
    ):
        build(config["model"], DataSpec(10, 0, 6), ComponentFactories(factories))


def test_connections_know_which_sublayer_is_theirs(compose):
    """Two a layer, by turns; a number is left out with the attention that it would be of."""
    config = compose("model.layers=3", "model.dim=8", "model.heads=2", "attention.pattern=LNL")

    class Numbered(Standard):
        def __init__(self, dim, sublayer):
            super().__init__(dim, sublayer)
            self.numbers = dim, sublayer

    factories = ComponentFactories({kind: factory(config[kind]) for kind in PARTS} | {"residual": Numbered})
    blocks = build(config["model"], DataSpec(10, 0, 6), factories).blocks
    assert [block.mlp_residual.numbers for block in blocks] == [(8, 1), (8, 3), (8, 5)]
    assert [block.attention_residual and block.attention_residual.numbers for block in blocks] == [(8, 0), None, (8, 4)]


def test_further_tokens_count_in_training_alone(build_gpt, rows):
    """Their weighted losses, within documents; an evaluation and the logits know nothing of them."""
    tokens = rows((5, 7), (12,))
    plain, ahead = build_gpt(noise=0.3), build_gpt("model.mtp_weights=[0.5,0.25]", noise=0.3)
    targets = targets_of(tokens)
    assert torch.equal(ahead(tokens), plain(tokens))
    assert torch.equal(ahead.eval()(tokens, targets), plain.eval()(tokens, targets))
    logits, documents = plain(tokens), (tokens == 0).cumsum(-1)
    expected = torch.zeros(())
    for b in range(2):
        for t in range(12):
            for step, weight in ((1, 1.0), (2, 0.5), (3, 0.25)):
                # the token that opens the next document is what ends this one
                if t + step < 12 and documents[b, t + step - 1] == documents[b, t]:
                    expected -= weight * logits[b, t].log_softmax(-1)[tokens[b, t + step]]
    torch.testing.assert_close(ahead.train()(tokens, targets), expected, rtol=1e-5, atol=1e-4)
    alone = plain.train()(tokens, targets)
    for share in (0.0, 0.5, 0.25, 1.0):  # of the configured weights, whatever it was before
        ahead.set_mtp_share(share)
        torch.testing.assert_close(ahead(tokens, targets), alone + share * (expected - alone), rtol=1e-5, atol=1e-4)

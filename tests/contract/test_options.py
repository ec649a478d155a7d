"""Every option of every group, the moment its yaml exists: it composes, dry-builds, and is not another's double."""

import itertools
from importlib.util import find_spec

import pytest
import torch
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from ramen.build.dry_run import dry_run
from ramen.build.objects import build_groups, build_model, build_optimizers
from ramen.config.check import check
from ramen.config.compose import sweep_values
from ramen.config.kinds import COMPOSITIONS, KINDS, PARTS
from ramen.config.registry import CONF, factory, options
from ramen.errors import ConfigError
from ramen.nn.gpt import DataSpec
from ramen.nn.parameter import generator, initialise

BOS, VOCABULARY, LENGTH = 0, 37, 16
TEXT = DataSpec(VOCABULARY, BOS, LENGTH)
TINY = ("model.layers=2", "model.dim=16", "model.heads=2")
OF_THE_MODEL = ("model", *PARTS)
OF_THE_STEP = ("optimizer", "auxiliary", "routing")


def available(kind: str) -> list[str]:
    """The options of a group whose package is installed."""
    targets = {name: (option.target or "ramen").partition(".")[0] for name, option in options(kind).items()}
    return [name for name, package in targets.items() if find_spec(package)]


SEVERAL = [kind for kind in KINDS if len(available(kind)) > 1]


def tokens() -> torch.Tensor:
    made = torch.randint(1, VOCABULARY, (2, LENGTH), generator=torch.Generator().manual_seed(0))
    made[:, 0] = made[0, 9] = BOS
    return made


def model_of(config):
    """A model in the middle of training, so to speak: no weight is at the zero it starts from."""
    model = build_model(config, TEXT)
    initialise(model, 0)
    if model.embedding.split_at:
        model.embedding.split()
    with torch.no_grad():
        for name, value in model.named_parameters():
            value += 0.1 * torch.randn(value.shape, generator=generator(0, f"noise of {name}"))
    model.after_step()
    return model


def first_loss(config) -> list[float]:
    """The loss of one batch, in nats a token."""
    batch = tokens()
    with torch.no_grad():
        return [model_of(config)(batch, batch.roll(-1, dims=1)).item() / batch.numel()]


def losses_of_steps(config) -> list[float]:
    """The losses of a batch before a step on it, after one and after two, at the peak of the schedule."""
    model, batch = model_of(config), tokens()
    optimizers = build_optimizers(config, build_groups(config, model))
    losses = []
    for _ in range(3):
        loss = model(batch, batch.roll(-1, dims=1)) / batch.numel()
        losses.append(loss.item())
        model.zero_grad()
        loss.backward()
        optimizers.schedule(0.3, 1.0)
        optimizers.step()
        model.after_step()
    return losses


def curve(config) -> list[float]:
    made = factory(config["schedule"])
    return [made(i / 40) for i in range(41)]


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in options(kind)])
def test_an_option_composes_is_accepted_and_dry_builds(option, kind, name):
    if name not in available(kind):
        pytest.skip(f"{options(kind)[name].target} is not installed")
    config = option(kind, name)
    check(config)
    if kind not in COMPOSITIONS:  # whose sizes are part of them
        config["model"]["layers"] = 2
    sketch = dry_run(config, TEXT, precision=torch.bfloat16)
    assert {group.role for group in sketch.groups} >= {"matrix", "embedding"}
    assert sum(group.elements for group in sketch.groups) == sketch.costs["parameters"]
    assert 0 < sketch.costs["parameters_without_embeddings"] < sketch.costs["parameters"]
    # Two FLOPs forward and four backward for each weight of a matrix that a token meets, at least.
    assert sketch.costs["flops_per_token"] >= 6 * sketch.costs["parameters_without_embeddings"] * 0.9
    assert all(size > 0 for size in sketch.costs["memory"].values())


@pytest.mark.parametrize("kind", SEVERAL)
def test_no_two_options_of_a_group_are_the_same_run(option, kind):
    """Model parts by the first loss, optimizers by the next two (downhill), schedules by their curve, others by config."""
    found = {}
    for name in available(kind):
        if kind in OF_THE_MODEL:
            found[name] = first_loss(option(kind, name, *TINY))
        elif kind in OF_THE_STEP:
            before, *after = found[name] = losses_of_steps(option(kind, name, *TINY))
            assert before > after[0] > after[1], f"{kind}={name} climbs at its default rate"
        elif kind == "schedule":
            found[name] = curve(option(kind, name))
        else:
            found[name] = option(kind, name)
    for first, second in itertools.combinations(found, 2):
        if isinstance(found[first], dict):
            same = found[first] == found[second]
        else:
            assert all(torch.tensor(found[name]).isfinite().all() for name in (first, second))
            same = found[first] == pytest.approx(found[second], rel=1e-6)
        assert not same, f"{kind}={first} and {kind}={second} compute the same"


@pytest.mark.parametrize("name", options("sweep"))
def test_every_value_of_a_sweep_is_accepted(compose, name):
    swept = yaml.safe_load((CONF / "sweep" / f"{name}.yaml").read_text())["hydra"]["sweeper"]["params"]
    listed = {
        key: list(sweep_values(OverridesParser.create().parse_override(f"{key}={given}")))
        for key, given in swept.items()
    }
    assert any(len(words) > 1 for words in listed.values())
    for words in listed.values():
        assert len(words) == len(set(words))
        for word in words:
            check(compose(word))


@pytest.mark.parametrize(
    "word", ["mlp.expansion=1e20", "model.dim=2000000000000000000", "embedding.pad_to_multiple=10000000000000000000"]
)
def test_a_size_that_cannot_be_counted_is_told(compose, word):
    with pytest.raises(
        ConfigError, match=r"^(linear|embedding): makes a tensor of more elements than can be counted, got"
    ):
        dry_run(compose(*TINY, word), TEXT, precision=torch.float32)


@pytest.mark.parametrize(
    "words", ["model.layers=1000000", "mlp=ff mlp.depth=1000000", "residual=mhc residual.iterations=1000000"]
)
def test_a_loop_that_would_not_end_is_refused(compose, words):
    with pytest.raises(ConfigError, match=r"must be in \[1, 10000\], got 1000000"):
        dry_run(compose(*TINY, *words.split()), TEXT, precision=torch.float32)

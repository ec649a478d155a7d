"""Constructor signatures are the schema: every kind of mistake, told at once and in the user's words."""

import copy
import math

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ramen.config import check as ramen_config
from ramen.config.check import check, config_hash, flatten, parameters, schedules, without_schedules
from ramen.config.registry import locate
from ramen.errors import ConfigError, suggest

DELETE = "<deleted>"


@pytest.fixture
def base(compose):
    """A whole config with a nested schedule (momentum) and a nested mapping (softcap)."""
    return compose("optimizer=muon")


def changed(config, path, value):
    """The config with one value set or deleted, in place."""
    *sections, key = path.split(".")
    node = config
    for section in sections:
        node = node[section]
    if value == DELETE:
        del node[key]
    else:
        node[key] = value
    return config


def problems(config):
    with pytest.raises(ConfigError) as caught:
        check(config)
    return caught.value.problems


WRONG = [
    # a key that is not there
    ("mlp.expansoin", 4.0, "mlp.expansoin: no such key; did you mean 'expansion'? allowed are activation"),
    ("routing.matrix.too", "auxiliary", "routing.matrix: no such key 'too'; did you mean 'to'?"),
    ("trainer.zzzz", 1, "trainer.zzzz: no such key; allowed are "),
    ("optimizer.momentum_schedule.finale", 1.0, "optimizer.momentum_schedule.finale: no such key"),
    ("sede", 3, "sede: no such key; did you mean 'seed'?"),
    ("mpl", {"expansion": 4.0}, "mpl: no such key"),
    ("mlp", "nff", "mlp: must be a section with a _target_, got 'nff'"),
    ("mlp", DELETE, "mlp: is missing"),
    ("seed", DELETE, "seed: is missing"),
    # a key that is missing
    ("mlp.expansion", DELETE, "mlp.expansion: is missing"),
    ("optimizer.momentum_schedule.final", DELETE, "optimizer.momentum_schedule.final: is missing"),
    # a value of another type: nothing is converted
    ("seed", True, "seed: input should be a valid integer, got True"),
    ("seed", "3", "seed: input should be a valid integer, got '3'"),
    ("seed", 0.5, "seed: input should be a valid integer, got 0.5"),
    ("seed", None, "seed: input should be a valid integer, got None"),
    ("attention.scale", math.nan, "attention.scale: must be finite, got nan"),
    ("routing.matrix.lr_scal", 3, "routing.matrix: no such key 'lr_scal'; did you mean 'lr_scale'?"),
    ("optimizer.lr", {"_target_": "ramen.schedule.constant.constant"}, "optimizer.lr: input should be a valid number"),
    ("trainer.batch_tokens", math.inf, "trainer.batch_tokens: must be finite, got inf"),
    ("trainer.steps", 2.5, "trainer.steps: input should be a valid integer"),
    ("optimizer.lr", True, "optimizer.lr: input should be a valid number, got True"),
    ("optimizer.lr", "0.1", "optimizer.lr: input should be a valid number, got '0.1'"),
    ("optimizer.lr", [0.1], "optimizer.lr: input should be a valid number, got [0.1]"),
    ("optimizer.lr", None, "optimizer.lr: input should be a valid number, got None"),
    ("attention.qk_norm", 1, "attention.qk_norm: input should be a valid boolean, got 1"),
    ("attention.qk_norm", "yes", "attention.qk_norm: input should be a valid boolean, got 'yes'"),
    ("attention.long_window_tokens", False, "attention.long_window_tokens: input should be a valid integer, got False"),
    ("name", 7, "name: input should be a valid string, got 7"),
    ("allow_targets", "pytorch_optimizer", "allow_targets: input should be a valid list, got 'pytorch_optimizer'"),
    ("allow_targets", ["os"], "allow_targets: Python's own modules hold no components, got 'os'"),
    (
        "data.folder",
        "a\0b",
        "data.folder: must be text that a file can be named by, without NUL and lone surrogates, got 'a",
    ),
    ("data.folder", "\ud800", "data.folder: must be text"),
    ("allow_targets", ["a\0"], "allow_targets: must be text"),
    ("allow_targets", [3], "allow_targets: input should be a valid string, got [3]"),
    ("optimizer.momentum_schedule.start", "x", "optimizer.momentum_schedule.start: input should be a valid number"),
    # a choice that is none
    ("mlp.activation", "relu_sqared", "mlp.activation: no such choice; did you mean 'relu_squared'? allowed are"),
    ("precision", "fp16", "precision: no such choice; did you mean"),
    ("compile", True, "compile: "),  # yaml's bare `on`
    # a nested mapping
    (
        "model.softcap.form",
        "sigmiod",
        "model.softcap: no such choice; did you mean 'sigmoid'? allowed are rsqrt, sigmoid, tanh",
    ),
    ("model.softcap.limit", DELETE, "model.softcap: field required"),
    ("model.softcap.lmit", 3.0, "model.softcap: no such key 'lmit'; did you mean 'limit'?"),
    ("model.softcap", 15.0, "model.softcap: input should be a valid dictionary, got 15.0"),
    ("routing.matrix.to", "optimiser", "routing.matrix: no such choice; did you mean 'optimizer'?"),
    # a target
    (
        "mlp._target_",
        "os.system",
        "mlp._target_: may not be built for mlp, got 'os.system'; allowed are ramen.nn.mlp.default.MLP",
    ),
    (
        "mlp._target_",
        "ramen.nn.mlp.nff.NFX",
        "mlp._target_: may not be built for mlp, got 'ramen.nn.mlp.nff.NFX'; did you mean",
    ),
    ("mlp._target_", 3, "mlp._target_: may not be built for mlp, got 3"),
    (
        "optimizer.momentum_schedule._target_",
        "os.system",
        "optimizer.momentum_schedule._target_: may not be built for schedule",
    ),
]


@pytest.mark.parametrize(("path", "value", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_a_mistake_is_told_by_its_path_with_what_is_allowed(base, path, value, message):
    (problem,) = problems(changed(base, path, value))
    assert problem.startswith(message)


def test_every_problem_is_told_at_once(base):
    wrong = WRONG[:2] + [case for case in WRONG if case[0].startswith(("seed", "attention", "optimizer.mom", "pre"))]
    wrong = list({path: (path, value, message) for path, value, message in wrong}.values())
    for path, value, _ in wrong:
        if path != "optimizer.momentum_schedule._target_":  # what has no target has no keys to complain of
            changed(base, path, value)
    reported = problems(base)
    expected = [message for path, _, message in wrong if path != "optimizer.momentum_schedule._target_"]
    assert len(expected) >= 8 and len(reported) == len(expected)
    assert all(any(problem.startswith(message) for problem in reported) for message in expected)
    with pytest.raises(ConfigError) as caught:
        check(base)
    assert str(caught.value).splitlines() == list(reported)


@pytest.mark.parametrize(
    ("path", "value", "stored"),
    [
        ("trainer.tokens", 5e6, 5_000_000),
        ("trainer.batch_tokens", 8192.0, 8192),
        ("seed", 1e3, 1000),
        ("optimizer.lr", 1, 1),
        ("trainer.seconds", 20.0, 20.0),
        ("trainer.steps", None, None),
        ("attention.long_window_tokens", None, None),
        ("model.softcap", None, None),
        ("model.softcap.limit", 15, 15),
        ("allow_targets", ["pytorch_optimizer"], ["pytorch_optimizer"]),
    ],
)
def test_what_people_write_is_accepted(base, path, value, stored):
    """And 5e6 of something counted is five million, an int, from there on."""
    check(changed(base, path, value))
    result = base
    for key in path.split("."):
        result = result[key]
    assert result == stored and type(result) is type(stored)


def test_a_checked_config_is_left_as_it_is(base):
    before = copy.deepcopy(base)
    check(base)
    assert base == before


def test_a_foreign_optimizer_takes_its_own_keys_and_schedules(compose):
    config = compose("optimizer=torch_muon")
    check(config)
    config["optimizer"]["ns_stepz"] = 5
    (problem,) = problems(config)
    assert problem.startswith("optimizer.ns_stepz: no such key; did you mean 'ns_steps'?")
    assert "params" not in problem
    config = compose("optimizer=torch_muon")
    config["optimizer"]["ns_coefficients"] = [1.0, 2]
    (problem,) = problems(config)
    assert problem.startswith("optimizer.ns_coefficients: list should have at least 3 items")


def test_a_schedule_needs_a_hyperparameter(base):
    base["optimizer"]["warmth_schedule"] = {"_target_": "ramen.schedule.constant.constant"}
    (problem,) = problems(base)
    assert problem.startswith("optimizer.warmth_schedule: no such key")


@pytest.mark.parametrize("key", ["steps", "nesterov"])
def test_no_count_and_no_switch_follows_a_schedule(compose, key):
    config = compose("optimizer=muon")
    config["optimizer"][f"{key}_schedule"] = {"_target_": "ramen.schedule.constant.constant"}
    (problem,) = problems(config)
    assert problem == f"optimizer.{key}_schedule: only a number can follow a schedule, and no count or switch"


PATHS = [
    "seed", "name", "precision", "threads", "mlp", "mlp._target_", "mlp.activation", "mlp.expansion", "mlp.unknown",
    "optimizer.lr", "optimizer.momentum_schedule", "optimizer.momentum_schedule.start", "model.softcap",
    "model.softcap.limit", "routing.matrix", "schedule.final", "trainer.steps", "trainer", "unknown", "logger",
]  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("ramen.nn.mlp"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["_target_", "lr", "to", "limit", "x", ""]), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(st.lists(st.tuples(st.sampled_from(PATHS), VALUES), min_size=1, max_size=4))
def test_no_value_gives_anything_but_a_config_error(compose, edits):
    config = compose("optimizer=muon")
    for path, value in sorted(edits, key=lambda edit: -edit[0].count(".")):  # leaves before the sections that hold them
        changed(config, path, value)
    try:
        check(config)
    except ConfigError as error:
        assert error.problems and all(isinstance(problem, str) for problem in error.problems)


@given(st.sampled_from(["seed", "trainer.batch_tokens"]), st.integers() | st.floats() | st.text(max_size=6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_an_int_is_an_int_or_a_whole_float_and_nothing_else(compose, path, value):
    assume(not isinstance(value, int | float) or 0 < value < 2**63)  # the range has tests of its own
    config = changed(compose(), path, value)
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if whole:
        check(config)
        assert type(config["seed"]) is int and type(config["trainer"]["batch_tokens"]) is int
    else:
        assert problems(config)


def test_parameters_are_what_config_supplies():
    known, required = parameters(locate("ramen.nn.attention.multi_head.MultiHead"))
    assert "qk_norm" in known and not {"self", "dim", "heads", "linear"} & known.keys()
    assert required == known.keys() and known["qk_norm"] is bool
    known, required = parameters(torch.optim.Muon)
    assert {"lr", "momentum", "ns_steps"} <= known.keys() and "params" not in known and required == set()


def test_schedules_are_taken_out_of_an_optimizers_node(base):
    node = base["optimizer"]
    assert schedules(node).keys() == {"momentum"}
    assert schedules(node)["momentum"]["_target_"] == "ramen.schedule.linear.linear"
    assert without_schedules(node).keys() == node.keys() - {"momentum_schedule"}


def test_settings_are_the_roots_own_keys(base):
    root = ramen_config.settings(base)
    assert (root.seed, root.precision, root.allow_targets, root.resume) == (0, "auto", [], None)


def test_the_hash_names_what_is_computed(base):
    same = [("name", "other"), ("logger", {"_target_": "ramen.logger.wandb.WandB"}), ("resume", "somewhere")]
    same += [("diagnostics", {"every_steps": 3})]
    other = [("seed", 1), ("mlp.expansion", 3.0), ("optimizer.lr", 0.5), ("trainer.steps", 3), ("schedule.final", 0.1)]
    first = config_hash(base)
    assert first == config_hash(dict(reversed(base.items())))  # order is nothing
    assert len(first) == 12 and int(first, 16) >= 0
    assert {config_hash(changed(copy.deepcopy(base), *edit)) for edit in same} == {first}
    hashes = [config_hash(changed(copy.deepcopy(base), *edit)) for edit in other]
    assert len({first, *hashes}) == 1 + len(other)


def test_flatten_names_values_by_their_path():
    nested = {"seed": 0, "optimizer": {"lr": 1, "deep": {"list": [1, 2], "none": None}}}
    assert flatten(nested) == {"seed": 0, "optimizer.lr": 1, "optimizer.deep.list": [1, 2], "optimizer.deep.none": None}


def test_suggest_names_the_closest_or_none():
    assert suggest("expansoin", ["b", "expansion"]) == "; did you mean 'expansion'? allowed are b, expansion"
    assert suggest("zzz", ["b", "a"]) == "; allowed are a, b"

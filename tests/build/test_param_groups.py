"""Every trainable parameter in exactly one group, and schedules that reach the optimizers."""

import dataclasses
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from ramen.build.objects import build_groups, build_model, build_optimizers
from ramen.build.param_groups import prove_complete, route
from ramen.config.check import check
from ramen.config.registry import build, options
from ramen.errors import ConfigError
from ramen.nn.gpt import DataSpec
from ramen.nn.parameter import named_roles, normal, parameter


class Noodle(nn.Module):
    """One parameter of each declared role, and two from elsewhere."""

    def __init__(self):
        super().__init__()
        self.bank = parameter((3, 4, 5), normal(1.0), "matrix")
        self.table = parameter((7, 4), normal(1.0), "embedding")
        self.head = parameter((7, 4), normal(1.0), "head")
        self.gate = parameter((2, 4), normal(1.0), "gate")
        self.gain = parameter((4,), normal(1.0), "scalar")
        self.foreign = nn.Linear(4, 4)
        self.frozen = nn.Parameter(torch.zeros(3, 3), requires_grad=False)


def routed(config, model, **changed_routes):
    """Groups of the model by role, under routes changed key by key."""
    node = config["routing"]
    for name, changes in changed_routes.items():
        node[name] = node[name] | changes
    groups = route(model, build(node), config["optimizer"], config["auxiliary"])
    return {group.role: group for group in groups}


def test_roles_are_declared_at_birth_or_derived_from_the_axes():
    roles = {name: role for name, _, role in named_roles(Noodle())}
    assert roles == {
        "bank": "matrix",
        "table": "embedding",
        "head": "head",
        "gate": "gate",
        "gain": "scalar",
        "foreign.weight": "matrix",
        "foreign.bias": "scalar",
        "frozen": "matrix",
    }


def test_each_role_goes_where_its_route_says(compose):
    groups = routed(compose(), Noodle())
    assert {name: (group.to, group.names) for name, group in groups.items()} == {
        "matrix": ("optimizer", ("bank", "foreign.weight")),
        "embedding": ("auxiliary", ("table",)),
        "head": ("auxiliary", ("head",)),
        "gate": ("auxiliary", ("gate",)),
        "scalar": ("auxiliary", ("gain", "foreign.bias")),
    }
    assert groups["matrix"].elements == 3 * 4 * 5 + 4 * 4


def test_scales_multiply_rate_and_decay_of_their_role_alone(compose):
    config = compose("optimizer=adamw", "optimizer.lr=0.01", "optimizer.weight_decay=0.2")
    config["auxiliary"] |= {"lr": 0.003, "weight_decay": 0.05}
    groups = routed(
        config,
        Noodle(),
        embedding={"lr_scale": 2.0, "wd_scale": 3.0},
        matrix={"lr_scale": 0.5, "wd_scale": 0.25},
        head={"to": "optimizer"},
    )
    expected = {"matrix": (0.005, 0.05), "embedding": (0.006, 0.15), "head": (0.01, 0.2), "scalar": (0.003, 0.0)}
    for name, (lr, decay) in expected.items():
        assert (groups[name].lr, groups[name].weight_decay) == pytest.approx((lr, decay))
    built = build_optimizers(config, list(groups.values()))
    by_role = {
        "matrix": built.by_name["optimizer"].param_groups[0],
        "head": built.by_name["optimizer"].param_groups[1],
        "embedding": built.by_name["auxiliary"].param_groups[0],
    }
    for name, group in by_role.items():
        assert (group["lr"], group["weight_decay"]) == pytest.approx(expected[name])


def test_what_a_config_does_not_say_is_the_optimizers_own_default(compose):
    config = compose()
    config["optimizer"] = {"_target_": "torch.optim.AdamW", "betas": [0.8, 0.9]}
    built = build_optimizers(config, list(routed(config, Noodle()).values()))
    (group,) = built.by_name["optimizer"].param_groups
    assert (group["lr"], group["weight_decay"], *group["betas"]) == (1e-3, 1e-2, 0.8, 0.9)


def test_a_checkpoint_holds_numbers_and_no_tensors_of_a_device(compose):
    config = compose("optimizer=adamw")
    built = build_optimizers(config, list(routed(config, Noodle()).values()))
    built.place(torch.device("cpu"))
    built.schedule(0.5, 0.25)
    groups = [group for state in built.state_dict().values() for group in state["param_groups"]]
    assert [type(group["lr"]) for group in groups] == [float] * 5
    assert groups[0]["lr"] == pytest.approx(0.25 * config["optimizer"]["lr"])


def test_a_scheduled_decay_is_still_that_of_each_role(compose):
    config = compose("optimizer=adamw")
    config["auxiliary"] |= {
        "weight_decay": 0.05,
        "weight_decay_schedule": {"_target_": "ramen.schedule.constant.constant"},
    }
    groups = list(routed(config, Noodle(), embedding={"wd_scale": 3.0}, head={"wd_scale": 0.5}).values())
    built = build_optimizers(config, groups)
    built.schedule(0.5, 0.25)
    expected = [group.weight_decay for group in groups if group.to == "auxiliary"]
    assert [group["weight_decay"] for group in built.by_name["auxiliary"].param_groups] == pytest.approx(expected)
    assert len(set(expected)) > 2


def test_a_switch_follows_no_schedule(compose):
    config = compose("optimizer=muon")
    config["optimizer"]["nesterov_schedule"] = {"_target_": "ramen.schedule.constant.constant"}
    with pytest.raises(
        ConfigError, match=r"^optimizer.nesterov_schedule: only a number can follow a schedule, got True"
    ):
        build_optimizers(config, list(routed(config, Noodle()).values()))


def test_a_parameter_in_no_group_or_in_two_is_an_error_that_names_it(compose):
    model = Noodle()
    groups = list(routed(compose(), model).values())
    prove_complete(model, groups)
    matrix = groups[0]
    without = dataclasses.replace(matrix, names=matrix.names[:1], parameters=matrix.parameters[:1])
    with pytest.raises(ConfigError, match=r"exactly one optimizer group, got foreign\.weight \(in 0 groups\)$"):
        prove_complete(model, [without, *groups[1:]])
    twice = dataclasses.replace(groups[1], parameters=(*groups[1].parameters, matrix.parameters[0]))
    with pytest.raises(ConfigError, match=r"got bank \(in 2 groups\)$"):
        prove_complete(model, [matrix, twice, *groups[2:]])
    model.planted = nn.Parameter(torch.zeros(2, 2))
    with pytest.raises(ConfigError, match=r"got planted \(in 0 groups\)$"):
        prove_complete(model, groups)


def test_a_role_without_a_route_is_an_error_that_names_its_parameters(compose):
    model = Noodle()
    model.odd = parameter((2, 2), normal(1.0), "topping")
    with pytest.raises(ConfigError, match=r"^routing\.topping: no route for odd$"):
        routed(compose(), model)


def test_a_tied_parameter_is_one_parameter(compose):
    model = Noodle()
    model.again = model.table
    assert routed(compose(), model)["embedding"].names == ("table",)


def test_a_frozen_parameter_is_in_no_group(compose):
    names = [name for group in routed(compose(), Noodle()).values() for name in group.names]
    assert "frozen" not in names


def test_a_negative_scale_is_refused(compose):
    config = compose()
    config["routing"]["gate"]["lr_scale"] = -1
    with pytest.raises(ConfigError, match=r"^routing\.gate: lr_scale input should be greater than or equal to 0, got"):
        check(config)


def test_a_matrix_optimizer_fed_vectors_says_so(compose):
    config = compose("optimizer=muon")
    groups = routed(config, Noodle(), scalar={"to": "optimizer"})
    with pytest.raises(ConfigError, match=r"^optimizer: .*takes matrices .*\(4,\)"):
        build_optimizers(config, list(groups.values()))


def test_the_auxiliary_is_the_same_whatever_the_optimizer(option):
    """Else a comparison of optimizers compares two optimizers at once."""
    seen = []
    for name, chosen in options("optimizer").items():
        if not find_spec(chosen.target.partition(".")[0]):
            continue  # an optional package
        config = option("optimizer", name, "model.layers=1", "model.dim=16")
        model = build_model(config, DataSpec(37, 0, 16))
        auxiliary = build_optimizers(config, build_groups(config, model)).by_name["auxiliary"]
        names = {id(value): key for key, value in model.named_parameters()}
        described = [
            {k: v for k, v in g.items() if k != "params"} | {"names": [names[id(p)] for p in g["params"]]}
            for g in auxiliary.param_groups
        ]
        seen.append((type(auxiliary), described))
    assert len(seen) > 3 and all(entry == seen[0] for entry in seen)


@pytest.fixture
def optimizers(compose):
    """make(*overrides): the optimizers of a Noodle with a rate and a decay easy to follow."""

    def make(*overrides):
        config = compose("optimizer.lr=0.1", "auxiliary.lr=0.01", *overrides)
        groups = list(routed(config, Noodle(), embedding={"lr_scale": 3.0}).values())
        return build_optimizers(config, groups)

    return make


@pytest.mark.parametrize("optimizer", ["muon", "torch_muon"])
def test_schedule_sets_what_it_tells(optimizers, optimizer):
    """Rates follow the multiplier given, momentum its own schedule of progress; the base values never drift."""
    built = optimizers(f"optimizer={optimizer}")
    for progress, multiplier, momentum in ((0.0, 0.5, 0.95 * 0.895), (0.5, 1.0, 0.95), (0.05, 0.2, 0.95 * 0.9475)):
        values = built.schedule(progress, multiplier)
        matrix = built.by_name["optimizer"].param_groups[0]
        assert (matrix["lr"], matrix["momentum"]) == pytest.approx((0.1 * multiplier, momentum))
        assert (values["lr"], values["momentum"]) == (matrix["lr"], matrix["momentum"])
        rates = [group["lr"] for group in built.by_name["auxiliary"].param_groups]
        assert rates == pytest.approx([0.03 * multiplier] + [0.01 * multiplier] * (len(rates) - 1))
        assert values["auxiliary_lr"] == rates[0]


def test_a_foreign_optimizer_steps_at_the_scheduled_rate(optimizers):
    """Values set on the outside reach the optimizer inside."""
    moved = []
    for multiplier in (0.0, 1.0):
        built = optimizers("optimizer=torch_muon", "optimizer.weight_decay=0.0")
        bank = built.by_name["optimizer"].param_groups[0]["params"][0]
        with torch.no_grad():
            bank.copy_(torch.ones_like(bank))
        bank.grad = torch.randn(bank.shape, generator=torch.Generator().manual_seed(0))
        built.schedule(0.5, multiplier)
        built.step()
        moved.append((bank - 1).abs().max().item())
    assert moved[0] == 0 < moved[1]


def test_a_schedule_survives_a_loaded_state(optimizers):
    """Loading replaces the group dictionaries: the schedule must set the new ones."""
    built = optimizers("optimizer=muon")
    built.schedule(0.5, 1.0)
    built.load_state_dict(built.state_dict())
    built.schedule(0.5, 0.25)
    assert built.by_name["optimizer"].param_groups[0]["lr"] == pytest.approx(0.025)


def test_a_schedule_of_what_the_optimizer_has_not_is_refused(optimizers):
    with pytest.raises(ConfigError, match=r"optimizer\.steeps_schedule: .* has no hyperparameter steeps"):
        optimizers("optimizer=muon", "+schedule@optimizer.steeps_schedule=constant")


def test_a_target_that_is_no_optimizer_is_refused(compose):
    config = compose()
    config["optimizer"] = {"_target_": "ramen.schedule.constant.constant"}
    with pytest.raises(
        ConfigError, match=r"^optimizer\._target_: may not be built for optimizer, got 'ramen\.schedule"
    ):
        check(config)

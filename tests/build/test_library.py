"""Parts for a loop of one's own: the yaml's defaults, changes by its keys, and mistakes told with the closest name."""

import copy
import functools
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import ramen
import ramen.optimizer.muon  # binds the package's name in `ramen`, which must stay callable
from ramen.config.kinds import KINDS
from ramen.config.registry import CONF, options
from ramen.errors import ConfigError

LINEAR = functools.partial(ramen.component, "linear", "dense")


@pytest.fixture
def matrices() -> list[nn.Parameter]:
    return [nn.Parameter(torch.randn(2, 6, 4)), nn.Parameter(torch.randn(4, 6))]


@pytest.mark.parametrize("name", options("optimizer"))
def test_every_optimizer_steps_in_a_plain_loop(name: str, matrices: list[nn.Parameter]) -> None:
    pytest.importorskip(str(options("optimizer")[name].target).partition(".")[0])
    if "needs linear=low_rank" in options("optimizer")[name].summary:
        pytest.skip("steps on factors, which plain matrices are not")
    optimizer = ramen.optimizer(name, matrices)
    assert isinstance(optimizer, torch.optim.Optimizer)
    before = copy.deepcopy(matrices)
    for _ in range(3):
        for value in matrices:
            value.grad = torch.randn_like(value)
        optimizer.step()
    for value, old in zip(matrices, before, strict=True):
        assert value.isfinite().all() and not torch.equal(value, old)


def test_defaults_are_the_yamls_and_changes_win(matrices: list[nn.Parameter], compose) -> None:
    node = compose("optimizer=normuon")["optimizer"]
    (group,) = ramen.optimizer("normuon", matrices).param_groups
    shared = node.keys() & group.keys()
    assert len(shared) > 8 and {key: group[key] for key in shared} == {key: node[key] for key in shared}
    (group,) = ramen.optimizer("normuon", matrices, lr=0.5, axis="long").param_groups
    assert (group["lr"], group["axis"]) == (0.5, "long")


def test_groups_of_parameters_keep_their_own_values(matrices: list[nn.Parameter]) -> None:
    first, second = ({"params": [value]} for value in matrices)
    groups = ramen.optimizer("muon", [first | {"lr": 0.5}, second], lr=0.25).param_groups
    assert [group["lr"] for group in groups] == [0.5, 0.25]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: ramen.optimizer("normoun", p), "optimizer: no such option, got 'normoun'; did you mean 'normuon'?"),
        (lambda p: ramen.optimizer("muon", p, lrr=0.1), "optimizer.lrr: no such key; did you mean 'lr'?"),
        (lambda p: ramen.optimizer("muon", p, lr="fast"), "optimizer.lr: input should be a valid number, got 'fast'"),
        (lambda p: ramen.optimizer("muon", p, momentum_schedule=None), "optimizer.momentum_schedule: cannot be changed here"),
        (lambda p: ramen.optimizer("muon", p, _target_="os.system"), "optimizer._target_: cannot be changed here"),
        (lambda p: ramen.component("mpl", "nff"), "mpl: no such kind; did you mean 'mlp'?"),
        (lambda p: ramen.component("sweep", "seeds"), "sweep: no such kind"),
        (lambda p: ramen.component("mlp", "nff", 8), "mlp=nff: takes dim, linear by position, got 1"),
        (lambda p: ramen.component("data", "text"), "data.files: must be given, got nothing"),
        (lambda p: ramen.describe("mlp", "nnf"), "mlp: no such option, got 'nnf'; did you mean 'nff'?"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_the_closest_name(call, message: str, matrices: list[nn.Parameter]) -> None:
    with pytest.raises(ConfigError) as caught:
        call(matrices)
    assert str(caught.value).startswith(message)


def test_a_vector_is_refused_by_a_matrix_method(matrices: list[nn.Parameter]) -> None:
    with pytest.raises(ValueError, match=r"Muon takes matrices .* got a parameter of shape \(3,\)"):
        ramen.optimizer("muon", [*matrices, nn.Parameter(torch.zeros(3))])


def test_a_module_starts_as_in_a_run() -> None:
    torch.manual_seed(0)
    first, second = (ramen.component("mlp", "nff", 16, LINEAR) for _ in range(2))
    torch.manual_seed(0)
    again = ramen.component("mlp", "nff", 16, LINEAR)
    assert torch.equal(first.up.weight, again.up.weight) and not torch.equal(first.up.weight, second.up.weight)
    torch.testing.assert_close(first.up.weight.norm(dim=-1), torch.ones_like(first.up.weight[..., 0]))  # after_step
    assert first(torch.randn(2, 3, 16)).shape == (2, 3, 16)


def test_a_schedule_is_a_function_of_progress() -> None:
    schedule = ramen.component("schedule", "linear", final=0.5)
    assert (schedule(0.5), schedule(1.0)) == (1.0, 0.5)


def test_what_describes_an_option_is_its_yaml() -> None:
    assert all(f"{kind}: " in ramen.describe() for kind, one in KINDS.items() if one.package)
    assert "nff: nFF: nGPT's" in ramen.describe("mlp")
    assert ramen.describe("mlp", "nff") == (CONF / "mlp" / "nff.yaml").read_text()


def test_the_loop_of_the_page_runs() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "library.md").read_text()
    names: dict = {}
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], names)
    assert names["loss"].item() < 2.3

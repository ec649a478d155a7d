"""From a config node to an object: what may be built, what is told when it cannot be, and that nothing is shared."""

import sys

import pytest

from ramen.config.registry import build, factory, locate, options
from ramen.errors import ConfigError
from ramen.nn.linear.dense import Dense


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "subprocess.run",
        "pickle.loads",
        "torch.load",
        "torch.hub.load",
        "torch.optimistic.Adam",
        "ramenoodle.Soup",
        "ramen",
        "numpy.load",
        "",
        None,
        3,
        {"ramen.": 1},
    ],
)
def test_what_is_not_trusted_is_never_imported(target):
    with pytest.raises(ConfigError, match=r"may not be built for a config, got "):
        locate(target)
    with pytest.raises(
        ConfigError, match=r"may not be built for mlp, got .* allowed are ramen\.nn\.mlp\.default\.MLP, "
    ):
        locate(target, (), "mlp")


@pytest.mark.parametrize(
    "target",
    [
        "ramen.nn.mlp.nothing.MLP",
        "ramen.nn.mlp.default.Nothing",
        "ramen.build.run.os.system",
        "ramen.",
        "ramen..mlp",
        "ramen.config.registry.CONF",
        "ramen.nn.mlp",
        "ramen.runs.lock.discard",
        "ramen.build.run.run",
        "ramen.cli.command.main",
        "ramen.config.registry.import_module",
        "ramen.nn.mlp.default.MLP.__init__",
        "ramen.nn.mlp.default.__builtins__",
        "ramen/../os.system",
        "ramen.nn.mlp.default.MLP\n",
    ],
)
def test_what_is_in_ramen_and_is_no_component_is_not_built(target):
    with pytest.raises(ConfigError, match="may not be built for a config"):
        locate(target)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("torch.optim.nothing.Muon", "cannot be imported: ModuleNotFoundError: No module named 'torch.optim.nothing'"),
        ("torch.optim.Moun", "cannot be imported: AttributeError"),
        ("torch.optim.adam.adam", "is not a torch.optim.Optimizer"),
        ("torch.optim.lr_scheduler.LambdaLR", "is not a torch.optim.Optimizer"),
        ("torch.optim.optimizer.defaultdict", "is not a class or function of that package"),
        ("pytorch_optimizer.load_optimizer", "is not a torch.optim.Optimizer"),
    ],
)
def test_what_is_no_optimizer_is_told_with_the_reason(target, reason):
    pytest.importorskip(target.partition(".")[0])
    with pytest.raises(ConfigError) as caught:
        locate(target, (), "optimizer")
    assert repr(target) in str(caught.value) and reason in str(caught.value)


def test_nothing_is_imported_before_its_kind_is_allowed(package):
    """Not even a package that another section may use: its modules run as they are imported."""
    for kind in ("mlp", "data", "schedule", "logger", "optimizer"):
        with pytest.raises(ConfigError, match=f"may not be built for {kind}"):
            locate(f"{package}.broken.Soup", ["another_package"], kind)
    with pytest.raises(ConfigError, match="may not be built for mlp"):
        locate("pytorch_optimizer.nothing.SOAP", (), "mlp")
    assert package not in sys.modules and "pytorch_optimizer.nothing" not in sys.modules


def test_a_mistyped_target_is_answered_with_the_closest():
    with pytest.raises(ConfigError, match=r"did you mean 'ramen\.optimizer\.muon\.Muon'\?"):
        locate("ramen.optimizer.moun.Muon", (), "optimizer")


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        ("mlp", "ramen.nn.linear.dense.Dense"),
        ("logger", "ramen.data.shakespeare.Shakespeare"),
        ("schedule", "ramen.nn.mlp.nff.MLP"),
        ("data", "torch.optim.SGD"),
        ("optimizer", "ramen.schedule.constant.constant"),
    ],
)
def test_a_component_of_another_kind_is_refused(kind, target):
    with pytest.raises(ConfigError, match=f"may not be built for {kind}"):
        locate(target, (), kind)


def test_an_optimizer_may_be_the_auxiliary_one():
    assert locate("ramen.optimizer.muon.Muon", (), "auxiliary") is locate("ramen.optimizer.muon.Muon", (), "optimizer")


@pytest.mark.parametrize("name", ["os", "subprocess", "builtins", "", "os.path", "pickle"])
def test_pythons_own_modules_cannot_be_opted_in(name):
    with pytest.raises(ConfigError, match="may not be built"):
        locate(f"{name}.system", [name])


def test_a_function_of_a_package_that_was_opted_in_is_not_called(package):
    with pytest.raises(ConfigError, match="is not a class"):
        locate(f"{package}.whole.stir", [package], "mlp")
    assert locate(f"{package}.whole.stir", [package], "schedule")
    with pytest.raises(ConfigError, match=r"is not a torch\.optim\.Optimizer"):
        locate(f"{package}.whole.Soup", [package], "optimizer")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of the user's own, with a module that breaks when it is imported."""
    folder = tmp_path / "noodle_extras"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "broken.py").write_text("raise RuntimeError('needs a GPU of the year 2030')")
    (folder / "whole.py").write_text(
        "class Soup:\n    def __init__(self, dim, *, salt):\n        self.taken = dim, salt\ndef stir(progress):\n    return 1.0"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return "noodle_extras"


def test_a_package_is_built_from_when_the_user_opts_in(package):
    node = {"_target_": f"{package}.whole.Soup", "salt": 2}
    with pytest.raises(ConfigError, match="may not be built"):
        build(node, 3)
    assert build(node, 3, allow=[package]).taken == (3, 2)
    with pytest.raises(ConfigError, match="RuntimeError: needs a GPU of the year 2030"):
        locate(f"{package}.broken.Soup", [package])


def test_an_opted_in_name_is_a_whole_package_name(package):
    with pytest.raises(ConfigError, match="may not be built"):
        locate(f"{package}.whole.Soup", [package[:-1]])


def test_a_factory_builds_anew_on_each_call():
    make = factory({"_target_": "ramen.nn.linear.dense.Dense", "init": "uniform"})
    first, second = make(2, 3, (1.0,)), make(2, 3, (1.0,))
    assert isinstance(first, Dense) and first is not second
    assert first.weight.data_ptr() != second.weight.data_ptr()


def test_nested_nodes_are_handed_over_and_not_built(package):
    """A nested object would be one object for all layers."""
    inner = {"_target_": "ramen.nn.linear.dense.Dense"}
    assert build({"_target_": f"{package}.whole.Soup", "salt": inner}, 3, allow=[package]).taken == (3, inner)


def test_a_function_is_built_into_a_curve():
    curve = factory({"_target_": "ramen.schedule.constant.constant"})
    assert callable(curve) and curve(0.5) == 1.0


def test_options_are_the_files_of_a_group():
    result = options("position")
    assert {"none", "rope", "half_rope"} <= result.keys() and list(result) == sorted(result)
    rope = result["rope"]
    assert rope.target == "ramen.nn.position.rope.RoPE"
    assert rope.summary.startswith("RoPE:") and "#" not in rope.summary
    assert options("no_such_kind") == {}

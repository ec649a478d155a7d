"""The one rule of the layout: conf/<kind>/<name>.yaml <-> ramen/<kind>/<name>.py, and the floors between packages."""

import ast
import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ramen.config.check import SCHEDULE_SUFFIX, parameters
from ramen.config.kinds import COMPOSITIONS, KINDS, SECTIONS
from ramen.config.registry import locate, options

ROOT = Path(__file__).resolve().parent.parent
TREES = {path: ast.parse(path.read_text()) for path in sorted((ROOT / "ramen").rglob("*.py"))}
FOREIGN = ("torch.optim.", "pytorch_optimizer.")
OPTIONS = [(kind, name) for kind in KINDS for name in options(kind)]
BUILDING = [(kind, name) for kind, name in OPTIONS if kind not in COMPOSITIONS]
# A module name that says nothing of what is inside.
BANNED = {"utils", "util", "helpers", "helper", "common", "misc"}


def target(kind: str, name: str) -> str:
    return options(kind)[name].target


@pytest.mark.parametrize(("kind", "name"), OPTIONS)
def test_an_option_opens_with_a_line_that_says_what_it_is(kind, name):
    """`# What: how it differs (source)`, which --help and docs can show; a composition's first line is its package."""
    lines = (ROOT / "conf" / kind / f"{name}.yaml").read_text().splitlines()
    if kind in COMPOSITIONS:
        assert lines.pop(0) == "# @package _global_"
    assert re.match(r"# \S.{15,}", lines[0])


@pytest.mark.parametrize(("kind", "name"), BUILDING)
def test_an_option_builds_something_of_its_own_kind(kind, name):
    path = target(kind, name)
    if kind in ("optimizer", "auxiliary") and path.startswith(FOREIGN):
        return
    assert path.startswith(f"{KINDS[kind].package}.")


@pytest.mark.parametrize(("kind", "name"), [o for o in OPTIONS if o[0] in COMPOSITIONS])
def test_a_composition_builds_nothing_itself(kind, name):
    assert target(kind, name) is None
    assert "_target_" not in (ROOT / "conf" / kind / f"{name}.yaml").read_text()


@pytest.mark.parametrize(("kind", "name"), BUILDING)
def test_the_yaml_holds_every_default_and_the_python_none(kind, name, option):
    """Keys of the yaml == keyword-only parameters; of a foreign constructor they are some of its parameters."""
    pytest.importorskip(target(kind, name).partition(".")[0])
    known, required = parameters(locate(target(kind, name)))
    keys = {key for key in option(kind, name)[kind] if key != "_target_"}
    keys -= {key for key in keys if key.removesuffix(SCHEDULE_SUFFIX) in known and key not in known}
    if target(kind, name).startswith(FOREIGN):
        assert keys <= known.keys()
    else:
        assert keys == required == known.keys()


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if f"{kind.package}.".endswith(f".{name}.")])
def test_every_method_has_an_option_of_its_name(kind):
    """A module of a kind's package is some option's target, and one of the same name; or another module's support."""
    targets = {path.rpartition(".")[0]: name for name in options(kind) if (path := target(kind, name))}
    imported = "\n".join(path.read_text() for path in TREES)
    package = KINDS[kind].package
    for path in (ROOT / package.replace(".", "/")).glob("*.py"):
        module = f"{package}.{path.stem}"
        if module in targets:
            assert target(kind, path.stem).startswith(f"{module}."), (
                f"conf/{kind}/{path.stem}.yaml builds another module"
            )
        elif path.stem != "__init__":
            used = re.search(
                rf"from {re.escape(module)} import|from {re.escape(package)} import .*\b{path.stem}\b", imported
            )
            assert used, f"{module}: neither an option of conf/{kind} nor imported"


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_the_page_of_a_kind_names_every_option(page):
    words = set(re.findall(r"\w+", page.read_text()))
    assert options(page.stem).keys() - words == set()


def test_the_defaults_list_is_the_list_of_kinds():
    """conf/config.yaml chooses an option for each section and each composition, in the order of ramen.config.kinds."""
    lines = yaml.safe_load((ROOT / "conf" / "config.yaml").read_text())["defaults"]
    assert lines.pop(0) == "_self_"
    groups = [next(iter(line)).removeprefix("optional ") for line in lines]
    sections = [kind if section == kind else f"{kind}@{section}" for section, kind in SECTIONS.items()]
    assert [group for group in groups if not group.startswith("override ")] == [*sections, *COMPOSITIONS]


def test_every_folder_of_conf_is_a_kind():
    assert {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()} == {*KINDS, "hydra"}


@pytest.mark.parametrize(("kind", "name"), [o for o in BUILDING if not target(*o).startswith(FOREIGN)])
def test_a_component_takes_the_runtime_arguments_of_its_kind(kind, name):
    """By position, under the same names; the config gives keywords only."""
    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    taken = inspect.signature(locate(target(kind, name), (), kind)).parameters.values()
    assert tuple(p.name for p in taken if p.kind is positional) == KINDS[kind].runtime


def test_a_file_can_be_read_in_one_sitting():
    """At most 350 lines, no function over 60, a docstring that says what it is, and a name that means something."""
    problems = []
    for path, tree in TREES.items():
        lines = len(path.read_text().splitlines())
        problems += [f"{path}: {lines} lines"] if lines > 350 else []
        problems += [] if ast.get_docstring(tree) else [f"{path}: no docstring"]
        problems += [f"{path}: a name that says nothing"] if {path.stem, path.parent.name} & BANNED else []
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        problems += [f"{path}: {f.name} is long" for f in functions if f.end_lineno - f.lineno >= 60]
    assert problems == []


def test_only_the_command_prints_and_nothing_instantiates_by_hydra():
    allowed = {"print": "cli", "instantiate": "nowhere"}
    problems = []
    for path, tree in TREES.items():
        called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
        problems += [
            f"{path} calls {name}" for name, home in allowed.items() if name in called and path.parent.name != home
        ]
    assert problems == []


def test_nothing_in_the_package_imports_a_door():
    doors = {"scripts", "train", "tests"}
    problems = []
    for path, tree in TREES.items():
        names = [alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names]
        names += [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
        problems += [f"{path} imports {name}" for name in names if name.partition(".")[0] in doors]
    assert problems == []


def test_imports_go_down_only():
    """The floors and the other contracts of [tool.importlinter] in pyproject.toml."""
    script = (
        "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True, no_logo=True))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("ramen", ("torch", "hydra", "numpy")),
        ("ramen.cli.train", ("torch", "numpy", "pydantic", "rich")),
        ("ramen.config.check", ("torch", "numpy")),
        ("ramen.report", ("torch", "hydra")),
        ("ramen.build.run", ("wandb", "datasets", "matplotlib", "pandas")),
        ("ramen.inference.load", ("torch._dynamo",)),
    ],
)
def test_a_door_imports_only_what_it_needs(module, heavy):
    """--help and tab completion answer at once; a run does not wait for what it does not use."""
    script = f"import sys, {module}; print(*({{*{heavy!r}}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("path", sorted((ROOT / "scripts").glob("*.py")), ids=lambda path: path.stem)
def test_a_script_is_a_thin_door(path):
    """Imported without side effects, and short: the work is in the package."""
    spec = importlib.util.spec_from_file_location(f"scripts_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert callable(module.main) and module.__doc__
    assert len(path.read_text().splitlines()) <= 15 or path.stem == "soak"  # which is no command of a user

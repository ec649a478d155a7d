"""The W&B workspace: what its panels ask for is what the logger really logs, through the real client, offline."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ramen.cli.dashboard import workspace
from ramen.cli.main import main
from ramen.config.check import flatten
from ramen.errors import ConfigError

pytest.importorskip("wandb_workspaces")
ROOT = Path(__file__).resolve().parents[2]

COMPUTED = {"_step"}  # W&B's own


@pytest.fixture(scope="module")
def sweep(train_small: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two optimizers, trained offline as jobs of one sweep."""
    folder = tmp_path_factory.mktemp("outputs") / "my_sweep"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_SILENT", "true")
        for job, name in enumerate(("muon", "adamw")):
            overrides = (f"optimizer={name}", "logger=wandb", "logger.mode=offline", "trainer.steps=3")
            train_small(folder / f"{job}-{name}", *overrides, job=job)
    return folder


@pytest.fixture(scope="module")
def spec(sweep: Path) -> dict[str, Any]:
    return workspace([sweep])[0]._spec


@pytest.fixture(scope="module")
def logged(sweep: Path, read_offline: Callable[[Path], dict[str, Any]]) -> list[dict[str, Any]]:
    return [read_offline(path) for path in sorted(sweep.glob("*/wandb/offline-run-*/*.wandb"))]


def panels(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for section in spec["spec"]["section"]["panelBankConfig"]["sections"]:
        yield from section["panels"]


def asked(spec: dict[str, Any]) -> tuple[set[str], set[str], set[str]]:
    """Keys of the history, of the summary and of the config that panels and run table refer to."""
    history, summary, config = set(), set(), set()
    runs = spec["spec"]["section"]["runSets"][0]
    accessors = [*runs["runFeed"]["columnOrder"]]
    accessors += [
        f"{key['section']}:{key['name']}" for key in (*runs["grouping"], *(s["key"] for s in runs["sort"]["keys"]))
    ]
    for panel in panels(spec):
        settings = panel["config"]
        if panel["viewType"] == "Run History Line Plot":
            history |= {settings["xAxis"], *settings["metrics"]}
        elif panel["viewType"] == "Bar Chart":
            summary |= {*settings["metrics"]}
        elif panel["viewType"] == "Scatter Plot":
            accessors += [settings["xAxis"], settings["yAxis"]]
        else:
            accessors += [column["accessor"] for column in settings["columns"]]
        if settings.get("groupBy"):
            accessors.append(f"config:{settings['groupBy']}")
    for accessor in accessors:
        kind, _, name = accessor.partition(":")
        if kind != "run":
            (summary if kind == "summary" else config).add(name)
    return history, summary, config


def test_every_key_of_every_panel_is_logged(spec: dict[str, Any], logged: list[dict[str, Any]]) -> None:
    history, summary, config = asked(spec)
    assert {"val_loss", "tokens", "seconds"} <= history
    assert {"final_val_loss", "tokens_per_second"} <= summary
    assert {"choice.value.optimizer", "optimizer.value.lr"} <= config
    for one in logged:
        assert history - COMPUTED <= {key for line in one["history"] for key in line}
        assert summary <= set(one["summary"])
        assert config <= set(flatten({key: {"value": value} for key, value in one["config"].items()}))


def test_an_offline_run_is_complete(logged: list[dict[str, Any]], sweep: Path) -> None:
    for one, name in zip(logged, ("muon", "adamw"), strict=True):
        folder = next(sweep.glob(f"*-{name}"))
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        summary = json.loads((folder / "summary.json").read_text())
        assert one["exit_code"] == 0
        assert one["group"] == f"{sweep.parent.name}/{sweep.name}"
        assert one["name"] == folder.name
        assert {f"optimizer={name}", "mlp=default"} <= set(one["tags"])
        assert one["config"]["facts"]["config_hash"] == summary["config_hash"]
        assert [line["train_loss"] for line in one["history"]] == [line["train_loss"] for line in lines]
        assert [line["_step"] for line in one["history"]] == [line["step"] for line in lines]
        for key in ("final_val_loss", "best_val_loss", "final_val_bits_per_byte", "config_hash", "status"):
            assert one["summary"][key] == summary[key]
        assert one["metrics"]["*"] == "step"


def test_wandb_sync_finds_the_runs(sweep: Path) -> None:
    """As docs/wandb.md says it, up to where the network begins."""
    folders = sorted(map(str, sweep.glob("*/wandb/offline-run-*")))
    command = [sys.executable, "-m", "wandb", "sync", "--dry-run", *folders]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "Would sync 2 run(s)" in done.stdout + done.stderr


def test_the_run_table_is_the_sweep_grouped_best_first(spec: dict[str, Any], sweep: Path) -> None:
    runs = spec["spec"]["section"]["runSets"][0]
    (only,) = runs["filters"]["filters"]
    assert (only["key"], only["value"]) == ({"section": "run", "name": "group"}, [f"{sweep.parent.name}/{sweep.name}"])
    assert [key["name"] for key in runs["grouping"]] == ["choice.value.optimizer"]
    assert runs["sort"]["keys"] == [{"key": {"section": "summary", "name": "final_val_loss"}, "ascending": True}]


def test_learning_rates_are_never_averaged_over(sweep: Path) -> None:
    """Runs of one method at several rates are drawn apart: their mean is no result."""
    by_mlp = workspace([sweep], ["mlp"])[0]._spec
    grouping = by_mlp["spec"]["section"]["runSets"][0]["grouping"]
    assert [key["name"] for key in grouping][:2] == ["choice.value.mlp", "optimizer.value.lr"]
    lines = [panel["config"] for panel in panels(by_mlp) if panel["viewType"] == "Run History Line Plot"]
    assert all("groupBy" not in line for line in lines)  # they follow the run table
    assert by_mlp["spec"]["section"]["settings"]["useRunsTableGroupingInPanels"]


def test_the_script_prints_the_workspace(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboard", str(sweep), "--dry-run", "--entity", "me", "--project", "mine"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert (output["entity"], output["project"]) == ("me", "mine")


def test_a_run_that_cannot_be_read_is_named_and_costs_no_dashboard(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text("a: [")
    (tmp_path / "metrics.jsonl").touch()
    assert main(["dashboard", str(sweep), str(tmp_path), "--dry-run"]) == 0
    output = capsys.readouterr()
    assert str(tmp_path) in output.err
    assert main(["dashboard", str(sweep), "--dry-run"]) == 0
    assert json.loads(output.out).keys() == json.loads(capsys.readouterr().out).keys()


def test_a_sweep_at_work_is_found_as_at_its_end(sweep: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(sweep, tmp_path / "outputs" / "copy")
    for summary in copy.glob("*/summary.json"):
        summary.unlink()
    [only] = workspace([copy])[0]._spec["spec"]["section"]["runSets"][0]["filters"]["filters"]
    assert only["value"] == ["outputs/copy"]


def test_runs_without_wandb_are_told(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboard", str(trained), "--dry-run"]) == 2
    assert "none with logger=wandb" in capsys.readouterr().err


@pytest.mark.parametrize("login", [False, ConnectionError("planted"), ValueError("key refused\nand more")])
def test_without_login_or_network_one_line_says_so(
    sweep: Path, login: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    def answer(**how: Any) -> bool:
        if isinstance(login, Exception):
            raise login
        return login

    monkeypatch.setattr(wandb, "login", answer)
    assert main(["dashboard", str(sweep)]) == 2
    output = capsys.readouterr().err.splitlines()
    assert len(output) == 1
    assert output[0].startswith("dashboard: ")
    assert "wandb login" in output[0]


def test_what_is_sent_is_the_workspace_to_the_default_entity(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the library's own save, with W&B's server planted behind its client."""
    import wandb

    sent: list[dict[str, Any]] = []

    class Service:
        app_url = "https://planted"

        def execute_graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
            sent.append(variables)
            return {"upsertView": {"view": {"id": "1", "name": variables["name"]}}}

    class Api:
        default_entity = "me"

        def __init__(self, **how: Any):
            self._service_api = Service()

    monkeypatch.setattr(wandb, "login", lambda **how: True)
    monkeypatch.setattr(wandb, "Api", Api)
    assert main(["dashboard", str(sweep), "--project", "mine"]) == 0
    assert capsys.readouterr().out.startswith("https://planted/me/mine?nw=")
    (view,) = sent
    assert (view["entityName"], view["projectName"], view["type"]) == ("me", "mine", "project-view")
    names = [section["name"] for section in json.loads(view["spec"])["section"]["panelBankConfig"]["sections"]]
    assert names == ["Which is better", "Is each tuned", "How it trained", "What it costs"]


def test_without_the_library_the_extra_is_named(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    with pytest.raises(ConfigError, match=r"pip install -e .*dashboard"):
        workspace([sweep])

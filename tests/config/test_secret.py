"""A secret is refused before it is saved anywhere, and taken out of what is quoted; nothing else is mistaken for one."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ramen.build import run as runner
from ramen.config import secret
from ramen.config.check import check, flatten
from ramen.config.registry import CONF
from ramen.errors import ConfigError
from ramen.runs.code import describe_commit

Ramen = Callable[..., subprocess.CompletedProcess[str]]
HF, GITHUB, OPENAI = "hf_" + "aB3" * 11 + "z", "ghp_" + "a1" * 18, "sk-proj-" + "Ab1" * 10
SECRETS = [
    ("data.token", "anything"),
    ("logger.api_key", "0123"),
    ("logger.WANDB_API_KEY", "0123"),
    ("data.hf-token", "x"),
    ("password", "x"),
    ("data.db_pass", "x"),
    ("data.headers", "Bearer 0123abcd4567"),
    ("data.dataset", HF),
    ("logger.project", f"x{GITHUB[:0]} {GITHUB}"),
    ("logger.tags", ["a", OPENAI]),
    ("data.files", "https://me:hunter2@host/file.txt"),
    ("name", "AKIA" + "ABCD1234" * 2),
]
INNOCENT = [
    ("trainer.tokens", 5_000_000),
    ("trainer.batch_tokens", 4096),
    ("data.tokenizer", "gpt2"),
    ("data.token", None),
    ("data.revision", "0123456789abcdef" * 2 + "01234567"),
    ("attention.key_offset", True),
    ("data.files", "https://host:8080/file.txt"),
    ("attention.per_token", True),
    ("data.mask_token", 3),
    ("data.mask_token", "<mask>"),
    ("trainer.first_pass", "short"),
    ("data.files", ["hf://datasets/owner/name@main/x.parquet", "/a b/c@d"]),
]


@pytest.mark.parametrize(("key", "value"), SECRETS, ids=lambda value: str(value)[:20])
def test_a_secret_is_told_without_being_shown(key: str, value: Any) -> None:
    (problem,) = secret.problems([(key, value)])
    assert problem.startswith(f"{key}: looks like a secret") and "HF_TOKEN" in problem
    assert str(value) not in problem.removeprefix(key) or len(str(value)) < 5


@pytest.mark.parametrize(("key", "value"), INNOCENT, ids=lambda value: str(value)[:20])
def test_what_is_no_secret_is_let_through(key: str, value: Any) -> None:
    assert secret.problems([(key, value)]) == []


def test_the_value_of_a_secret_environment_variable_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SERVICE_TOKEN", "quiet-w0rd")
    (problem,) = secret.problems([("name", "a-quiet-w0rd-b")])
    assert problem.startswith("name: holds the value of the environment variable SOME_SERVICE_TOKEN")
    assert secret.scrub("said quiet-w0rd twice: quiet-w0rd") == f"said {secret.REMOVED} twice: {secret.REMOVED}"
    for word in ("no", "constant", "shakespeare"):  # in too many values of a config to tell
        monkeypatch.setenv("SOME_SERVICE_TOKEN", word)
        assert not secret.problems([("schedule._target_", f"ramen.{word}.{word}")])


def test_no_key_of_any_option_is_named_like_a_secret() -> None:
    files = list(CONF.glob("**/*.yaml"))
    keys = [key for path in files for key in flatten(yaml.safe_load(path.read_text()))]
    assert len(keys) > len(files) > 50
    assert [key for key in keys if secret.NAME.search(key)] == []


HEX, BODY = "da39a3ee5e6b4b0d3255bfef95601890afd80709", "MIIEpAIBAAKCAQEA1c7zXv"
HIDDEN = [
    f"+token: {'aZ09' * 5}",
    '+API_KEY = "0123456789abcdef"',
    "+url = https://me:pass@host/x",
    f"+key = {HF}",
    f"+Authorization: Bearer {HEX[:24]}",
    f'+headers = {{"Authorization": "bearer {HEX[:24]}"}}',
    f"+key = '{HEX}'",
    f"+WANDB = {HEX}",
    f'+PASSWORD: str = "{BODY}"',
    f"+db_pass = '{BODY}'",
    f"+db_pass: {BODY}",
    f"-export ADMIN_PASSWORD={BODY}",
    f"+{BODY * 3}",  # the middle of a key file
    f"+-----BEGIN RSA PRIVATE KEY-----\n+{BODY}\n+aBc\n+-----END RSA PRIVATE KEY-----",
    f"+-----BEGIN OPENSSH PRIVATE KEY-----\n+{BODY}\n+aBc",  # cut short
]
SHOWN = [
    "    token = self.tokenizer.encode(text)",
    "+tokens = 4096",
    "+mask_token: 3",
    "+lr: 0.02",
    '+api_key = os.environ["API_KEY"]',
    "+password = getpass()",
    f"index {HEX}..{HEX[::-1]} 100644",
    "+from ramen.training.gradient_accumulator import GradientAccumulator  # 2 of 3",
]


@pytest.mark.parametrize("line", HIDDEN)
def test_a_diff_loses_its_secrets(line: str) -> None:
    result = secret.scrub_code(f"diff --git a/x b/x\n{line}\ndiff --git a/y b/y\n+y = 3\n")
    assert secret.REMOVED in result and result.endswith("diff --git a/y b/y\n+y = 3\n")
    for hidden in ("aZ09aZ09", "0123456789abcdef", "me:pass", HF, HEX[:24], BODY, "aBc"):
        assert hidden not in result
    assert secret.scrub_code(result) == result


@pytest.mark.parametrize("line", SHOWN)
def test_a_diff_keeps_what_is_no_secret(line: str) -> None:
    assert secret.scrub_code(line) == line


def test_a_config_with_a_secret_is_refused(compose: Callable[..., dict[str, Any]]) -> None:
    config = compose("logger=wandb")
    config["logger"]["tags"] = [HF]
    with pytest.raises(ConfigError, match=r"logger\.tags: looks like a secret") as refused:
        check(config)
    assert HF not in str(refused.value)


def test_no_file_of_a_run_shows_the_environment(
    train_small: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "quiet-word-of-the-environment")
    monkeypatch.setattr("ramen.runs.code.subprocess.run", planted_diff)
    monkeypatch.setattr(runner, "describe_commit", describe_commit.__wrapped__)  # which reads the diff once a process
    train_small(tmp_path, "trainer.steps=1")
    written = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert b"+import planted" in written["environment.json"]
    for name, content in written.items():
        assert b"quiet-word" not in content and HF.encode() not in content, name


def planted_diff(arguments: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    diff = f"+import planted\n+key = quiet-word-of-the-environment\n+other = {HF}\n"
    return subprocess.CompletedProcess([], 0, diff if "diff" in arguments else "0123", "")


def test_a_secret_in_a_file_of_config_is_refused_before_hydra_saves_it(ramen: Ramen, tmp_path: Path) -> None:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(f"# @package _global_\nlogger:\n  tags: [{HF}]\n")
    overrides = ["--config-dir", str(tmp_path / "conf"), "logger=wandb", "experiment=mine"]
    done = ramen(*overrides, f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path)
    assert (done.returncode, HF in done.stderr + done.stdout) == (2, False), done.stderr
    assert "logger.tags: looks like a secret" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_command_with_a_secret_leaves_nothing_on_disk(ramen: Ramen, tmp_path: Path) -> None:
    for overrides in ([f"data.token={HF}"], ["-m", f"+data.token={HF},b"], [f"name={HF}"]):
        done = ramen(*overrides, cwd=tmp_path)
        assert (done.returncode, HF in done.stderr + done.stdout) == (2, False)
        assert "looks like a secret" in done.stderr
    assert list(tmp_path.iterdir()) == []

"""A service that raises or hangs: told once, then left alone; training waits for nothing but start and finish, and not for ever."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ramen.logger import none
from ramen.logger.base import MOST_WAITING, Guarded, Logger

METHODS = ("start", "record", "diagnose", "finish")


class Faulty(Logger):
    """Does `fault` in one method and notes what the others get."""

    def __init__(self, method: str, fault: Callable[[], Any]):
        self.method, self.fault = method, fault
        self.calls: list[str] = []

    def _called(self, method: str) -> None:
        self.calls.append(method)
        if method == self.method:
            self.fault()

    def start(self, *arguments: Any) -> None:
        self._called("start")

    def record(self, line: dict[str, Any]) -> None:
        self._called("record")

    def diagnose(self, line: dict[str, Any]) -> None:
        self._called("diagnose")

    def finish(self, summary: dict[str, Any]) -> None:
        self._called("finish")


@pytest.fixture
def hang() -> Iterator[Callable[[], Any]]:
    """Waits until the test is over."""
    over = threading.Event()
    yield over.wait
    over.set()


def use(logger: Logger) -> None:
    logger.start(Path(), {}, {})
    logger.record({"step": 1})
    logger.diagnose({"step": 1})
    logger.record({"step": 2})
    logger.finish({})


def raises(error: BaseException) -> Callable[[], None]:
    def fault() -> None:
        raise error

    return fault


def test_a_sound_logger_is_told_everything_in_order() -> None:
    sound = Faulty("none", lambda: None)
    use(Guarded(sound))
    assert sound.calls == ["start", "record", "diagnose", "record", "finish"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "error", [ConnectionError("planted"), SystemExit(3), KeyboardInterrupt()], ids=lambda e: type(e).__name__
)
def test_what_it_raises_is_told_once(method: str, error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    faulty = Faulty(method, raises(error))
    use(Guarded(faulty))
    (warning,) = [record.getMessage() for record in caplog.records]
    assert f"Faulty failed in {method}: {type(error).__name__}" in warning and "training goes on" in warning
    assert faulty.calls[-1] == method  # nothing after it


@pytest.mark.parametrize("method", METHODS)
def test_that_it_hangs_is_told_once(method: str, hang: Callable[[], Any], caplog: pytest.LogCaptureFixture) -> None:
    faulty = Faulty(method, hang)
    use(Guarded(faulty, patience_seconds=0.05))
    (warning,) = [record.getMessage() for record in caplog.records]
    assert f"Faulty hangs in {method}" in warning and "training goes on" in warning
    assert faulty.calls[-1] == method


def test_records_of_a_service_that_hangs_do_not_pile_up(
    hang: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    guarded = Guarded(Faulty("record", hang), patience_seconds=0.05)
    guarded.start(Path(), {}, {})
    for step in range(2 * MOST_WAITING):  # a caller that never waits finds out by itself
        guarded.record({"step": step})
    assert guarded.off
    assert len(caplog.records) == 1


@pytest.mark.parametrize("method", ["start", "record", "finish"])
def test_a_run_ends_as_if_the_service_were_not_there(
    train_small: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hang: Callable[[], Any],
    method: str, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr("ramen.logger.base.PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(Logger, "remedy", lambda self: "later: planted")
    monkeypatch.setattr("ramen.build.run.NoLogger", type("Another", (), {}))  # so that the planted one is guarded

    def called(*arguments: Any) -> None:
        hang()

    called.__name__ = method
    monkeypatch.setattr(none.NoLogger, method, called)
    summary = train_small(tmp_path, "trainer.steps=2")
    assert (summary["status"], summary["steps"]) == ("finished", 2)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    assert f"NoLogger hangs in {method}; training goes on without it. later: planted" in caplog.text

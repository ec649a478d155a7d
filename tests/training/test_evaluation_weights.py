"""Methods that evaluate other weights than they train: each weight is used where it belongs, and runs resume bitwise."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ramen.errors import ConfigError
from ramen.runs import checkpoint
from ramen.training.loss import evaluate

pytest.importorskip("pytorch_optimizer")
METHODS = ["ScheduleFreeAdamW", "SPlus"]


def overrides(method: str) -> tuple[str, ...]:
    return "optimizer=lion", f"optimizer._target_=pytorch_optimizer.{method}", "trainer.steps=4"


@pytest.mark.parametrize("method", METHODS)
def test_what_is_saved_is_what_was_evaluated(make_trainer: Any, tmp_path: Path, method: str) -> None:
    trainer, other = make_trainer("run", *overrides(method)), make_trainer("other", *overrides(method))
    trainer.train()
    path = checkpoint.latest(tmp_path / "run")
    checkpoint.load_weights(path, other.model)
    validation, rows = other.validation, other.config.micro_rows
    other.model.eval()
    loss = evaluate(other.loss, validation.tokens, validation.targets, rows, torch.float32, torch.device("cpu"))
    assert loss == trainer.progress.val_loss
    training = checkpoint.load_state(path)["weights_to_train"]
    assert all(torch.equal(p, weight) for p, weight in zip(trainer.parameters, training, strict=True))
    assert any(not torch.equal(p, weight) for p, weight in zip(other.parameters, training, strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_neither_evaluations_nor_a_resume_change_the_run(make_trainer: Any, tmp_path: Path, method: str) -> None:
    whole = make_trainer("whole", *overrides(method))
    often = make_trainer("parts", *overrides(method), "trainer.evaluate_every_steps=1", "trainer.stop_after_steps=3")
    resumed = make_trainer("parts", *overrides(method))
    whole.train(), often.train()
    resumed.resume(checkpoint.latest(tmp_path / "parts"))
    resumed.train()
    assert resumed.progress.step == 4 and resumed.progress.val_loss == whole.progress.val_loss
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters, resumed.parameters, strict=True))


FORGETFUL = """
import torch

class Forgetful(torch.optim.SGD):
    count = 0

    def step(self, closure=None):
        self.count += 1
        for group in self.param_groups:
            for p in group["params"]:
                p.data.add_(p.grad, alpha=-1.0 / self.count)


class Closing(torch.optim.SGD):
    def step(self, closure):
        return closure()
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Forgetful", "^optimizer: continues differently after its state was saved and loaded"),
        ("Closing", "^optimizer: a trial of its steps and of its state failed: TypeError: .*closure"),
    ],
)
def test_a_method_that_cannot_be_resumed_is_refused(
    compose: Callable[..., dict[str, Any]],
    dry: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    message: str,
) -> None:
    (tmp_path / "my_methods.py").write_text(FORGETFUL)
    monkeypatch.syspath_prepend(tmp_path)
    config = compose("allow_targets=[my_methods]")
    config["optimizer"] = {"_target_": f"my_methods.{name}", "lr": 0.1}
    with pytest.raises(ConfigError, match=message):
        dry(config)

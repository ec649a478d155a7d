"""The training loop: batches -> loss -> gradients -> optimizers, with records, evaluations and checkpoints in between.

The device is read back only when a record is due.
"""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ramen import device as machine
from ramen.data.batches import Batch, Batches
from ramen.errors import ConfigError, DataError
from ramen.logger.base import Logger
from ramen.optimizer.optimizers import Optimizers
from ramen.runs import checkpoint
from ramen.runs.schema import MetricsRecord
from ramen.training.compilation import CompileMode, loss_function, raise_compile_errors
from ramen.training.config import Progress, Status, TrainerConfig
from ramen.training.device_loader import DeviceLoader
from ramen.training.diagnostics import Diagnostics
from ramen.training.loss import GradientAccumulator, NonFiniteGuard, bits_per_byte, broken_weights, evaluate
from ramen.training.phases import RunPhases, RunSchedules
from ramen.training.profiling import profiler
from ramen.training.stop import catch_stop_signals

log = logging.getLogger("ramen")
FEW_STEPS, UNSETTLED = 50, 1.0  # before so many steps, a loss that has risen by so many nats may yet fall
Ending = tuple[Status, str | None]  # and the reason


@dataclass(kw_only=True, eq=False)
class Trainer:
    """Trains a model to the end of its budget; ramen.build fills it. `clock` gives seconds."""

    config: TrainerConfig
    model: Any  # a ramen.nn.gpt.GPT
    optimizers: Optimizers
    schedules: RunSchedules
    batches: Batches
    validation: Batch
    bytes_per_token: float
    device: torch.device
    memory: machine.PeakMemory
    precision: torch.dtype
    compile: CompileMode
    matrix_flops: float  # training FLOPs a token without attention
    folder: Path
    identity: dict[str, Any]  # config keys and hashes that a checkpoint must share to be resumed
    logger: Logger
    diagnostics: Diagnostics | None
    clock: Callable[[], float] = time.perf_counter

    def __post_init__(self) -> None:
        config, device = self.config, self.device
        self.budget, self.progress = config.budget, Progress()
        self.saved_step: int | None = None
        self.step_seconds = 0.0  # about those of the first step, where the budget is one of seconds
        self.loss_sum = torch.zeros((), device=device)  # since the last record
        self.guard = NonFiniteGuard(config.nonfinite, device)
        self.phases = RunPhases(self.model, self.optimizers, self.schedules, config)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.loss = loss_function(self.model, self.compile, config.activation_checkpointing)
        self.gradients = GradientAccumulator(self.loss, config.micro_rows, self.precision, device)
        self.loader = DeviceLoader(self.batches, device, config.prefetch_batches)

    def fit(self, reserved: int) -> int:
        """Settle trainer.micro_batch_tokens=auto on CUDA: halve it until it fits, `reserved` bytes apart; returns it."""
        while True:
            state = None  # gives back what was reserved for a try that failed
            torch.cuda.empty_cache()
            rows = self.config.micro_rows
            try:
                state = torch.empty(reserved, dtype=torch.uint8, device=self.device)  # as the optimizers' will be
                with raise_compile_errors():
                    self._try(rows)
                del state
                return rows * self.config.sequence_length
            except torch.OutOfMemoryError as error:
                if rows == 1:
                    reason = str(error).partition("\n")[0]
                    raise ConfigError(
                        f"trainer.micro_batch_tokens: auto finds no room for a single row, got {reason}"
                    ) from error
            log.info("micro-batches of %d rows do not fit, trying half of it", rows)
            self.config = self.config.with_micro_rows((rows + 1) // 2)
            self.gradients.micro_rows = self.config.micro_rows

    def warm_up(self) -> None:
        """Compile and record before the clock starts, for every phase of the run and for evaluation in it; changes no weight."""
        p, started = self.progress, self.clock()
        if self.compile != "off" or self.config.cuda_graphs:
            with raise_compile_errors():
                for rows in self.phases.all_phases(self.budget.behind(p)):
                    for size in self.gradients.sizes(rows):
                        self._try(size)
                    self._evaluate(self.config.micro_rows)
            p.compile_seconds += self.clock() - started
        if self.budget.seconds is not None and p.step == 0:
            started = self.clock()
            self._try(self.config.micro_rows)
            micro_batches = math.ceil(self.config.rows(self.schedules.batch(0.0)) / self.config.micro_rows)
            self.step_seconds = (self.clock() - started) * micro_batches

    def _try(self, rows: int) -> None:
        """Differentiate rows of nothing, and drop the gradients."""
        tokens = torch.zeros((rows, self.config.sequence_length), dtype=torch.long, device=self.device)
        try:
            # Were targets the same tensor, a graph would rely on it.
            self.gradients.micro_batch(tokens, tokens.clone(), tokens.numel())
            self._synchronize()
        finally:
            self.model.zero_grad()

    def train(self) -> Ending:
        """Run to the end of the budget, a divergence, `stop_after_steps` or a signal; returns the status and its reason."""
        self.warm_up()
        p, ending = self.progress, None
        profiling = profiler(self.folder, self.config.profile_steps)
        with catch_stop_signals() as signals, contextlib.closing(self.loader), profiling as profile:
            while ending is None and self.budget.behind(p) < 1:
                started = self.clock()
                figures = self._step()
                reads_clock = self._due(self.config.record_every_steps, self.config.evaluate_every_steps)
                if reads_clock or self.budget.seconds is not None:
                    self._synchronize()
                p.seconds += self.clock() - started
                if profile:
                    profile.step()
                self.logger.advance(self.budget.middle(p, 0))
                ending = self._after(figures, signals[-1] if signals else None)
            status, reason = ending or self._finished()
            wanted = status == "stopped" or (status == "finished" and self.config.checkpoint_at_end)
            if wanted and self.saved_step != p.step:
                self.save()
        return status, reason

    def _step(self) -> dict[str, Any]:
        """Train on one batch; returns what only the step knows of its record, the norm still on the device."""
        p = self.progress
        # A phase follows from what was trained, every other schedule is read in the middle of the step.
        rows, figures = self.phases.start_phase(self.budget.behind(p))
        batch_tokens = rows * self.config.sequence_length
        middle = self.budget.middle(p, batch_tokens, self.step_seconds)
        values = self.optimizers.schedule(middle, self.schedules.lr(middle) * self.config.lr_factor(rows)) | figures
        if self.model.mtp_weights:
            values["mtp_share"] = self.schedules.mtp_share(middle)
            self.model.set_mtp_share(values["mtp_share"])
        batch = self.loader.take(rows)
        loss = self.gradients(batch)
        self.phases.freeze_scalars()
        bound = math.inf if self.config.grad_clip is None else self.config.grad_clip
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, bound)
        p.step += 1
        p.tokens += batch_tokens
        p.flops += batch_tokens * (self.matrix_flops + self.model.attention_flops())
        if self.diagnostics:
            self.diagnostics.before(p.step)
        if self.guard.should_step(p.step, loss, norm):
            self.loss_sum += loss
            p.counted += batch.counted
            if p.first_loss is None:
                p.first_loss = loss.item() / batch.counted
            self.optimizers.step()
            self.model.after_step()
        else:
            p.skipped_steps += 1
        if self.diagnostics:
            seconds = self.diagnostics.after(p.step)  # not training's: a budget of seconds must not see them
            p.seconds, p.evaluation_seconds = p.seconds - seconds, p.evaluation_seconds + seconds
        self.model.zero_grad()
        return {"grad_norm": norm, "batch_tokens": batch_tokens, "hyperparameters": values}

    def _after(self, figures: dict[str, Any], signal: str | None) -> Ending | None:
        """Record, evaluate and save what is due between two steps; returns how the run ends if it ends here, before its budget."""
        p, config, last = self.progress, self.config, self.budget.behind(self.progress) >= 1
        evaluated = last or self._due(config.evaluate_every_steps)
        best = evaluated and self._validate()
        if evaluated or self._due(config.record_every_steps) or p.skipped_steps > config.most_skipped_steps:
            self._record(figures, p.val_loss if evaluated else None)
            if problem := self._divergence():
                return "diverged", problem
        reached = config.stop_after_steps is not None and p.step >= config.stop_after_steps
        save = self._due(config.checkpoint_every_steps) or (best and config.keep_best)
        if save or signal or reached or last:
            problem = self.guard.problem() or broken_weights(self.model)
            if problem:
                return "diverged", f"{problem}, seen at step {p.step}"
        if save:
            self.save()
        if (signal or reached) and not last:
            return "stopped", signal or f"trainer.stop_after_steps={config.stop_after_steps}"
        return None

    def _divergence(self) -> str | None:
        p, most = self.progress, self.config.most_skipped_steps
        if p.skipped_steps > most:
            return (
                f"loss or gradient norm was not finite in {p.skipped_steps} steps, the last of them step {p.step}; "
                f"allowed are trainer.most_skipped_steps={most}"
            )
        if problem := self.guard.problem():
            return f"{problem}: training loss {p.train_loss} at step {p.step}"
        if not math.isfinite(p.val_loss or 0.0):
            return f"validation loss {p.val_loss} at step {p.step}"
        return None

    def _finished(self) -> Ending:
        p = self.progress
        if p.evaluated_step != p.step:  # a checkpoint that is at the end of its budget already
            self._validate()
        room = UNSETTLED if p.step < FEW_STEPS else 0.0
        if p.val_loss is not None and p.first_loss is not None and not p.val_loss <= p.first_loss + room:
            return "diverged", f"validation loss {p.val_loss:.4f} is above the first training loss {p.first_loss:.4f}"
        return "finished", None

    def _record(self, figures: dict[str, Any], val_loss: float | None) -> None:
        p = self.progress
        p.train_loss = self.loss_sum.item() / p.counted if p.counted else None  # None: every step was skipped
        seconds, peak = p.seconds - p.recorded_seconds, machine.peak_rate(self.device)
        record = MetricsRecord(
            step=p.step,
            tokens=p.tokens,
            epoch=self.loader.epoch,
            seconds=p.seconds,
            train_loss=p.train_loss,
            val_loss=val_loss,
            val_bits_per_byte=None if val_loss is None else bits_per_byte(val_loss, self.bytes_per_token),
            skipped_steps=p.skipped_steps,
            tokens_per_second=(p.tokens - p.recorded_tokens) / seconds if seconds > 0 else 0.0,
            mfu=None if peak is None else (p.flops - p.recorded_flops) / seconds / peak if seconds > 0 else 0.0,
            peak_memory=self.memory.bytes(),
            **figures | {"grad_norm": figures["grad_norm"].item()},
        )
        self.logger.record(record.as_line())
        self.loss_sum.zero_()
        p.records += 1
        p.counted, p.recorded_tokens, p.recorded_flops, p.recorded_seconds = 0, p.tokens, p.flops, p.seconds

    def _validate(self) -> bool:
        """Evaluate the weights of this step; returns True if they are the best so far."""
        p, started, best_before = self.progress, self.clock(), self.progress.best_val_loss
        with self._evaluation_weights():
            p.val_loss, p.evaluated_step = self._evaluate(), p.step
        p.evaluation_seconds += self.clock() - started
        p.best_val_loss = min(best_before, p.val_loss)
        return p.val_loss < best_before

    def _evaluate(self, rows: int | None = None) -> float:
        """Validation loss, of the first `rows` alone if given."""
        micro_rows = self.config.micro_rows
        tokens, targets = self.validation.tokens[:rows], self.validation.targets[:rows]
        self.model.eval()
        loss = evaluate(self.loss, tokens, targets, micro_rows, self.precision, self.device)
        self.model.train()
        return loss

    @contextlib.contextmanager
    def _evaluation_weights(self) -> Iterator[list[Tensor]]:
        """Within, parameters are as the optimizers evaluate them; yields the weights to train, if those differ."""
        switching = self.optimizers.switching
        if not switching:
            yield []
            return
        with torch.no_grad():
            weights = [p.detach().clone() for p in self.parameters]
            for optimizer in switching:
                optimizer.eval()
            self.model.after_step()
            try:
                yield weights
            finally:
                for optimizer in switching:
                    optimizer.train()
                for p, weight in zip(self.parameters, weights, strict=True):  # bit for bit
                    p.copy_(weight)

    def _due(self, *intervals: int | None) -> bool:
        return any(every is not None and self.progress.step % every == 0 for every in intervals)

    def _synchronize(self) -> None:
        """Let the clock see the device's work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def save(self) -> Path:
        """Write a checkpoint of this step, with the weights to evaluate as its model; returns its folder."""
        p, config = self.progress, self.config
        state: dict[str, Any] = {
            "identity": self.identity,
            "progress": vars(p),
            "budget": vars(self.budget),
            "loss_sum": self.loss_sum.item(),
            "optimizers": self.optimizers.state_dict(),
            "batches": self.loader.state_dict(),
            "phases": self.phases.state_dict(),
            "diagnostics": self.diagnostics.state_dict() if self.diagnostics else {},
        }
        self.saved_step = p.step
        with self._evaluation_weights() as state["weights_to_train"]:
            return checkpoint.save(
                self.folder, p.step, self.model, state, keep=config.keep_checkpoints, keep_best=config.keep_best,
                val_loss=p.val_loss if p.evaluated_step == p.step else None,
            )  # fmt: skip

    def resume(self, path: Path) -> None:
        """Continue from a checkpoint. ConfigError tells what differs from its computation, or which budget it has passed."""
        state = checkpoint.load_state(path)
        before, now = state.get("identity"), self.identity
        if not isinstance(before, dict):
            raise DataError(f"{path}: is not the checkpoint of a run")
        pairs = [(key, before.get(key, "nothing"), now.get(key, "nothing")) for key in sorted({*before, *now}, key=str)]
        differs = [f"{key}: was {a!r} in {path}, got {b!r}; a resumed run keeps it" for key, a, b in pairs if a != b]
        if differs:
            raise ConfigError(*differs)
        checkpoint.load_weights(path, self.model)
        try:
            self._load(state)
            passed = self.budget.passed(self.progress, state.get("budget", {}), path)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise DataError(f"{path}: is not a state of this run: {type(error).__name__}: {error}") from error
        if passed:
            raise ConfigError(*passed)

    def _load(self, state: dict[str, Any]) -> None:
        self.optimizers.load_state_dict(state["optimizers"])
        with torch.no_grad():
            for p, weight in zip(self.parameters, state["weights_to_train"] or self.parameters, strict=True):
                p.copy_(weight)
        self.loader.load_state_dict(state["batches"])
        self.phases.load_state_dict(state["phases"])
        vars(self.progress).update(state["progress"])
        if self.diagnostics:
            self.diagnostics.load_state_dict(state.get("diagnostics", {}))
        self.loss_sum.fill_(state["loss_sum"])
        self.saved_step = self.progress.step

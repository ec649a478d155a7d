"""The training loop: batches -> loss -> gradients -> optimizers, with records, evaluations and checkpoints in between.

A step's batch is cut into micro-batches whose losses are summed and divided by the counted targets of the whole batch, so the
result does not depend on the cut. The device is read back only when a record is due.
"""

import contextlib
import math
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ramen import device as machine
from ramen.errors import ConfigError, DataError
from ramen.runs import checkpoint
from ramen.runs.schema import MetricsRecord
from ramen.training.compilation import forward, raise_compile_errors
from ramen.training.config import TrainerConfig
from ramen.training.device_loader import DeviceLoader
from ramen.training.evaluate import bits_per_byte, evaluate
from ramen.training.gradient_accumulator import GradientAccumulator
from ramen.training.micro_batch import tried_rows
from ramen.training.nonfinite import NonFiniteGuard, broken_weights
from ramen.training.phases import RunPhases
from ramen.training.profiling import profiler
from ramen.training.setup import Progress, Status, TrainingSetup
from ramen.training.stop import StopSignal

FEW_STEPS, UNSETTLED = 50, 1.0  # before so many steps, a loss that has risen by so many nats may yet fall


class Trainer:
    """Trains a job as planned, to the end of its budget."""

    def __init__(self, job: TrainingSetup, plan: TrainerConfig):
        self.job, self.plan, self.budget = job, plan, plan.budget
        self.progress = Progress()
        self.saved_step: int | None = None
        self.loss_sum = torch.zeros((), device=job.device)  # since the last record
        self.health = NonFiniteGuard(plan.nonfinite, job.device)
        self.stages = RunPhases(job, plan)
        self.parameters = [p for p in job.model.parameters() if p.requires_grad]
        self.loss = forward(job.model, job.compile, plan.activation_checkpointing)
        self.differentiate = GradientAccumulator(self.loss, plan.micro_rows, job.precision, job.device)
        if plan.cuda_graphs:
            self.differentiate.record(self.parameters, self.stages.key)
            job.optimizers.use_cuda_graphs()
        self.feed = DeviceLoader(job.batches, job.device, plan.prefetch_batches)

    def fit(self, reserved: int) -> int:
        """Settle trainer.micro_batch_tokens=auto on CUDA by trying, `reserved` bytes apart; returns the tokens of a micro-batch."""
        with raise_compile_errors():
            rows = tried_rows(self.plan.micro_rows, self._try, self.job.device, reserved)
        self.plan = self.plan.with_micro_rows(rows)
        self.differentiate.micro_rows = rows
        return rows * self.plan.sequence_length

    def warm_up(self) -> None:
        """Compile and record before the clock starts, for every stage of the run and for evaluation in it; changes no weight."""
        if self.job.compile == "off" and not self.plan.cuda_graphs:
            return
        p, started = self.progress, time.perf_counter()
        with raise_compile_errors():
            for rows in self.stages.each(self.budget.progress(p)):
                for size in self.differentiate.sizes(rows):
                    self._try(size)
                self._evaluate(self.plan.micro_rows)
        p.compile_seconds += time.perf_counter() - started

    def _try(self, rows: int) -> None:
        """Differentiate rows of nothing, and forget it."""
        tokens = torch.zeros((rows, self.plan.sequence_length), dtype=torch.long, device=self.job.device)
        try:
            # Were targets the same tensor, a graph would rely on it.
            self.differentiate.micro_batch(tokens, tokens.clone(), tokens.numel())
        finally:
            self._drop_gradients()

    def train(self) -> tuple[Status, str | None]:
        """Run to the end of the budget, a divergence, `stop_after_steps` or a signal; returns which, and the reason."""
        self.warm_up()
        p = self.progress
        ending: tuple[Status, str | None] | None = None
        profiling = profiler(self.job.folder, self.plan.profile_steps)
        with StopSignal() as stop, contextlib.closing(self.feed), profiling as profile:
            while ending is None and not self.budget.done(p):
                started = time.perf_counter()
                told = self._step()
                self._wait()
                p.seconds += time.perf_counter() - started
                if profile:
                    profile.step()
                self.job.advance(self.budget.progress(p))
                ending = self._after(told, stop)
            status, reason = ending or self._finished()
            wanted = status == "stopped" or (status == "finished" and self.plan.checkpoint_at_end)
            if wanted and self.saved_step != p.step:
                self.save()
        return status, reason

    def _after(self, told: "StepResult", stop: StopSignal) -> tuple[Status, str | None] | None:
        """What is due between two steps; how the run ends if it ends here, before its budget is used up."""
        p, plan = self.progress, self.plan
        last, lost = self.budget.done(p), p.skipped_steps > plan.most_skipped_steps
        evaluated = last or self._due(plan.evaluate_every_steps)
        best = evaluated and self._validate()
        if evaluated or lost or self._due(plan.record_every_steps):
            self._record(told, p.val_loss if evaluated else None)
            if trouble := self._trouble():
                return "diverged", trouble
        early = stop.requested is not None or (plan.stop_after_steps is not None and p.step >= plan.stop_after_steps)
        save = self._due(plan.checkpoint_every_steps) or (best and plan.keep_best)
        if (save or early or last) and (trouble := self.health.trouble() or broken_weights(self.job.model)):
            return "diverged", f"{trouble}, seen at step {p.step}"
        if save:
            self.save()
        if early and not last:
            return "stopped", stop.requested or f"trainer.stop_after_steps={plan.stop_after_steps}"
        return None

    def _trouble(self) -> str | None:
        p, plan = self.progress, self.plan
        if p.skipped_steps > plan.most_skipped_steps:
            return (
                f"loss or gradient norm was not finite in {p.skipped_steps} steps, the last of them step {p.step}; "
                f"allowed are trainer.most_skipped_steps={plan.most_skipped_steps}"
            )
        if trouble := self.health.trouble():
            return f"{trouble}: training loss {p.train_loss} at step {p.step}"
        if not math.isfinite(p.val_loss or 0.0):
            return f"validation loss {p.val_loss} at step {p.step}"
        return None

    def _finished(self) -> tuple[Status, str | None]:
        p = self.progress
        if p.evaluated_step != p.step:  # a checkpoint that is at the end of its budget already
            self._validate()
        room = UNSETTLED if p.step < FEW_STEPS else 0.0
        if p.val_loss is not None and p.first_loss is not None and not p.val_loss <= p.first_loss + room:
            return "diverged", f"validation loss {p.val_loss:.4f} is above the first training loss {p.first_loss:.4f}"
        return "finished", None

    def save(self) -> Path:
        """Write a checkpoint of this step."""
        state = {
            "identity": self.job.identity,
            "progress": vars(self.progress),
            "budget": vars(self.budget),
            "loss_sum": self.loss_sum.item(),
            "optimizers": self.job.optimizers.state_dict(),
            "batches": self.feed.state_dict(),
            "stages": self.stages.state_dict(),
            "diagnostics": self.job.diagnostics.state_dict() if self.job.diagnostics else {},
        }
        p, plan = self.progress, self.plan
        val_loss = p.val_loss if p.evaluated_step == p.step else None
        self.saved_step = p.step
        return checkpoint.save(
            self.job.folder, p.step, self.job.model, state, keep=plan.keep_checkpoints, keep_best=plan.keep_best, val_loss=val_loss
        )  # fmt: skip

    def resume(self, path: Path) -> None:
        """Continue from a checkpoint. ConfigError tells what differs from its computation, or which budget it has passed."""
        state = checkpoint.load_state(path)
        before, now = state.get("identity"), self.job.identity
        if not isinstance(before, dict):
            raise DataError(f"{path}: is not the checkpoint of a run")
        told = [(key, before.get(key, "nothing"), now.get(key, "nothing")) for key in sorted({*before, *now}, key=str)]
        differs = [f"{key}: was {a!r} in {path}, got {b!r}; a resumed run keeps it" for key, a, b in told if a != b]
        if differs:
            raise ConfigError(*differs)
        checkpoint.load_weights(path, self.job.model)
        try:
            self.job.optimizers.load_state_dict(state["optimizers"])
            self.feed.load_state_dict(state["batches"])
            self.stages.load_state_dict(state["stages"])
            vars(self.progress).update(state["progress"])
            if self.job.diagnostics:
                self.job.diagnostics.load_state_dict(state.get("diagnostics", {}))
            self.loss_sum.fill_(state["loss_sum"])
            self.saved_step = self.progress.step
            passed = self.budget.passed(self.progress, state.get("budget", {}))
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise DataError(f"{path}: is not a state of this run: {type(error).__name__}: {error}") from error
        if passed:
            raise ConfigError(
                *(
                    f"trainer.{key}: is less than {path} has behind it, got {now}; allowed is {n} or more"
                    for key, now, n in passed
                )
            )

    def _step(self) -> "StepResult":
        job, p = self.job, self.progress
        # Phases look at what is behind, everything else at the middle of the step.
        stage = self.stages.enter(self.budget.progress(p))
        rows = stage.rows
        batch_tokens = rows * self.plan.sequence_length
        progress = self.budget.progress(p, batch_tokens)
        hyperparameters = job.optimizers.schedule(progress, job.lr_schedule(progress) * stage.lr_factor)
        batch = self.feed.take(rows)
        step_loss = self.differentiate(batch)
        self.stages.rest()
        norm = torch.nn.utils.clip_grad_norm_(
            self.parameters, math.inf if self.plan.grad_clip is None else self.plan.grad_clip
        )
        p.step += 1
        p.tokens += batch_tokens
        if job.diagnostics:
            job.diagnostics.before(p.step)
        if self.health.should_step(p.step, step_loss, norm):
            self.loss_sum += step_loss
            p.counted += batch.counted
            if p.first_loss is None:
                p.first_loss = step_loss.item() / batch.counted
            job.optimizers.step()
            job.model.after_step()  # type: ignore[operator]
        else:
            p.skipped_steps += 1
        if job.diagnostics:
            seconds = job.diagnostics.after(p.step)  # not training's: a budget of seconds must not see them
            p.seconds, p.evaluation_seconds = p.seconds - seconds, p.evaluation_seconds + seconds
        self._drop_gradients()
        return StepResult(norm, batch_tokens, hyperparameters | stage.told)

    def _drop_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def _record(self, told: "StepResult", val_loss: float | None) -> None:
        job, p = self.job, self.progress
        train_loss = self.loss_sum.item() / p.counted if p.counted else None  # None: every step was skipped
        seconds = p.seconds - p.recorded_seconds
        rate = (p.tokens - p.recorded_tokens) / seconds if seconds > 0 else 0.0
        peak = machine.peak_rate(job.device)
        job.record(
            MetricsRecord(
                step=p.step,
                tokens=p.tokens,
                epoch=self.feed.epoch,
                seconds=p.seconds,
                train_loss=train_loss,
                val_loss=val_loss,
                val_bits_per_byte=None if val_loss is None else bits_per_byte(val_loss, job.bytes_per_token),
                grad_norm=told.norm.item(),
                skipped_steps=p.skipped_steps,
                batch_tokens=told.batch_tokens,
                tokens_per_second=rate,
                mfu=None if peak is None else rate * job.flops_per_token / peak,
                peak_memory=machine.peak_memory(job.device),
                hyperparameters=told.hyperparameters,
            )
        )
        self.loss_sum.zero_()
        p.train_loss = train_loss
        p.counted, p.recorded_tokens, p.recorded_seconds = 0, p.tokens, p.seconds

    def _validate(self) -> bool:
        """Evaluate the weights of this step; whether they are the best so far."""
        p, started = self.progress, time.perf_counter()
        p.val_loss, p.evaluated_step = self._evaluate(), p.step
        p.evaluation_seconds += time.perf_counter() - started
        best = p.val_loss < p.best_val_loss
        p.best_val_loss = min(p.best_val_loss, p.val_loss)
        return best

    def _evaluate(self, rows: int | None = None) -> float:
        """Validation loss, of the first `rows` rows alone where they are told."""
        self.job.model.eval()
        with self.differentiate.autocast():
            loss = evaluate(
                self.loss,
                self.job.validation.tokens[:rows],
                self.job.validation.targets[:rows],
                self.plan.micro_rows,
                self.job.device,
            )
        self.job.model.train()
        return loss

    def _due(self, every: int | None) -> bool:
        return every is not None and self.progress.step % every == 0

    def _wait(self) -> None:
        """Let the clock see the device's work when someone will read it: at records, and always under a budget of seconds."""
        due = (
            self._due(self.plan.record_every_steps)
            or self._due(self.plan.evaluate_every_steps)
            or self.budget.seconds is not None
        )
        if due and self.job.device.type == "cuda":
            torch.cuda.synchronize(self.job.device)


class StepResult(NamedTuple):
    """What a step leaves for its record."""

    norm: Tensor  # of the gradient, still on the device
    batch_tokens: int
    hyperparameters: dict[str, float]  # lr, momentum, auxiliary_lr ... as set for this step

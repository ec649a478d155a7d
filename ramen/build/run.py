"""The composition root: one config in, one trained run folder out.

check -> device -> dry build on fake tensors -> data -> table -> model, optimizers, trainer -> train -> summary.
"""

import contextlib
import functools
import gc
import hashlib
import logging
import os
import subprocess
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ramen import device as machine
from ramen.build import assemble
from ramen.build.fit import estimated_rows
from ramen.build.memory import peak_bytes
from ramen.build.start_table import start_table
from ramen.config.check import Settings, check, config_hash, flatten, settings
from ramen.config.secret import scrub
from ramen.data.batches import Batch, Batches, validation_rows
from ramen.data.dataset import Dataset
from ramen.data.source import Source
from ramen.errors import ConfigError, RamenError
from ramen.logger.base import Logger
from ramen.logger.console import ConsoleLogger
from ramen.logger.files import FileLogger
from ramen.logger.guarded import Guarded
from ramen.logger.none import NoLogger
from ramen.nn.gpt import DataSpec
from ramen.nn.parameter import initialise
from ramen.runs import checkpoint, resume
from ramen.runs.folder import RunFolder
from ramen.runs.schema import MetricsRecord
from ramen.training.compilation import How, choose
from ramen.training.config import Plan
from ramen.training.evaluate import bits_per_byte
from ramen.training.loop import Trainer
from ramen.training.phases import POINTS
from ramen.training.setup import Job, Status

log = logging.getLogger("ramen")


@dataclass(frozen=True)
class Command:
    """What was asked for, and where the run goes."""

    config: dict[str, Any]  # plain and resolved
    folder: Path
    choices: dict[str, str]  # group -> option
    overrides: list[str]
    job: int | None  # number in a sweep; None for a single run


def run(command: Command) -> dict[str, Any]:
    """Train and return the summary. A RamenError is the user's to mend; any failure leaves a summary that says so."""
    started = time.monotonic()
    gc.freeze()  # modules, and what the jobs before have compiled: the collection after this job need not look at them
    logging.raiseExceptions = False  # a log that cannot be written is no news, and no traceback
    try:
        try:
            return _run(command)
        except BaseException as error:
            if not isinstance(error, RamenError):
                log.info("".join(traceback.format_exception(error)))
            held: BaseException | None = error
            while held is not None:  # their frames hold the model, which the next job of a sweep has no room for
                traceback.clear_frames(held.__traceback__)
                held = held.__cause__ or held.__context__
            mended = _out_of_memory(command.config, error)
            _write_failure(command, mended or error, time.monotonic() - started)
            if mended is None:
                raise
        raise mended  # here, so that it does not carry the other one along
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


@dataclass(frozen=True)
class Intent:
    """A checked config, and all that is known of its run before data is read and memory taken."""

    own: Settings
    device: torch.device
    precision: torch.dtype
    source: Source
    plan: Plan
    service: Logger
    text: DataSpec
    how: How  # to compile
    backend: str
    sketch: assemble.Sketch


def intend(config: dict[str, Any]) -> Intent:
    """Check a config and try it on fake tensors. ConfigError tells what is wrong with it."""
    check(config)
    own = settings(config)
    if not 0 <= own.seed < 2**63:
        raise ConfigError(f"seed: out of range, got {own.seed}; allowed is 0 to 2^63 - 1")
    device = machine.select_device(own.device)
    machine.prepare(device, own.threads)
    kept = resume.precision(Path(own.resume)) if own.precision == "auto" and own.resume else own.precision
    precision = machine.select_precision(kept, device)
    source: Source = assemble.section(config, "data")
    plan: Plan = assemble.section(config, "trainer", source.sequence_length)
    service: Logger = assemble.section(config, "logger")
    # Every tokenizer's last id opens documents.
    text = DataSpec(source.vocabulary, source.vocabulary - 1, source.sequence_length)
    how = choose(own.compile, device)
    if plan.micro_batch_tokens == "auto":
        largest = max(map(plan.rows, map(assemble.curve(config, "batch_schedule"), POINTS)))
        plan = plan.with_micro_rows(
            estimated_rows(largest, lambda rows: assemble.memory(config, text, rows, precision, device.type), device)
        )
    sketch = assemble.sketch(config, text, plan.micro_rows, precision, device.type)
    backend = assemble.attention_backend(config, device, precision, how != "off")
    return Intent(own, device, precision, source, plan, service, text, how, backend, sketch)


def _run(command: Command) -> dict[str, Any]:
    config, console = command.config, Console(stderr=True, markup=False)
    intent = intend(config)
    own, device, precision, plan = intent.own, intent.device, intent.precision, intent.plan
    if own.resume is None:
        resume.refuse_used(command.folder)
    resume_from = checkpoint.latest(Path(own.resume)) if own.resume else None
    service = intent.service if isinstance(intent.service, NoLogger) else Guarded(intent.service)

    dataset = intent.source.dataset(progress=console.is_terminal)
    facts = _facts(command, intent, dataset)
    screen = ConsoleLogger(console)
    screen.show(start_table(config, facts, intent.sketch.groups, plan, device, precision))
    _warn_of_little_memory(facts, device)
    environment = {
        **machine.describe(device), **_code(), "precision": str(precision).removeprefix("torch."), "data_hash": dataset.hash,
        "choices": command.choices, "job": command.job,  # from the start: a report of a sweep that is not done needs them
    }  # fmt: skip
    kept_steps = checkpoint.step_of(resume_from) if resume_from else None
    loggers = [FileLogger(environment, kept_steps), screen, service]

    machine.forget_peak_memory(device)
    trainer = Trainer(_job(command, intent, dataset, loggers, screen), plan)
    if resume_from:
        trainer.resume(resume_from)
    if config["trainer"]["micro_batch_tokens"] == "auto" and device.type == "cuda":
        facts["micro_batch_tokens"] = trainer.fit(reserved=facts["memory"]["optimizer"])
    for logger in loggers:
        logger.start(command.folder, config, facts)
    if resume_from:
        RunFolder(command.folder).remember(command.overrides)
    summary = facts | {"status": "failed", "error": None}
    try:
        if dataset.tokenizer.name != "gpt2":  # that one is known everywhere; its own lets the folder be opened anywhere
            dataset.tokenizer.save(RunFolder(command.folder).tokenizer)
        status, reason = trainer.train()
        summary |= {"status": status, "error": reason} | _ending(status, trainer)
    except BaseException as error:
        p = trainer.progress
        summary |= {"error": reason_of(error), "steps": p.step, "tokens": p.tokens, "train_seconds": p.seconds}
        raise
    finally:
        with contextlib.ExitStack() as endings:  # each is told, in order, even when the disk of the first is full
            for logger in reversed(loggers):
                endings.callback(logger.finish, summary)
    if summary["status"] == "stopped":
        further = " trainer.stop_after_steps=null" if "stop_after_steps" in summary["error"] else ""
        screen.show(f"to continue: python train.py resume={command.folder}{further}")
    return summary


def _job(command: Command, intent: Intent, dataset: Dataset, loggers: list[Logger], screen: ConsoleLogger) -> Job:
    config, own, source, text = command.config, intent.own, intent.source, intent.text
    device, precision = intent.device, intent.precision
    model = assemble.model(config, text)
    initialise(model, own.seed)
    model.after_step()  # type: ignore[operator]  # what holds after a step holds before the first
    model.to(device)

    def record(made: MetricsRecord) -> None:
        for logger in loggers:
            logger.record(made.as_line())

    def diagnose(line: dict[str, Any]) -> None:
        for logger in loggers:
            logger.diagnose(line)

    rows: dict[str, Any] = dict(
        bos=text.bos, sequence_length=text.sequence_length, long_documents=source.long_documents
    )
    groups = assemble.groups(config, model)
    diagnostics = assemble.section(config, "diagnostics")
    if diagnostics:
        diagnostics.watch(groups, diagnose)
    return Job(
        model=model,
        optimizers=assemble.optimizers(config, groups),
        lr_schedule=assemble.curve(config, "schedule"),
        batch_schedule=assemble.curve(config, "batch_schedule"),
        windows=assemble.windows(config),
        mtp_share=assemble.mtp_share(config),
        batches=Batches(dataset.train, seed=own.seed, shuffle=True, **rows),
        validation=_validation(dataset, tokens=source.validation_tokens, **rows),
        bytes_per_token=dataset.bytes_per_token,
        device=device,
        precision=precision,
        compile=intent.how,
        flops_per_token=intent.sketch.costs["flops_per_token"],
        folder=command.folder,
        identity=_identity(config) | {"data_hash": dataset.hash, "precision": str(precision).removeprefix("torch.")},
        record=record,
        advance=screen.advance,
        diagnostics=diagnostics,
    )


@functools.lru_cache(maxsize=2)  # the jobs of a sweep share it
def _validation(dataset: Dataset, **rows: Any) -> Batch:
    return validation_rows(dataset.validation, **rows)


def _identity(config: dict[str, Any]) -> dict[str, Any]:
    """What must not change between a run and its continuation; budgets, records, loggers and where data lies may."""
    kept = ("model", *assemble.PARTS, "optimizer", "auxiliary", "routing", *assemble.CURVES)
    identity = flatten({name: config[name] for name in kept})
    of_the_step = ("batch_tokens", "batch_lr_power", "freeze_scalar_steps", "grad_clip")
    identity |= {f"trainer.{key}": config["trainer"][key] for key in of_the_step} | {"seed": config["seed"]}
    return identity | {f"data.{key}": config["data"][key] for key in ("sequence_length", "long_documents")}


def _facts(command: Command, intent: Intent, dataset: Dataset) -> dict[str, Any]:
    """What is known before the first step: all of the summary but how the run went."""
    return {
        "seed": intent.own.seed,
        "choices": command.choices,
        "overrides": command.overrides,
        "job": command.job,
        "run_id": hashlib.sha256(os.fsencode(command.folder.resolve())).hexdigest()[:16],
        "config_hash": config_hash(command.config),
        "data_hash": dataset.hash,
        "data": f"{dataset.train_tokens:,} training and {dataset.validation_tokens:,} validation tokens in {dataset.folder}",
        **intent.sketch.costs,
        "attention_backend": intent.backend,
        "compile": intent.how,
        "memory_peak": peak_bytes(intent.sketch.costs["memory"], intent.device),
        "micro_batch_tokens": intent.plan.micro_batch_tokens,
    }


def _ending(status: Status, trainer: Trainer) -> dict[str, Any]:
    job, p = trainer.job, trainer.progress
    final = None if status == "stopped" else p.val_loss
    return {
        "final_val_loss": final,
        "final_val_bits_per_byte": None if final is None else bits_per_byte(final, job.bytes_per_token),
        "best_val_loss": p.best_val_loss,
        "final_train_loss": p.train_loss,
        "steps": p.step,
        "skipped_steps": p.skipped_steps,
        "tokens": p.tokens,
        "train_seconds": p.seconds,
        "evaluation_seconds": p.evaluation_seconds,
        "compile_seconds": p.compile_seconds,
        "tokens_per_second": p.tokens / p.seconds if p.seconds else 0.0,
        "peak_memory": machine.peak_memory(job.device),
    }


@functools.cache  # later jobs of a sweep run what was imported for the first
def _code() -> dict[str, Any]:
    """The commit and what differs from it, so that a run records the code it ran; None outside a git checkout."""
    root = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    changed = git("diff", "HEAD", "--", "*.py", "*.yaml")
    return {"git_commit": git("rev-parse", "HEAD"), "git_diff": None if changed is None else scrub(changed)}


def reason_of(error: BaseException) -> str:
    """What a summary says of a failure."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted at once, without a checkpoint of this step"
    return scrub(str(error) if isinstance(error, RamenError) else f"{type(error).__name__}: {error}")


def _out_of_memory(config: dict[str, Any], error: BaseException) -> RamenError | None:
    """What to lower, if that is what happened; torch says it in three ways."""
    text = str(error)
    on_cpu = isinstance(error, RuntimeError) and ("can't allocate memory" in text or "not enough memory" in text)
    if not (on_cpu or isinstance(error, MemoryError | torch.OutOfMemoryError)):
        return None
    now, least = config["trainer"]["micro_batch_tokens"], config["data"]["sequence_length"]
    reason = (text or "out of memory").splitlines()[0]
    return ConfigError(
        f"trainer.micro_batch_tokens: memory is not enough, got {now} ({reason}); lower it, which leaves the result "
        f"as it is, down to data.sequence_length={least} if need be; or take a smaller model"
    )


def _warn_of_little_memory(facts: dict[str, Any], device: torch.device) -> None:
    """CUDA tells when it runs out; the system ends a process without a word."""
    if device.type == "cpu" and (needed := facts["memory_peak"]) > (free := machine.free_memory(device)):
        log.warning(
            f"trainer.micro_batch_tokens: about {needed / 1e6:,.0f} MB are needed and {free / 1e6:,.0f} MB are free, so that "
            "the system may kill this run; lower it or give auto, which leaves the result as it is"
        )


def _write_failure(command: Command, error: BaseException, seconds: float) -> None:
    """Record a failure in the run folder, unless it is of a refused continuation: the run there goes on as it was."""
    failed = {
        "status": "failed",
        "error": reason_of(error),
        "seed": command.config.get("seed"),
        "choices": command.choices,
        "overrides": command.overrides,
        "config_hash": config_hash(command.config),
        "wall_seconds": seconds,
    }
    if checkpoint.checkpoints(command.folder) and resume.written_hash(command.folder) != failed["config_hash"]:
        return
    try:
        before = resume.summary(command.folder)
        if before.get("status") in (None, "failed"):
            RunFolder(command.folder).finish({**before, **failed})
    except RamenError as trouble:
        log.warning("the failure could not be recorded in %s: %s", command.folder, trouble)

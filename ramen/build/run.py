"""The composition root: one config in, one trained run folder out.

validate (check, device, dry run on fake tensors) -> data -> table -> objects (model, optimizers, trainer) -> train -> summary.
"""

import gc
import logging
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from ramen import device as machine
from ramen import kernels
from ramen.build.dry_run import DryRun, dry_run, peak_bytes
from ramen.build.objects import build_groups, build_model, build_optimizers, build_section, choose_attention_backend
from ramen.build.summary import ending, explained, reason_of, start_table, write_failure
from ramen.config.check import check, config_hash, flatten, settings
from ramen.config.kinds import KINDS, PARTS
from ramen.data.dataset import Dataset
from ramen.data.source import Source
from ramen.errors import RamenError
from ramen.kernels.cuda.graphs import GradientGraphs, GraphedStep
from ramen.logger.base import Guarded, Logger, Loggers
from ramen.logger.local import ConsoleLogger, FileLogger
from ramen.logger.none import NoLogger
from ramen.nn.gpt import DataSpec
from ramen.nn.parameter import initialise
from ramen.ops.operation import ANY, TWINS
from ramen.runs import checkpoint
from ramen.runs.code import describe_code, describe_commit
from ramen.runs.folder import CONFIG, ENVIRONMENT, RunFolder, run_hash
from ramen.training.compilation import CompileMode, choose_compile_mode
from ramen.training.loop import Trainer

log = logging.getLogger("ramen")


@dataclass(frozen=True)
class Command:
    """A config, and where it comes from and goes to."""

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
        return _train(command)
    except BaseException as error:
        if not isinstance(error, RamenError):
            log.info("".join(traceback.format_exception(error)))
        link: BaseException | None = error
        while link is not None:  # their frames hold the model, which the next job of a sweep has no room for
            traceback.clear_frames(link.__traceback__)
            link = link.__cause__ or link.__context__
        explanation = explained(error, command.config)
        facts = {"choices": command.choices, "overrides": command.overrides, "wall_seconds": time.monotonic() - started}
        write_failure(command.folder, command.config, facts, explanation)
        if explanation is error:
            raise
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
    raise explanation  # here, where it holds neither the other error nor the frames of that


@dataclass(frozen=True)
class ValidatedRun:
    """A checked config, and all that is known of its run before data is read and memory taken."""

    device: torch.device
    precision: torch.dtype
    source: Source
    logger: Logger
    data: DataSpec
    compile: CompileMode
    attention_backend: str
    dry_run: DryRun


def validate(config: dict[str, Any]) -> ValidatedRun:
    """Check a config and try it on fake tensors. ConfigError names all that is wrong with it."""
    check(config)
    root = settings(config)
    device = machine.select_device(root.device)
    machine.prepare(device, root.threads)
    choice: str = root.precision
    if choice == "auto" and root.resume:  # it is measured, and may come out otherwise today
        recorded = str(RunFolder(root.resume).environment().get("precision"))
        choice = {"float32": "fp32", "bfloat16": "bf16"}.get(recorded, choice)
    precision = machine.select_precision(choice, device)
    source: Source = build_section(config, "data")
    logger: Logger = build_section(config, "logger")
    # Every tokenizer's last id opens documents.
    data = DataSpec(source.vocabulary, source.vocabulary - 1, source.sequence_length, source.document_mask)
    compile_mode = choose_compile_mode(root.compile, device)
    backend = choose_attention_backend(config, device, precision, compile_mode != "off")
    dry = dry_run(config, data, precision, device.type, machine.free_memory(device))
    return ValidatedRun(device, precision, source, logger, data, compile_mode, backend, dry)


def _train(command: Command) -> dict[str, Any]:
    config, screen = command.config, ConsoleLogger()
    valid = validate(config)
    device, resume_from = valid.device, None
    if folder := config["resume"]:
        RunFolder(folder).refuse_altered(CONFIG, ENVIRONMENT)
        resume_from = checkpoint.latest(Path(folder))
    else:
        checkpoint.refuse_used(command.folder)
    resumed_step = checkpoint.step_of(resume_from) if resume_from else None

    dataset = valid.source.dataset(progress=screen.console.is_terminal)
    environment, facts = _account(command, valid, dataset, resumed_step)
    screen.show(start_table(config, facts, valid.dry_run, device))
    # CUDA reports when it runs out; the system ends a process without a word.
    if device.type == "cpu" and (needed := facts["memory_peak"]) > (free := machine.free_memory(device)):
        log.warning(
            f"trainer.micro_batch_tokens: about {needed / 1e6:,.0f} MB are needed and {free / 1e6:,.0f} MB are free, so that "
            "the system may kill this run; lower it or give auto, which leaves the result as it is"
        )
    files = FileLogger(command.folder, environment, resumed_step)
    service = valid.logger if isinstance(valid.logger, NoLogger) else Guarded(valid.logger)
    loggers = Loggers(files, screen, service)

    trainer = build_trainer(command, valid, dataset, loggers)
    if trainer.config.cuda_graphs:
        run, key = trainer.gradients.run, trainer.phases.graph_key
        trainer.gradients.graphs = GradientGraphs(run, trainer.parameters, key, device)
        trainer.optimizers.use_cuda_graphs(GraphedStep)
    if resume_from:
        trainer.resume(resume_from)
        files.records = trainer.progress.records
    if config["trainer"]["micro_batch_tokens"] == "auto" and device.type == "cuda":
        facts["micro_batch_tokens"] = trainer.fit(reserved=facts["memory"]["optimizer"])
    loggers.start(command.folder, config, facts)
    files.remember(command.overrides)
    summary = facts | {"status": "failed", "error": None}
    try:
        if dataset.tokenizer.name != "gpt2":  # that one is known everywhere; its own lets the folder be opened anywhere
            dataset.tokenizer.save(files.tokenizer)
        summary |= ending(*trainer.train(), trainer)
    except BaseException as error:
        p = trainer.progress
        summary |= {"error": reason_of(error), "steps": p.step, "tokens": p.tokens, "train_seconds": p.seconds}
        raise
    finally:
        loggers.finish(summary)
    if summary["status"] == "stopped":
        further = " trainer.stop_after_steps=null" if "stop_after_steps" in summary["error"] else ""
        screen.show(f"to continue: ramen train resume={command.folder}{further}")
    return summary


def build_trainer(command: Command, valid: ValidatedRun, dataset: Dataset, logger: Logger) -> Trainer:
    """The objects of a run, with the weights it starts from."""
    config, seed, bos = command.config, command.config["seed"], valid.data.bos
    memory = machine.PeakMemory(valid.device)
    # After that, which returns what was freed to the system.
    kernels.prepare_memory(valid.device, return_freed=valid.dry_run.trainer.activation_checkpointing)
    model = build_model(config, valid.data)
    initialise(model, seed)
    model.after_step()  # type: ignore[operator]  # what holds after a step holds before the first
    model.to(valid.device)
    validation = valid.source.validation_batch(dataset.validation.paths, bos)
    groups = build_groups(config, model)
    diagnostics = build_section(config, "diagnostics")
    if diagnostics:
        diagnostics.watch(groups, logger.diagnose)
    return Trainer(
        config=valid.dry_run.trainer,
        model=model,
        optimizers=build_optimizers(config, groups),
        schedules=valid.dry_run.schedules,
        batches=valid.source.batches(dataset.train.paths, bos, seed),
        validation=validation,
        bytes_per_token=dataset.tokenizer.bytes_per_target(validation.targets.numpy()),
        device=valid.device,
        memory=memory,
        precision=valid.precision,
        compile=valid.compile,
        matrix_flops=valid.dry_run.matrix_flops,
        folder=command.folder,
        identity=_identity(config) | {"data_hash": dataset.hash, "precision": _name(valid.precision)},
        logger=logger,
        diagnostics=diagnostics,
    )


def _account(
    command: Command, valid: ValidatedRun, dataset: Dataset, resumed_step: int | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The environment of this part of a run, and all of the summary that is known before the first step.

    The environment holds choices and job too, for the report of a sweep that is not done.
    """
    costs, trainer, folder = valid.dry_run.costs, valid.dry_run.trainer, RunFolder(command.folder)
    budget = vars(trainer.budget)
    earlier = folder.parts(before=resumed_step) if resumed_step else []
    budgets = [*(part["budget"] for part in earlier if part.get("budget")), budget]
    common = {
        "choices": command.choices,
        "job": command.job,
        "run_id": uuid4().hex[:16] if resumed_step is None else folder.run_id(),
        "data_hash": dataset.hash,
        "precision": _name(valid.precision),
        "attention_backend": valid.attention_backend,
    }
    digest = config_hash(command.config)
    targets = [value for key, value in flatten(command.config).items() if key.endswith("_target_")]
    environment = {
        **machine.describe(valid.device),
        **describe_commit(),
        **describe_code(targets),
        **common,
        "kernels": sorted({place for twins in TWINS.values() for place in twins} & {ANY, valid.device.type}),
        "config_hash": digest,
        "tokenizer_hash": dataset.tokenizer.hash,
        "budget": budget,
    }
    facts = {
        **common,
        **costs,
        "seed": command.config["seed"],
        "overrides": command.overrides,
        "resumed_step": resumed_step,
        "budgets": budgets,
        "config_hash": run_hash(digest, budgets),
        "data": f"{dataset.train.tokens:,} training and {dataset.validation.tokens:,} validation tokens in {dataset.folder}",
        "compile": valid.compile,
        "memory_peak": peak_bytes(costs["memory"], valid.device.type, trainer.activation_checkpointing),
        "micro_batch_tokens": trainer.micro_batch_tokens,
    }
    return environment, facts


def _identity(config: dict[str, Any]) -> dict[str, Any]:
    """The keys that a continuation must share; budgets, records, loggers and where data lies may change."""
    sections = ("model", *PARTS, "optimizer", "auxiliary", "routing", *KINDS["schedule"].sections)
    keys = ["seed", *(f"data.{key}" for key in ("sequence_length", "batching", "long_documents"))]
    keys += [f"trainer.{key}" for key in ("batch_tokens", "batch_lr_power", "freeze_scalar_steps", "grad_clip")]
    return {key: value for key, value in flatten(config).items() if key.partition(".")[0] in sections or key in keys}


def _name(precision: torch.dtype) -> str:
    return str(precision).removeprefix("torch.")

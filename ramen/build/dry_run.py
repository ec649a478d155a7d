"""A run tried on fake tensors, which have shapes and types but no storage: its groups, FLOPs and memory, and every range error.

Memory: a step is run and every storage is counted while it lives: parameters, gradients, optimizer state, what the forward pass
keeps, and what comes and goes in between. Not counted: what a kernel takes inside itself, and what is lost between blocks; on a
CPU that is `RESIDENT_SHARE` of all and `RESIDENT_BYTES`, as measured (docs/performance.md), and on CUDA not part of the peak that
torch reports.
Cost: the dispatch of two steps, a few tenths of a second.
"""

import io
import itertools
import math
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ramen.build.objects import (
    build_groups,
    build_model,
    build_optimizer,
    build_optimizers,
    build_schedules,
    build_section,
)
from ramen.device import DryRunMode
from ramen.errors import ConfigError, one_line
from ramen.nn.gpt import DataSpec
from ramen.optimizer.base import Optimizer
from ramen.optimizer.external import ExternalOptimizer
from ramen.optimizer.optimizers import Optimizers, ParamGroup
from ramen.schedule.base import GRID, turning_points
from ramen.training.compilation import loss_function
from ramen.training.config import TrainerConfig
from ramen.training.phases import RunSchedules

RESIDENT_SHARE, RESIDENT_BYTES = 0.3, 50_000_000
USABLE = {"cpu": 0.8, "cuda": 1.0}  # of what is free; a CPU's memory has other owners too
Sizes = dict[str, int]

# torch's counter knows the out-of-place form alone.
IN_PLACE = {
    product: lambda total, a, b, **more: 2 * math.prod(a) * b[-1]
    for product in (torch.ops.aten.addmm_, torch.ops.aten.baddbmm_)
}


@dataclass(frozen=True)
class DryRun:
    """The size, cost and groups of a run, known before anything is allocated."""

    groups: list[ParamGroup]  # of fake tensors: names, roles and sizes
    schedules: RunSchedules
    trainer: TrainerConfig  # with a micro-batch that fits
    matrix_flops: float  # training FLOPs a token, without attention
    costs: dict[str, Any]  # what the summary says of size, FLOPs and memory


def dry_run(
    config: Mapping[str, Any],
    data: DataSpec,
    precision: torch.dtype,
    device_type: str = "cpu",
    free_bytes: float = math.inf,
) -> DryRun:
    """Build model, groups, optimizers and schedules on fake tensors. ConfigError names what cannot be.

    trainer.micro_batch_tokens=auto is the largest batch, halved as long as a step takes more than `free_bytes`: a CPU goes by this
    estimate, for running out of memory is the end of a process there; on CUDA it says where to begin, and what is tried on the
    device decides. The result of a run does not depend on it: gradients are of the mean over the whole batch.
    """
    run_schedules = build_schedules(config)
    trainer: TrainerConfig = build_section(config, "trainer", data.sequence_length)
    auto = trainer.micro_batch_tokens == "auto"
    if auto:
        trainer = trainer.with_micro_rows(max(map(trainer.rows, map(run_schedules.batch, run_schedules.points))))
    build_section(config, "diagnostics")
    for owner in ("optimizer", "auxiliary"):
        _check_resumable(config, owner)
    with DryRunMode(device_type):
        model: Any = build_model(config, data)
        model.after_step()  # parts that cannot keep what they promise of their weights refuse
        groups = build_groups(config, model)
        optimizers = build_optimizers(config, groups)
        _check_phases(model, groups, optimizers, run_schedules)
        _check_hyperparameters(config, optimizers, run_schedules, trainer)
        matrix_flops = count_matrix_flops(model)
        flops = matrix_flops + _mean_attention_flops(model, run_schedules)
        recompute = trainer.activation_checkpointing
        loss_of = loss_function(model, "off", recompute)
        peak = _backward_peak(model, loss_of, precision, trainer)
        sizes, update_peak = _step_optimizers(model, optimizers)
        rest = sum(sizes.values())
        sizes["activations"] = max(peak + sizes["optimizer"], update_peak) - rest
        while auto and (needed := peak_bytes(sizes, device_type, recompute)) > USABLE[device_type] * free_bytes:
            if trainer.micro_rows == 1:
                raise ConfigError(
                    f"trainer.micro_batch_tokens: auto finds no room for a single row, got {free_bytes / 1e6:,.0f} MB free "
                    f"and {needed / 1e6:,.0f} MB needed; allowed are a smaller model, shorter rows or activation_checkpointing=true"
                )
            trainer = trainer.with_micro_rows((trainer.micro_rows + 1) // 2)
            peak = _backward_peak(model, loss_of, precision, trainer)
            sizes["activations"] = max(peak + sizes["optimizer"], update_peak) - rest
        elements = sum(p.numel() for p in model.parameters())
    costs = {
        "parameters": elements,
        "parameters_without_embeddings": elements - model.embedding_parameters(),
        "flops_per_token": flops,
        "memory": sizes,
    }
    return DryRun(groups, run_schedules, trainer, matrix_flops, costs)


def _check_phases(model: Any, groups: list[ParamGroup], optimizers: Optimizers, run_schedules: RunSchedules) -> None:
    """Check that position, embedding and optimizer support the scheduled changes."""
    windows = [*map(run_schedules.windows, run_schedules.points)]
    model.position.check_windows([long for long, _ in windows])
    before = model.windows
    for step, (each, _) in enumerate(itertools.groupby(windows)):
        model.move_windows(each) if step else model.begin(each)
    model.set_windows(before)
    if model.embedding.split_at is not None:
        owners = {group.to for group in groups if group.role in ("embedding", "head")}
        external = any(isinstance(optimizers.by_name[name], ExternalOptimizer) for name in owners)
        if len(owners) > 1 or external:
            raise ConfigError(
                "embedding: the split copies the table's optimizer state to the head: routing.embedding.to and routing.head.to "
                f"must be one optimizer, and ramen's own, got {', '.join(sorted(owners))}"
            )


def _check_resumable(config: Mapping[str, Any], owner: str) -> None:
    """ConfigError if an optimizer of another package continues differently after its state was saved and loaded."""
    if str(config[owner]["_target_"]).startswith("ramen."):
        return  # tests hold it of those

    def step(weight: nn.Parameter, optimizer: Any) -> None:
        weight.grad = weight.detach().sin()
        optimizer.step()

    weight, resumed_weight = (nn.Parameter(torch.linspace(-1, 1, 96).reshape(8, 12)) for _ in range(2))
    buffer = io.BytesIO()
    try:
        optimizer, resumed = (
            build_optimizer(config[owner], [w], config["allow_targets"]) for w in (weight, resumed_weight)
        )
        step(weight, optimizer)
        torch.save(optimizer.state_dict(), buffer)
        buffer.seek(0)
        resumed.load_state_dict(torch.load(buffer, weights_only=True))
        with torch.no_grad():
            resumed_weight.copy_(weight)
        for _ in range(2):
            step(weight, optimizer)
            step(resumed_weight, resumed)
    except Exception as error:  # of any package
        raise ConfigError(f"{owner}: a trial of its steps and of its state failed: {one_line(error)}") from error
    if not torch.equal(weight, resumed_weight):
        raise ConfigError(
            f"{owner}: continues differently after its state was saved and loaded, so a run of it could not be resumed, "
            f"got {config[owner]['_target_']}; allowed is an optimizer whose state_dict() holds all of its state"
        )


def _check_hyperparameters(
    config: Mapping[str, Any], optimizers: Optimizers, run_schedules: RunSchedules, trainer: TrainerConfig
) -> None:
    """Check that a hyperparameter is in its range wherever its schedule takes it."""
    rates = [*map(run_schedules.lr, turning_points(run_schedules.lr))]
    factors = [trainer.lr_factor(trainer.rows(run_schedules.batch(point))) for point in run_schedules.points]
    extremes = [rate * factor for rate in (min(rates), max(rates)) for factor in (min(factors), max(factors))]
    for s in optimizers.scheduled:
        node, optimizer = config[s.owner], optimizers.by_name[s.owner]
        multipliers = extremes if s.curve is None else [*map(s.curve, turning_points(s.curve))]
        for value in sorted({s.base * multiplier for multiplier in multipliers}):
            try:
                if isinstance(optimizer, Optimizer):
                    optimizer.check({**optimizer.param_groups[s.group], s.key: value})
                elif s.curve:
                    # Another package's constructor is asked, with one number. Not for the learning rate: it may take 0, which
                    # the end of a schedule is, for an error.
                    number = [{"params": [nn.Parameter(torch.zeros(1, 1))]}]
                    build_optimizer({**node, s.key: value}, number, config["allow_targets"])
            except ValueError as error:
                where = f"{s.owner}.{s.key}_schedule" if s.curve else "schedule"
                raise ConfigError(f"{where}: takes {s.owner}.{s.key} to {value:g}: {error}") from error


def count_matrix_flops(model: nn.Module) -> float:
    """Training FLOPs a token (forward and backward, 2 a multiply-add) of a fake model, without those of attention.

    The matrix products of one token in the layers are counted by torch, those of the head are 6 a weight. Torch's counter knows
    neither causality nor windows: GPT.attention_flops does.
    """
    gpt: Any = model
    token = torch.zeros((1, 1), dtype=torch.long)
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        gpt.hidden(token).sum().backward()
    model.zero_grad(set_to_none=True)
    counted = {op: flops for op, flops in counter.get_flop_counts()["Global"].items() if "attention" not in str(op)}
    return sum(counted.values()) + 6 * gpt.embedding.head().numel()


def _mean_attention_flops(model: Any, run_schedules: RunSchedules) -> float:
    """Of a token of the run."""
    before, flops = model.windows, []
    for progress in GRID[:-1]:
        model.set_windows(run_schedules.windows(progress))
        flops.append(model.attention_flops())
    model.set_windows(before)
    return sum(flops) / len(flops)


class Accounting(TorchDispatchMode):
    """Counts the bytes of storages that operations inside it make, while they live; `peak` is the most at a time."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self._counted: dict[int, tuple[int, Any]] = {}
        for tensor in tensors:
            self.count(tensor)

    def count(self, tensor: Tensor) -> None:
        """Count a tensor's storage, unless it is counted already."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._counted:
            self._counted[key] = storage.nbytes(), weakref.ref(storage, lambda _: self._release(key))
            self.bytes += storage.nbytes()
            self.peak = max(self.peak, self.bytes)

    def _release(self, key: int) -> None:
        self.bytes -= self._counted.pop(key)[0]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.count(leaf)
        return result


def _backward_peak(model: nn.Module, loss_of: Any, precision: torch.dtype, trainer: TrainerConfig) -> int:
    """Bytes at the peak of the forward and backward passes of a fake step; leaves its gradients."""
    tokens = torch.zeros((trainer.micro_rows, trainer.sequence_length), dtype=torch.long)
    # Of several micro-batches all but the first find gradients that are there already.
    micro_batches = 2 if trainer.batch_tokens > tokens.numel() else 1
    model.zero_grad(set_to_none=True)
    with Accounting([*model.parameters(), *model.buffers()]) as accounting:
        for _ in range(micro_batches):
            with torch.autocast("cpu", precision, enabled=precision != torch.float32):
                loss = loss_of(tokens, tokens)
            loss.backward()
            del loss
    return accounting.peak


def _step_optimizers(model: nn.Module, optimizers: Optimizers) -> tuple[Sizes, int]:
    """Bytes of what stays from step to step, of a fake model with gradients, and at the peak of the optimizers' step."""
    tensors = [*model.parameters(), *model.buffers()]
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    with Accounting([*tensors, *gradients]) as accounting:
        before = accounting.bytes
        # A method of another package may read numbers, and there are none: what it allocated until then is counted.
        with suppress(DataDependentOutputException, DynamicOutputShapeException):
            optimizers.step()
    state = max(0, accounting.bytes - before)
    parameters, gradient_bytes = Accounting(tensors).bytes, Accounting(gradients).bytes
    return {"parameters": parameters, "gradients": gradient_bytes, "optimizer": state}, accounting.peak


def peak_bytes(sizes: Sizes, device_type: str, recompute: bool) -> int:
    """The peak that ramen.device.PeakMemory will measure for tensors of these sizes."""
    total = sum(sizes.values())
    unreturned = 0 if recompute else RESIDENT_SHARE  # of freed blocks, which then go back to the system
    return int(total * (1 + unreturned)) + RESIDENT_BYTES if device_type == "cpu" else total

"""A run tried on fake tensors, which have shapes and types but no storage: its groups, FLOPs and memory, and every range error.

Memory: a step is run and every storage is counted while it lives: parameters, gradients, optimizer state, what the forward pass
keeps, and what comes and goes in between. Not counted: what a kernel takes inside itself, and what is lost between blocks; on a
CPU that is `RESIDENT_SHARE` of all and `RESIDENT_BYTES`, as measured (docs/performance.md), and on CUDA not part of the peak that
torch reports.
Cost: the dispatch of two steps, a few tenths of a second.
"""

import itertools
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ramen.build.objects import (
    CURVES,
    build_curve,
    build_groups,
    build_model,
    build_mtp_share,
    build_optimizers,
    build_section,
    build_windows,
    curve_of,
)
from ramen.config.check import schedules
from ramen.errors import ConfigError
from ramen.nn.gpt import DataSpec, Windows
from ramen.ops.cross_entropy import sketched_as_on
from ramen.optimizer.external import ExternalOptimizer
from ramen.optimizer.optimizers import Optimizers, ParamGroup
from ramen.training.compilation import forward
from ramen.training.phases import POINTS

RESIDENT_SHARE, RESIDENT_BYTES = 0.3, 50_000_000
USABLE = {"cpu": 0.8, "cuda": 1.0}  # of what is free; a CPU's memory has other owners too
ATTENTION_FLOPS = 12  # a visible key: 4 D forward (logits and mix), twice that backward, for each of the D dimensions
Sizes = dict[str, int]

# torch's counter knows the out-of-place form alone.
IN_PLACE = {
    product: lambda total, a, b, **more: 2 * math.prod(a) * b[-1]
    for product in (torch.ops.aten.addmm_, torch.ops.aten.baddbmm_)
}


@dataclass(frozen=True)
class DryRun:
    """What is known of a run before anything is allocated."""

    groups: list[ParamGroup]  # of fake tensors: names, roles and sizes
    costs: dict[str, Any]


def dry_run(
    config: Mapping[str, Any], text: DataSpec, micro_rows: int, precision: torch.dtype, kind: str = "cpu"
) -> DryRun:
    """Build model, groups, optimizers and schedules on fake tensors. ConfigError tells what cannot be."""
    for name in CURVES:
        build_curve(config, name)
    windows = [*map(build_windows(config), POINTS)]
    crossed = [f"{short} > {long}" for long, short in windows if long and short and short > long]
    if crossed:
        raise ConfigError(f"short_window_schedule: takes the short window above the long one, got {crossed[0]}")
    build_section(config, "diagnostics")
    build_mtp_share(config)
    with FakeTensorMode():
        model: Any = build_model(config, text)
        model.after_step()  # parts that cannot keep what they promise of their weights refuse
        groups = build_groups(config, model)
        _check_phases(model, groups, build_optimizers(config, groups), windows)
        for owner in ("optimizer", "auxiliary"):
            _try_schedules(config, owner, groups)
        elements = sum(p.numel() for p in model.parameters())
        costs = {
            "parameters": elements,
            "parameters_without_embeddings": elements - model.embedding_parameters(),
            "flops_per_token": flops_per_token(model, text.sequence_length),
            "memory": estimate_memory(config, text, micro_rows, precision, kind),
        }
    return DryRun(groups, costs)


def _check_phases(model: Any, groups: list[ParamGroup], optimizers: Optimizers, windows: list[Windows]) -> None:
    """Check that position, embedding and optimizer support the scheduled changes; `windows` are those of the run, in order."""
    model.position.check_windows([long for long, _ in windows])
    before = model.windows
    for step, (each, _) in enumerate(itertools.groupby(windows)):
        model.move_windows(each) if step else model.begin(each)
    model.set_windows(before)
    if model.embedding.split_at is not None:
        owners = {group.to for group in groups if group.role in ("embedding", "head")}
        foreign = [name for name in owners if isinstance(optimizers.by_name[name], ExternalOptimizer)]
        if len(owners) > 1 or foreign:
            raise ConfigError(
                "embedding: the split copies the table's optimizer state to the head: routing.embedding.to and routing.head.to "
                f"must be one optimizer, and ramen's own, got {', '.join(sorted(owners))}"
            )


def _try_schedules(config: Mapping[str, Any], owner: str, groups: list[ParamGroup]) -> None:
    """A hyperparameter must be in its range wherever its schedule takes it."""
    for key, node in schedules(config[owner]).items():
        where = f"{owner}.{key}_schedule"
        base = config[owner][key]
        curve = curve_of(node, where, config["allow_targets"])
        for value in sorted({base * curve(part / 20) for part in range(21)}):
            try:
                build_optimizers({**config, owner: {**config[owner], key: value}}, groups)
            except ConfigError as error:
                raise ConfigError(f"{where}: takes {owner}.{key} to {value:g}: {error}") from error


def flops_per_token(model: nn.Module, length: int) -> float:
    """Training FLOPs a token (forward and backward, 2 a multiply-add) in rows of `length` tokens, of a fake model.

    The matrix products of one token in the layers are counted by torch, those of the head are 6 a weight. Attention is added for
    the mean number of visible keys, since the counter knows neither causality nor windows.
    """
    gpt: Any = model
    token = torch.zeros((1, 1), dtype=torch.long)
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        gpt.hidden(token).sum().backward()
    model.zero_grad(set_to_none=True)
    counted = {op: flops for op, flops in counter.get_flop_counts()["Global"].items() if "attention" not in str(op)}
    keys = sum(attention.visible_keys(length) for attention in gpt.attentions)
    return sum(counted.values()) + 6 * gpt.embedding.head().numel() + ATTENTION_FLOPS * gpt.dim * keys


class Accounting(TorchDispatchMode):
    """Counts the bytes of storages that operations inside it make, while they live; `peak` is the most at a time."""

    def __init__(self, tensors: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self._counted: dict[int, tuple[int, Any]] = {}
        for tensor in tensors:
            self.count(tensor)

    def count(self, tensor: Tensor) -> None:
        """Count a tensor's storage, unless it is counted already."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._counted:
            return
        size = storage.nbytes()
        self._counted[key] = size, weakref.ref(storage, lambda _: self._release(key))
        self.bytes += size
        self.peak = max(self.peak, self.bytes)

    def _release(self, key: int) -> None:
        self.bytes -= self._counted.pop(key)[0]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.count(leaf)
        return result


def estimate_memory(
    config: Mapping[str, Any], text: DataSpec, micro_rows: int, precision: torch.dtype, kind: str = "cpu"
) -> Sizes:
    """Bytes at the peak of a step on a kind of device: parameters, gradients, optimizer state, and the rest, activations."""
    recompute = config["trainer"]["activation_checkpointing"]
    accumulates = config["trainer"]["batch_tokens"] > micro_rows * text.sequence_length
    with FakeTensorMode(), sketched_as_on(kind):
        model = build_model(config, text)
        forward(model, "off", recompute)
        optimizers = build_optimizers(config, build_groups(config, model))
        return _step_memory(model, optimizers, micro_rows, text.sequence_length, precision, accumulates=accumulates)


def _step_memory(
    model: nn.Module, optimizers: Optimizers, rows: int, length: int, precision: torch.dtype, *, accumulates: bool
) -> Sizes:
    """The same of a step of (rows, length) tokens of a fake model.

    `accumulates`: a step has several micro-batches, so that gradients are there while the next ones are formed.
    """
    parameters = list(model.parameters())
    owned = [*parameters, *model.buffers()]
    tokens = torch.zeros((rows, length), dtype=torch.long)
    accounting = Accounting(owned)
    with accounting:
        for _ in range(1 + accumulates):
            with torch.autocast("cpu", precision, enabled=precision != torch.float32):
                loss = model(tokens, tokens)
            loss.backward()
            del loss
        differentiating = accounting.peak
        gradients = _bytes([p.grad for p in parameters if p.grad is not None])
        before, accounting.peak = accounting.bytes, 0
        # A foreign method may read its numbers, and there are none: what it has allocated until then is counted.
        with suppress(DataDependentOutputException, DynamicOutputShapeException):
            optimizers.step()
    state = max(0, accounting.bytes - before)
    sizes = {"parameters": _bytes(owned), "gradients": gradients, "optimizer": state}
    return sizes | {"activations": max(differentiating + state, accounting.peak) - sum(sizes.values())}


def peak_bytes(sizes: Sizes, device: torch.device) -> int:
    """What ramen.device.peak_memory will say of tensors of these sizes."""
    total = sum(sizes.values())
    return int(total * (1 + RESIDENT_SHARE)) + RESIDENT_BYTES if device.type == "cpu" else total


def rows_that_fit(largest: int, memory: Callable[[int], Sizes], device: torch.device, free: int) -> int:
    """`trainer.micro_batch_tokens=auto`: the rows, `largest` halved as often as needed, whose peak is within `free` bytes.

    A CPU goes by the estimate (running out of memory there is the end of the process); on CUDA it says where to begin, and
    what is tried on the device decides. The result of a run does not depend on it: gradients are of the mean over the whole batch.
    """
    room, rows = USABLE[device.type] * free, largest
    while (needed := peak_bytes(memory(rows), device)) > room:
        if rows == 1:
            raise ConfigError(
                f"trainer.micro_batch_tokens: auto finds no room for a single row, got {free / 1e6:,.0f} MB free "
                f"and {needed / 1e6:,.0f} MB needed; allowed are a smaller model, shorter rows or activation_checkpointing=true"
            )
        rows = (rows + 1) // 2
    return rows


def _bytes(tensors: Sequence[Tensor]) -> int:
    """Of the storages behind tensors, each once."""
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())

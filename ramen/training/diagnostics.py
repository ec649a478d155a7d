"""Sizes, spectra and angles of the updates of the weights, measured at every N-th step (docs/diagnostics.md).

An update is the weight after a step less the weight before it, whatever made it: the learning rate, decay and what a model does
after a step included. So the measures mean the same for every optimizer.
Cost: nothing but at a step that is due: then two copies of the weights (before it and before the last step), 4 s m n FLOPs for the
Gram matrices of update and weight (m x n, short side s), 8 power_steps s^2 for their norms, and some read-backs a parameter.
"""

import math
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from ramen.ops.bank import upcast
from ramen.ops.power_iteration import spectral_norm, start_vector
from ramen.optimizer.optimizers import ParamGroup

Cut = Literal["role", "layer", "kind", "parameter"]
BLOCK = re.compile(r"^blocks\.(\d+)\.")


def off() -> None:
    """No diagnostics."""


class Diagnostics:
    """Copies weights around the steps that are due, and measures what changed."""

    def __init__(self, *, every_steps: PositiveInt, by: list[Cut], power_steps: PositiveInt):
        if not by or len(set(by)) < len(by):
            raise ValueError(f"by: must name cuts, each once, got {by}; allowed are role, layer, kind, parameter")
        self.every_steps, self.by, self.power_steps = every_steps, by, power_steps
        self._weights: dict[int, list[Tensor]] = {}  # step -> the weights before it
        self._watched: list[tuple[str, ParamGroup, nn.Parameter]] = []

    def watch(self, groups: Iterable[ParamGroup], write: Callable[[dict[str, Any]], None]) -> None:
        """Measure the parameters of these groups; `write` is given one flat line a measured step."""
        self._watched = [(n, group, p) for group in groups for n, p in zip(group.names, group.parameters, strict=True)]
        self._write = write

    @torch.no_grad()
    def before(self, step: int) -> None:
        """Copy the weights if they are needed, before step number `step` (the first is 1) changes them."""
        if self._due(step) or self._due(step + 1):
            self._weights[step] = [p.clone() for _, _, p in self._watched]

    @torch.no_grad()
    def after(self, step: int) -> float:
        """Measure a step that is due, while its gradients are there; returns the seconds it took."""
        seconds = 0.0
        if self._due(step):
            if self._watched[0][2].is_cuda:
                torch.cuda.synchronize(self._watched[0][2].device)  # the step's own time is not ours
            started = time.perf_counter()
            before = self._weights[step]
            older = self._weights.get(step - 1, before)  # without them the last update counts as zero
            weights = zip(self._watched, before, older, strict=True)
            measured = [_measure(*watched, w, last, self.power_steps) for watched, w, last in weights]
            self._write({"step": step} | _line(measured, self.by))
            seconds = time.perf_counter() - started
        self._weights = {k: weights for k, weights in self._weights.items() if k == step and self._due(step + 1)}
        return seconds

    def state_dict(self) -> dict[str, Any]:
        """The weights before the last step while the next one is due, for its angle to the update before; else nothing."""
        return {"weights": self._weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._weights = {
            step: [w.to(p.device) for w, (_, _, p) in zip(weights, self._watched, strict=True)]
            for step, weights in state.get("weights", {}).items()
        }

    def _due(self, step: int) -> bool:
        return step % self.every_steps == 0


@dataclass(frozen=True)
class Measured:
    """One parameter at one step."""

    labels: dict[str, str]  # cut -> where it belongs
    elements: int
    sums: list[float]  # of squares of update, weight, gradient, last update; of products of update and the latter two
    spectra: dict[str, list[float]]  # measure -> one value a matrix that has one


def _measure(
    name: str, group: ParamGroup, p: nn.Parameter, before: Tensor, older: Tensor, power_steps: int
) -> Measured:
    """`before` and `older` are the weights before this step and before the one that came before it."""
    weight = upcast(before)
    update = upcast(p) - weight
    gradient = torch.zeros_like(update) if p.grad is None else upcast(p.grad)
    last = weight - upcast(older)
    pairs = [(x, x) for x in (update, weight, gradient, last)] + [(update, gradient), (update, last)]
    sums = torch.stack([torch.vdot(a.flatten(), b.flatten()) for a, b in pairs]).tolist()
    spectra: dict[str, Tensor] = {}
    for key, x in (("update", update), ("weight", weight)) if p.ndim >= 2 else ():
        x = x.reshape(-1, *x.shape[-2:])
        gram = x.mT @ x if x.shape[-2] >= x.shape[-1] else x @ x.mT  # of the short side (N, s, s)
        square = gram.diagonal(dim1=-2, dim2=-1).sum(dim=-1)  # squared Frobenius norms (N,)
        gram = gram / square.clamp_min(torch.finfo(gram.dtype).tiny)[:, None, None]
        # The largest squared singular values of matrices of norm 1.
        top, _ = spectral_norm(gram, start_vector(gram), steps=power_steps)
        spectra[f"{key}_spectral_norm"] = (square * top).sqrt()[top > 0]
        spectra[f"{key}_stable_rank"] = top[top > 0].reciprocal()
        if key == "update" and group.to == "optimizer":  # zero if all singular values are equal
            spread = gram.shape[-1] * gram.square().sum(dim=(-2, -1)) - 1
            spectra["orthogonality_error"] = spread.clamp_min(0).sqrt()[top > 0]
    block, stem = BLOCK.match(name), name.removesuffix(".weight")
    labels = {"role": group.role, "kind": BLOCK.sub("", stem), "parameter": stem}
    labels |= {"layer": block[1]} if block else {}
    return Measured(labels, p.numel(), sums, {key: value.tolist() for key, value in spectra.items()})


def _line(measured: list[Measured], by: Iterable[Cut]) -> dict[str, float]:
    """`<cut>/<label>/<measure>` -> value; a measure without a value (the angle of no update) is left out."""
    flat: dict[str, float] = {}
    for cut in by:
        for label in dict.fromkeys(m.labels[cut] for m in measured if cut in m.labels):
            chosen = [m for m in measured if m.labels.get(cut) == label]
            flat |= {f"{cut}/{label}/{name}": value for name, value in _figures(chosen).items()}
    return flat


def _figures(chosen: list[Measured]) -> dict[str, float]:
    """Sizes and angles of all elements together, spectra as means over matrices."""
    columns = zip(*(m.sums for m in chosen), strict=True)
    update, weight, gradient, last, along_gradient, along_last = map(sum, columns)
    figures = {"update_rms": math.sqrt(update / sum(m.elements for m in chosen))}
    ratios = (
        ("update_to_weight", math.sqrt(update), math.sqrt(weight)),
        ("cosine_to_descent", -along_gradient, math.sqrt(update * gradient)),
        ("cosine_to_last_update", along_last, math.sqrt(update * last)),
    )
    figures |= {name: value / size for name, value, size in ratios if size > 0}
    for name in dict.fromkeys(name for m in chosen for name in m.spectra):
        values = [value for m in chosen for value in m.spectra.get(name, ())]
        figures |= {name: sum(values) / len(values)} if values else {}
    return figures

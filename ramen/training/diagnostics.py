"""What a step does to the weights: sizes, spectra and angles of updates, measured at every N-th step (docs/diagnostics.md).

An update is the weight after a step less the weight before it, whatever made it: the learning rate, decay and what a model does
after a step included. So the measures mean the same for every optimizer.
Cost: nothing but at a step that is due: then two copies of the weights (before it and before the last step), 4 s m n FLOPs for the
Gram matrices of update and weight (m x n, short side s), 8 power_steps s^2 for their norms, and one read-back.
"""

import math
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ramen.ops.bank import upcast
from ramen.ops.power_iteration import spectral_norm, start_vector
from ramen.optimizer.optimizers import ParamGroup

Cut = Literal["role", "layer", "kind", "parameter"]
BLOCK = re.compile(r"^blocks\.(\d+)\.")


def off() -> None:
    """No diagnostics."""


class Diagnostics:
    """Copies weights around the steps that are due, and tells what those steps were."""

    def __init__(self, *, every_steps: int, by: list[Cut], power_steps: int):
        for key, value in (("every_steps", every_steps), ("power_steps", power_steps)):
            if value < 1:
                raise ValueError(f"{key}: must be >= 1, got {value}")
        if not by or len(set(by)) < len(by):
            raise ValueError(f"by: must name cuts, each once, got {by}; allowed are role, layer, kind, parameter")
        self.every_steps, self.by, self.power_steps = every_steps, by, power_steps
        self._weights: dict[int, list[Tensor]] = {}  # step -> the weights before it
        self._held: list[tuple[str, ParamGroup, nn.Parameter]] = []
        self._tell: Callable[[dict[str, Any]], None] = lambda line: None

    def watch(self, groups: Iterable[ParamGroup], tell: Callable[[dict[str, Any]], None]) -> None:
        """Measure the parameters of these groups; `tell` is given one flat line a measured step."""
        self._held = [(n, group, p) for group in groups for n, p in zip(group.names, group.parameters, strict=True)]
        self._tell = tell

    @torch.no_grad()
    def before(self, step: int) -> None:
        """To be called before step number `step` (the first is 1) changes a weight."""
        if self._due(step) or self._due(step + 1):
            self._weights[step] = [p.clone() for _, _, p in self._held]

    @torch.no_grad()
    def after(self, step: int) -> float:
        """To be called after it, while the gradients are there. Returns the seconds it took."""
        seconds = 0.0
        if self._due(step):
            if self._held[0][2].is_cuda:
                torch.cuda.synchronize(self._held[0][2].device)  # the step's own time is not ours
            started = time.perf_counter()
            self._tell({"step": step} | line(self._measure(step), self.by))
            seconds = time.perf_counter() - started
        self._weights = {k: weights for k, weights in self._weights.items() if k == step and self._due(step + 1)}
        return seconds

    def state_dict(self) -> dict[str, Any]:
        """The weights before the last step while the next one is due, for its angle to the update before; else nothing."""
        return {"weights": self._weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._weights = {
            step: [w.to(p.device) for w, (_, _, p) in zip(weights, self._held, strict=True)]
            for step, weights in state.get("weights", {}).items()
        }

    def _due(self, step: int) -> bool:
        return step % self.every_steps == 0

    def _measure(self, step: int) -> "list[Measured]":
        before, older = self._weights[step], self._weights.get(step - 1)
        sums, grams = [], []
        for k, (_, _, p) in enumerate(self._held):
            weight = upcast(before[k])
            update = upcast(p) - weight
            gradient = torch.zeros_like(update) if p.grad is None else upcast(p.grad)
            previous = torch.zeros_like(update) if older is None else weight - upcast(older[k])
            pairs = [(x, x) for x in (update, weight, gradient, previous)] + [(update, gradient), (update, previous)]
            sums.append(torch.stack([torch.vdot(a.flatten(), b.flatten()) for a, b in pairs]))
            if p.ndim >= 2:
                grams.append(torch.stack([_gram(update), _gram(weight)]))  # (2, N, s, s)
        spectra = self._spectra(grams)
        flat = torch.cat([x.double().flatten() for x in (*sums, *spectra)]).tolist()  # the one read-back
        told, rest = flat[: 6 * len(sums)], iter(flat[6 * len(sums) :])
        measured = []
        for k, (name, group, p) in enumerate(self._held):
            matrices = math.prod(p.shape[:-2]) if p.ndim >= 2 else 0
            spectrum = [[next(rest) for _ in range(matrices)] for _ in range(6)]
            orthogonal = group.to == "optimizer"
            measured.append(Measured(_labels(name, group), p, told[6 * k : 6 * k + 6], spectrum, orthogonal))
        return measured

    def _spectra(self, grams: list[Tensor]) -> list[Tensor]:
        """Of each parameter's update and weight: squared norm, largest squared singular value and sum of fourth powers (6, N).

        The latter two are of matrices at norm 1.
        """
        found: dict[int, Tensor] = {}
        for side in {gram.shape[-1] for gram in grams}:  # one iteration for all of a size
            which = [k for k, gram in enumerate(grams) if gram.shape[-1] == side]
            bank = torch.cat([grams[k] for k in which], dim=1)  # (2, N, s, s)
            trace = bank.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
            bank = bank / trace.clamp_min(torch.finfo(bank.dtype).tiny)[..., None, None]
            largest, _ = spectral_norm(bank, start_vector(bank), steps=self.power_steps)
            figures = torch.stack([trace, largest, bank.square().sum(dim=(-2, -1))]).flatten(0, 1)
            found |= dict(zip(which, figures.split([grams[k].shape[1] for k in which], dim=1), strict=True))
        return [found[k] for k in range(len(grams))]


@dataclass(frozen=True)
class Measured:
    """One parameter at one step."""

    labels: dict[str, str]  # cut -> where it belongs
    parameter: nn.Parameter
    sums: list[float]  # of squares of update, weight, gradient, last update; of products of update and the latter two
    spectrum: list[list[float]]  # the rows of _spectra, one value a matrix
    orthogonal: bool  # a matrix optimizer's

    def spectra(self) -> "dict[str, list[float]]":
        """Measure -> one value a matrix that has one."""
        u2, w2, u_top, w_top, u4, _ = self.spectrum
        side = min(self.parameter.shape[-2:]) if u2 else 0
        made = {}
        for name, squares, tops in (("update", u2, u_top), ("weight", w2, w_top)):
            pairs = [(square, top) for square, top in zip(squares, tops, strict=True) if top > 0]
            made[f"{name}_spectral_norm"] = [math.sqrt(square * top) for square, top in pairs]
            made[f"{name}_stable_rank"] = [1 / top for _, top in pairs]
        moved = zip(u4, u_top, strict=True) if self.orthogonal else ()
        return made | {"orthogonality_error": [math.sqrt(max(0.0, side * x - 1)) for x, top in moved if top > 0]}


def line(measured: list[Measured], by: Iterable[Cut]) -> dict[str, float]:
    """`<cut>/<where>/<measure>` -> value; a measure without a value (the angle of no update) is left out."""
    flat: dict[str, float] = {}
    for cut in by:
        for where in dict.fromkeys(m.labels[cut] for m in measured if cut in m.labels):
            chosen = [m for m in measured if m.labels.get(cut) == where]
            flat |= {f"{cut}/{where}/{name}": value for name, value in _figures(chosen).items()}
    return flat


def _figures(chosen: list[Measured]) -> dict[str, float]:
    """Sizes and angles of all elements together, spectra as means over matrices."""
    update, weight, gradient, last, along, again = (
        sum(column) for column in zip(*(m.sums for m in chosen), strict=True)
    )
    made = {"update_rms": math.sqrt(update / sum(m.parameter.numel() for m in chosen))}
    ratios = (
        ("update_to_weight", math.sqrt(update), math.sqrt(weight)),
        ("cosine_to_descent", -along, math.sqrt(update * gradient)),
        ("cosine_to_last_update", again, math.sqrt(update * last)),
    )
    made |= {name: value / size for name, value, size in ratios if size > 0}
    spectra = [m.spectra() for m in chosen]
    for name in spectra[0]:
        values = [value for of_one in spectra for value in of_one[name]]
        made |= {name: sum(values) / len(values)} if values else {}
    return made


def _labels(name: str, group: ParamGroup) -> dict[str, str]:
    block, stem = BLOCK.match(name), name.removesuffix(".weight")
    labels = {"role": group.role, "kind": BLOCK.sub("", stem), "parameter": stem}
    return labels | ({"layer": block[1]} if block else {})


def _gram(x: Tensor) -> Tensor:
    """The Gram matrices (N, s, s) of the short side of x (..., m, n)."""
    x = x.reshape(-1, *x.shape[-2:])
    return x.mT @ x if x.shape[-2] >= x.shape[-1] else x @ x.mT

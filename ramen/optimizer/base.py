"""What all matrix optimizers share: momentum, Nesterov, shape scaling, decay, the hyperball, and banks.

Parameters are batches of matrices (..., m, n). All matrices of one shape in a group are stacked into one bank (N, m, n), so that
a method is a batched tensor function called once a shape. State lives in banks too; `state[p]` holds views of them, so
`state_dict` and `load_state_dict` are torch's own. State is float32 (or wider, as its parameter), `p.grad` is never modified,
nothing is read back from the device, and a parameter without a gradient is left alone.

    M <- lerp(M, G, 1 - momentum);  U = lerp(G, M, momentum) with Nesterov, else M;  D = direction(U)
    W <- W - lr scale(m, n) D - lr^p weight_decay mask W;  hyperball: W <- W R / ||W||_F

mask is 1, or when cautious 1[D W >= 0] with W before the step; p is `decay_lr_power`: 1, or 2 as in modded-nanogpt, where decay
follows the learning rate's schedule twice. R is ||W||_F before the first step. A matrix that starts at zero has no sphere: it
grows to R = sqrt(m), the norm of a dense map that keeps RMS, and stays inside.
Sources: Muon, https://kellerjordan.github.io/posts/muon ; RMS scaling: Moonlight, arXiv 2502.16982; cautious weight decay:
Chen et al. 2025, arXiv 2510.12402; hyperball (MuonH): Wen et al. 2025, github.com/KellerJordan/modded-nanogpt/pull/267.
Cost: about 12 m n a step besides the direction, bound by memory. State: momentum m n; hyperball 1 number.
Differs from the sources: the hyperball leaves the step's own norm alone, so that it composes with every method (under spectral
scaling an orthogonal step from a start of standard deviation 1 / sqrt(n) has norm lr R, as in the source).
"""

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ramen.ops.bank import accumulate, descend, is_zero, stack, unstack, warm
from ramen.ops.checks import check_at_least, check_one_of, check_within

Scaling = Literal["spectral", "rms", "none"]
IterationType = Literal["auto", "bfloat16", "float32"]
MOMENTUM, RADIUS = "momentum", "radius"
Group = dict[str, Any]
State = dict[str, Tensor]
Initial = Callable[[Tensor, Group], State]


def shape_scale(scaling: Scaling, rows: int, columns: int) -> float:
    """What the step is multiplied by: spectral sqrt(max(1, m/n)), rms 0.2 sqrt(max(m, n)) (an orthogonal step gets RMS 0.2)."""
    if scaling == "spectral":
        return math.sqrt(max(1.0, rows / columns))
    if scaling == "rms":
        return 0.2 * math.sqrt(max(rows, columns))
    return 1.0


def iteration_type(choice: IterationType, device: torch.device) -> torch.dtype | None:
    """The type an iteration of matrix products runs in; None: the input's own, or float32 for a 16-bit one.

    auto is bfloat16 where the device has units for its products (CUDA, a CPU with AMX), by what the device says of itself: a clock
    would choose otherwise on a busy machine.
    """
    if choice == "auto":
        fast = device.type == "cuda" or (device.type == "cpu" and torch.cpu._is_amx_tile_supported())
        return torch.bfloat16 if fast else None
    return torch.bfloat16 if choice == "bfloat16" else torch.float32


@dataclass
class Bank:
    """Parameters of one shape that have a gradient now, and their stacked state: name -> (N, ...)."""

    params: tuple[Tensor, ...]
    state: State = field(default_factory=dict)

    def gradients(self) -> list[Tensor]:
        """The gradient of each parameter."""
        return [p.grad for p in self.params if p.grad is not None]

    def gradient(self) -> Tensor:
        """A copy of the gradients (N, m, n), float32 or wider."""
        return stack(self.gradients())

    def weight(self) -> Tensor:
        """A copy of the parameters (N, m, n), float32 or wider."""
        return stack(self.params)


class MatrixOptimizer(torch.optim.Optimizer):
    """Base of the methods under comparison; a method says its `direction`, and hands on `**base`."""

    tensors = frozenset({"lr", "momentum", "weight_decay"})  # hyperparameters that a schedule may keep on the device
    cpu_bank_elements = 1 << 24  # on a CPU a bank is not larger than this, for its cache; a launch costs little there

    def __init__(
        self, params: Any, *, lr: float, momentum: float, nesterov: bool, weight_decay: float, cautious: bool,
        decay_lr_power: Literal[1, 2], hyperball: bool, **own: Any,
    ):  # fmt: skip
        check_at_least(0, lr=lr, weight_decay=weight_decay)
        check_within(0, 1, momentum=momentum)
        check_one_of(1, 2, decay_lr_power=decay_lr_power)
        defaults = dict(lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, cautious=cautious)
        defaults |= {"decay_lr_power": decay_lr_power, "hyperball": hyperball, "scaling": "none"} | own
        check_one_of("spectral", "rms", "none", scaling=defaults["scaling"])
        super().__init__(params, defaults)
        self._banks: dict[tuple[Any, ...], Bank] = {}
        self._stacked = 0  # banks made so far
        vectors = [tuple(p.shape) for group in self.param_groups for p in group["params"] if p.ndim < 2]
        if vectors:
            raise ValueError(f"{type(self).__name__} takes matrices (..., m, n), got a parameter of shape {vectors[0]}")
        for group in self.param_groups:
            warm(
                group["params"][0], nesterov=group["nesterov"], decay=group["weight_decay"], cautious=group["cautious"]
            )  # fmt: skip

    def direction(self, momentum: Tensor, state: State, group: Group) -> Tensor:
        """The step's direction (N, m, n) for momentum (N, m, n); may update banks of `state` in place."""
        raise NotImplementedError

    def initial_state(self, matrices: Tensor, group: Group) -> State:
        """The method's own state for matrices (N, m, n), float32 or wider, with a leading axis N: name -> bank."""
        return {}

    def update(self, bank: Bank, group: Group) -> None:
        """One step of the matrices of a bank."""
        self.move(bank, self.direction(self.accumulate(bank, group), bank.state, group), group)

    def accumulate(self, bank: Bank, group: Group) -> Tensor:
        """Take the gradients into the momentum; returns the momentum (N, m, n), which is state, or Nesterov's."""
        return accumulate(
            bank.gradients(), bank.state[MOMENTUM], beta=group["momentum"], nesterov=group["nesterov"]
        )  # fmt: skip

    def move(
        self,
        bank: Bank,
        direction: Tensor,
        group: Group,
        *,
        step_scale: Tensor | None = None,
        decay_target: Tensor | None = None,
    ) -> None:
        """W <- W - lr step_scale scale direction, with decay.

        step_scale (N, 1, 1): a method's own factor; decay_target (N, m, n): what decays in W's place.
        """
        weight_decay = group["weight_decay"]
        descend(
            bank.params, direction,
            rate=group["lr"] * shape_scale(group["scaling"], *direction.shape[-2:]),
            decay=0.0 if is_zero(weight_decay) else group["lr"] ** group["decay_lr_power"] * weight_decay,
            cautious=group["cautious"], decay_target=decay_target, step_scale=step_scale, radius=bank.state.get(RADIUS),
        )  # fmt: skip

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.begin()
        self.launch()
        return loss

    def begin(self) -> Hashable:
        """Count a step; steps that this returns the same for launch the same work on the same state."""
        return self._stacked

    @torch.no_grad()
    def launch(self) -> None:
        """The device's part of the step begun."""
        for index, group in enumerate(self.param_groups):
            self.step_group(index, [p for p in group["params"] if p.grad is not None], group)

    def step_group(self, index: int, params: list[Tensor], group: Group) -> None:
        """One step of those parameters of a group that have a gradient."""
        for bank in self.banks(index, params, group):
            self.update(bank, group)

    def banks(self, index: int, params: list[Tensor], group: Group) -> Iterator[Bank]:
        """These parameters of a group, in banks."""
        kinds: dict[tuple[Any, ...], list[Tensor]] = {}
        for p in params:
            kinds.setdefault((index, p.shape[-2:], p.dtype, p.device), []).append(p)
        for key, members in kinds.items():
            size = self.cpu_bank_elements // members[0].numel() if members[0].device.type == "cpu" else len(members)
            for start in range(0, len(members), max(1, size)):
                yield self.bank((*key, start), members[start : start + max(1, size)], group)

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        # torch gives state its parameter's type and shares memory with the dict; here it keeps its own type, in a copy.
        names = [name for saved in state_dict["param_groups"] for name in saved["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        for name, p in zip(names, params, strict=True):
            for key, value in state_dict["state"].get(name, {}).items():
                self.state[p][key] = value.detach().to(p.device, copy=True)
        self._banks.clear()  # they are stacked anew from these tensors

    def bank(
        self, key: tuple[Any, ...], params: Sequence[Tensor], group: Group, initial: Initial | None = None
    ) -> Bank:
        """The bank of these parameters with their state (`initial`'s), kept under `key` while the parameters are the same."""
        known = self._banks.get(key)
        if known is not None and [*map(id, known.params)] == [*map(id, params)]:
            return known
        held = set(map(id, params))  # a bank that shares a parameter with the new one would be out of date
        self._banks = {k: b for k, b in self._banks.items() if held.isdisjoint(map(id, b.params))}
        bank = Bank(tuple(params))
        weight = bank.weight()
        fresh = {MOMENTUM: torch.zeros_like(weight), **(initial or self.initial_state)(weight, group)}
        if group["hyperball"]:
            fresh[RADIUS] = torch.linalg.vector_norm(weight, dim=(-2, -1))
        for name, start in fresh.items():
            views = unstack(start, params)
            for p, view in zip(params, views, strict=True):
                kept = self.state[p].get(name)
                if kept is not None:
                    view.copy_(kept)
                self.state[p][name] = view
            bank.state[name] = start
        self._banks[key] = bank
        self._stacked += 1
        return bank

"""Base of ramen's optimizers: checked groups, a step in two parts; for matrices momentum, scaling, decay, hyperball, banks.

Parameters are matrices (m, n) or banks of independent matrices (N, m, n). All matrices of one shape in a group are stacked into one
bank, so that a method is a batched tensor function called once a shape. State lives in banks too; `state[p]` holds views of them.
State is float32 (or wider, as its parameter), `p.grad` is never modified, nothing is read back from the device, and a parameter
without a gradient is left alone.

    M <- lerp(M, G, 1 - momentum);  U = lerp(G, M, momentum) with Nesterov, else M;  D = direction(U)
    W <- W - lr scale(m, n) D - rate weight_decay mask W;  hyperball: W <- W R / ||W||_F

mask is 1, or when cautious 1[D W >= 0] with W before the step. By `decay_lr_power` the rate of decay is lr (1), or lr^2 scale(m, n)
(2) as in modded-nanogpt, where decay follows the learning rate's schedule twice, and the step's shape factor. R is ||W||_F before
the first step. A matrix that starts at zero has no sphere: it grows to R = sqrt(m), the norm of a dense map that keeps RMS, and
stays inside.
Sources: Muon, https://kellerjordan.github.io/posts/muon ; RMS scaling: Moonlight, arXiv 2502.16982; cautious weight decay:
Chen et al. 2025, arXiv 2510.12402; hyperball (MuonH): Wen et al. 2025, github.com/KellerJordan/modded-nanogpt/pull/267.
Cost: about 12 m n a step besides the direction, bound by memory. State: momentum m n; hyperball 1 number.
Differs from the sources: the hyperball leaves the step's own norm alone, so that it composes with every method (under spectral
scaling an orthogonal step from a start of standard deviation 1 / sqrt(n) has norm lr R, as in the source).
"""

import inspect
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args, get_origin

import torch
from torch import Tensor

from ramen.ops.bank import accumulate, descend, is_zero, stack, unstack, warm
from ramen.ops.checks import Fraction, NotNegative, check_one_of

Scaling = Literal["spectral", "rms", "none"]
IterationType = Literal["auto", "bfloat16", "float32"]
MOMENTUM, RADIUS = "momentum", "radius"
Group = dict[str, Any]  # one of torch's param_groups
State = dict[str, Tensor]
# Keys of a group that are no hyperparameters: torch's own, those of its schedules, and a name.
OF_TORCH = frozenset(
    {"params", "param_names", "name", "initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum"}
)


class Optimizer(torch.optim.Optimizer):
    """Base of ramen's optimizers: each group is checked, and a step is what Python does and what the device does.

    `begin` and `launch` are apart so that launches can be replayed as a CUDA graph (ramen.kernels.cuda.graphs).
    """

    tensors: frozenset[str] = frozenset()  # hyperparameters that a schedule may keep on the device
    group_state: frozenset[str] = frozenset()  # keys that the method itself writes into its groups

    @classmethod
    def hyperparameters(cls) -> dict[str, Any]:
        """Annotations of the keyword-only arguments of the method's constructor and of its bases', by name."""
        constructors = [vars(owner)["__init__"] for owner in reversed(cls.__mro__) if "__init__" in vars(owner)]
        arguments = [each for one in constructors for each in inspect.signature(one).parameters.values()]
        return {each.name: each.annotation for each in arguments if each.kind is inspect.Parameter.KEYWORD_ONLY}

    def check(self, group: Group) -> None:
        """TypeError for an unknown key; ValueError unless values, by their annotations, and parameters suit the method."""
        known = self.hyperparameters()
        if unknown := sorted(set(group) - set(known) - self.group_state - OF_TORCH):
            allowed = ", ".join(sorted(known))
            raise TypeError(f"{type(self).__name__}: unknown {', '.join(unknown)}; allowed are {allowed}")
        for key, annotation in known.items():
            if get_origin(annotation) is Literal:
                check_one_of(*get_args(annotation), **{key: group[key]})
            elif get_origin(annotation) is Annotated:
                for check in get_args(annotation)[1:]:
                    check(**{key: group[key]})

    def add_param_group(self, param_group: Group) -> None:
        super().add_param_group(param_group)
        try:
            self.check(self.param_groups[-1])
        except Exception:
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None if closure is None else torch.enable_grad()(closure)()
        self.begin()
        self.launch()
        return loss

    def begin(self) -> Hashable:
        """Count a step; equal results mean that `launch` does the same work on the same state."""
        return None

    @torch.no_grad()
    def launch(self) -> None:
        """The device's part of the step."""
        for index, group in enumerate(self.param_groups):
            self.step_group(index, [p for p in group["params"] if p.grad is not None], group)

    def step_group(self, index: int, params: list[Tensor], group: Group) -> None:
        """One step of those parameters of a group that have a gradient."""
        raise NotImplementedError

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.defaults.pop("differentiable", None)  # torch puts it there; it is no hyperparameter of these methods
        for group in self.param_groups:  # a checkpoint may be older than a hyperparameter
            group.update({key: value for key, value in self.defaults.items() if key not in group})

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        # torch gives state its parameter's type and shares memory with the dict; here it keeps its own type, in a copy.
        names = [name for saved in state_dict["param_groups"] for name in saved["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        for name, p in zip(names, params, strict=True):
            for key, value in state_dict["state"].get(name, {}).items():
                self.state[p][key] = value.detach().to(p.device, copy=True)


def shape_scale(scaling: Scaling, rows: int, columns: int) -> float:
    """The step's factor: spectral sqrt(max(1, m/n)), rms 0.2 sqrt(max(m, n)) (an orthogonal step gets RMS 0.2), none 1."""
    spectral, rms = math.sqrt(max(1.0, rows / columns)), 0.2 * math.sqrt(max(rows, columns))
    return {"spectral": spectral, "rms": rms, "none": 1.0}[scaling]


def iteration_type(choice: IterationType, device: torch.device) -> torch.dtype | None:
    """The type that an iteration of matrix products runs in; None: the input's own, or float32 for a 16-bit one.

    auto is bfloat16 on devices that report units for it (CUDA, a CPU with AMX): a clock could choose differently on a busy machine.
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
    momenta: list[Tensor] = field(default_factory=list)  # views of the stacked momentum, one a parameter
    fresh: Tensor | None = None  # (N, 1, 1): matrices in their first step; a method that reads it resets it

    @property
    def gradients(self) -> list[Tensor]:
        return [p.grad for p in self.params if p.grad is not None]


class MatrixOptimizer(Optimizer):
    """Base of the methods under comparison; a method says its `direction`, and hands on `**base`."""

    tensors = frozenset({"lr", "momentum", "weight_decay"})
    cpu_bank_elements = 1 << 24  # on a CPU a bank is not larger than this, for its cache; a launch costs little there

    def __init__(
        self, params: Any, *, lr: NotNegative, momentum: Fraction, nesterov: bool, weight_decay: NotNegative, cautious: bool,
        decay_lr_power: Literal[1, 2], hyperball: bool, **method: Any,
    ):  # fmt: skip
        self._banks: dict[tuple[int, ...], Bank] = {}  # by the ids of their parameters
        self._stacked = 0  # banks made so far
        super().__init__(params, dict(
            lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, cautious=cautious,
            decay_lr_power=decay_lr_power, hyperball=hyperball, **method,
        ))  # fmt: skip

    def check(self, group: Group) -> None:
        super().check(group)
        if wrong := [tuple(p.shape) for p in group["params"] if p.ndim not in (2, 3)]:
            raise ValueError(
                f"{type(self).__name__} takes matrices (m, n) and banks of them (N, m, n), got a parameter of shape {wrong[0]}; "
                "give any other to another optimizer, or reshape it to two axes"
            )
        for p in group["params"][:1]:
            warm(p, nesterov=group["nesterov"], decay=group["weight_decay"], cautious=group["cautious"])

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
        return accumulate(bank.gradients, bank.state[MOMENTUM], beta=group["momentum"], nesterov=group["nesterov"])

    def move(
        self, bank: Bank, direction: Tensor, group: Group, *, step_scale: Tensor | None = None, decay_target: Tensor | None = None
    ) -> None:  # fmt: skip
        """W <- W - lr step_scale scale direction, decayed.

        step_scale (N, 1, 1): a method's own factor; decay_target (N, m, n): what decays in W's place.
        """
        lr, weight_decay = group["lr"], group["weight_decay"]
        rate = lr * shape_scale(group.get("scaling", "none"), *direction.shape[-2:])
        descend(
            bank.params, direction, rate=rate,
            decay=0.0 if is_zero(weight_decay) else (lr if group["decay_lr_power"] == 1 else lr * rate) * weight_decay,
            cautious=group["cautious"], decay_target=decay_target, step_scale=step_scale, radius=bank.state.get(RADIUS),
        )  # fmt: skip

    def begin(self) -> Hashable:
        """Forget banks whose state was replaced in `self.state`, by a load or a clear."""
        self._banks = {
            key: bank
            for key, bank in self._banks.items()
            if all(self.state.get(p, {}).get(MOMENTUM) is m for p, m in zip(bank.params, bank.momenta, strict=True))
        }
        return self._stacked, len(self._banks)

    def step_group(self, index: int, params: list[Tensor], group: Group) -> None:
        for bank in self.banks(params, group):
            self.update(bank, group)

    def banks(self, params: list[Tensor], group: Group) -> Iterator[Bank]:
        """These parameters of a group, in banks."""
        kinds: dict[tuple[Any, ...], list[Tensor]] = {}
        for p in params:
            kinds.setdefault((p.shape[-2:], p.dtype, p.device), []).append(p)
        for members in kinds.values():
            size = self.cpu_bank_elements // members[0].numel() if members[0].device.type == "cpu" else len(members)
            for start in range(0, len(members), max(1, size)):
                yield self.bank(members[start : start + max(1, size)], group)

    def bank(self, params: Sequence[Tensor], group: Group, initial: Callable[..., State] | None = None) -> Bank:
        """The bank of these parameters with their state, made once; its first state is `initial`'s or `initial_state`'s."""
        key = tuple(map(id, params))
        if key in self._banks:
            return self._banks[key]
        # A bank that shares a parameter with the new one would be out of date.
        self._banks = {other: bank for other, bank in self._banks.items() if set(other).isdisjoint(key)}
        bank, weight = Bank(tuple(params)), stack(params)
        is_fresh = [MOMENTUM not in self.state.get(p, {}) for p in params]
        if any(is_fresh):
            bank.fresh = torch.ones(len(weight), 1, 1, dtype=torch.bool, device=weight.device)
            for fresh, value in zip(unstack(bank.fresh, params), is_fresh, strict=True):
                fresh.fill_(value)  # on the device: a copy from the host would wait for it
        bank.state = {MOMENTUM: torch.zeros_like(weight), **(initial or self.initial_state)(weight, group)}
        if group["hyperball"]:
            bank.state[RADIUS] = torch.linalg.vector_norm(weight, dim=(-2, -1))
        for name, stacked in bank.state.items():
            for p, view in zip(params, unstack(stacked, params), strict=True):
                saved = self.state[p].get(name)
                if saved is not None:
                    view.copy_(saved)
                self.state[p][name] = view
        bank.momenta = [self.state[p][MOMENTUM] for p in params]
        self._banks[key] = bank
        self._stacked += 1
        return bank

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._banks = {}  # after a copy, an unpickling or a load; the next step stacks them anew
        self._stacked = vars(self).get("_stacked", 0)

"""YaRN: half-truncated RoPE whose slow pairs are stretched, and whose logits are sharpened, each time the long window grows.

When the window goes from w to w', a pair that makes r = w omega / 2 pi turns in the old window is
    omega <- omega (w / w') where r < slow_turns,   omega where r > fast_turns,   and in between a mix, linear in r,
and all logits are multiplied by 1 + sharpening ln(w' / w). At the start it goes from `original_tokens`, the window that the
frequencies are made for, to the long window of the first step, or to the row where that window is unlimited.
Sources: Peng et al. 2023, arXiv 2309.00071 (NTK by parts; its temperature is 0.1 ln s + 1 on queries and on keys); applied at each
change of the window: modded-nanogpt.
Cost: as half_rope; a table anew at each change. State: frequencies and gain are in the checkpoint, for they depend on the path:
384 -> 768 is not 384 -> 512 -> 768.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ramen.errors import ConfigError
from ramen.nn.position.half_rope import HalfRoPE
from ramen.ops.checks import check_range
from ramen.ops.rotary import rotation_table


class YaRN(HalfRoPE):
    """HalfRoPE that follows the long window and multiplies logits by `gain`."""

    frequencies: Tensor
    saved_gain: Tensor

    def __init__(
        self,
        head_width: int,
        sequence_length: int,
        dim: int,
        *,
        base: float,
        original_tokens: int | None,
        slow_turns: float,
        fast_turns: float,
        sharpening: float,
    ):
        super().__init__(head_width, sequence_length, dim, base=base)
        if not 0 <= slow_turns < fast_turns:
            raise ValueError(f"slow_turns must be in [0, fast_turns), got {slow_turns} and {fast_turns}")
        check_range("[1, inf) or null", original_tokens=original_tokens)
        check_range("[0, inf)", sharpening=sharpening)
        self.original, self.unscaled = original_tokens, self.spectrum(head_width, base)
        self.slow, self.fast, self.sharpening = slow_turns, fast_turns, sharpening
        self.register_buffer("frequencies", self.unscaled.clone())
        self.register_buffer("saved_gain", torch.ones((), dtype=torch.float64, device="cpu"))
        self.register_load_state_dict_post_hook(YaRN._loaded)

    def check_windows(self, windows: Sequence[int | None]) -> None:
        if self.original is None and len(set(windows)) == 1:
            raise ConfigError(
                "position.original_tokens: without it, this position only follows changes of the long window, and there are none: "
                "choose position=half_rope, the same then, or set attention.long_window_tokens and long_window_schedule, got null"
            )

    def start(self, window: int) -> None:
        if self.original is not None:
            self.frequencies.copy_(self.unscaled)
            self.gain = 1.0
            self.rescale(self.original, window)

    @torch.no_grad()
    def rescale(self, old: int, new: int) -> None:
        turns = float(old) * self.frequencies / (2 * math.pi)
        unchanged = ((turns - self.slow) / (self.fast - self.slow)).clamp(0, 1)
        ratio, factor = old / new, 1 + self.sharpening * math.log(new / old)
        if factor <= 0:
            raise ConfigError(
                f"position.sharpening: a window that shrinks from {old} to {new} tokens would multiply logits by {factor:.2f}, "
                f"got {self.sharpening}; allowed is below {1 / math.log(old / new):.3f}, or other windows or original_tokens"
            )
        self.frequencies.mul_(ratio + unchanged * (1 - ratio))
        self.gain *= factor
        self.saved_gain.fill_(self.gain)
        self.turn()

    def turn(self) -> None:
        """Make the table anew from the frequencies."""
        self.table.copy_(rotation_table(self.frequencies, self.table.shape[0]))

    def _loaded(self, keys: Any) -> None:
        self.gain = self.saved_gain.item()
        self.turn()

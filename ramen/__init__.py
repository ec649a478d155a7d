"""ramen: fair, fast, single-GPU ablations of GPT training.

Axis legend, used in every shape comment:
B batch (rows), T time (tokens of a row), D model width, H heads, K head width, F hidden width of an MLP, V vocabulary,
S residual streams, L layers, N matrices of one shape stacked into a bank, m rows and n columns of a matrix.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ramen.inference.load import Run

__version__ = "0.2.0"


def load(run_folder: Any, device: Any = "cpu", step: Any = None) -> "Run":
    """A trained run, opened again: config, model, tokenizer; encode, generate, loss (see ramen.inference.load)."""
    from ramen.inference.load import open_run  # here, so that `import ramen` imports no torch

    return open_run(run_folder, device, step)

"""The forward pass: eager, compiled whole or block by block, with activations stored or computed again.

on: the model is one graph. regional: a block is one graph, which all layers share: it compiles in the time of a block. auto: on for
CUDA, off on a CPU, where half a minute of compiling gains a few percent over the C kernels (docs/performance.md).
Graphs hold no weights and no hyperparameters, so the jobs of a sweep share them; compiled code is stored in the user's
cache folder for later processes. A model that does not compile, or compiles ever anew, is an error: nothing runs eagerly unasked.
Recomputation: Chen et al. 2016, arXiv 1604.06174. A block keeps its input alone and runs again in the backward pass: a third more
FLOPs, gradients bitwise the same.
"""

import functools
import logging
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from ramen.device import cache_folder
from ramen.errors import ConfigError
from ramen.nn.gpt import run

log = logging.getLogger("ramen")
CompileMode = Literal["on", "off", "regional"]
RECOMPILE_LIMIT = 64  # of one function: batch sizes x windows x modes of all jobs of a process


def choose_compile_mode(choice: Literal["auto", "on", "off", "regional"], device: torch.device) -> CompileMode:
    """`auto` is on for CUDA and off for a CPU; any other choice stands."""
    if choice == "auto":
        return "on" if device.type == "cuda" else "off"
    return choice


def loss_function(model: Any, mode: CompileMode, recompute: bool) -> Callable[..., Tensor]:
    """The model's loss as a function of tokens, targets and, if known, the number of documents."""
    run_block: Callable[..., Tensor] = run
    if mode != "off":
        configure_compiler()
    if mode == "regional":
        run_block = torch.compile(run, dynamic=False, fullgraph=True)
    for attention in model.attentions:
        attention.compiled = mode == "regional"
    if recompute:
        from torch.utils.checkpoint import checkpoint

        # There is no dropout.
        run_block = functools.partial(checkpoint, run_block, use_reentrant=False, preserve_rng_state=False)
    if mode != "on":
        return functools.partial(model, run_block=run_block)
    graph = torch.compile(model, dynamic=False, fullgraph=True)  # the same for any number of documents
    return lambda tokens, targets, documents=None: graph(tokens, targets, run_block=run_block)


def configure_compiler() -> None:
    """Bound recompilation, and store compiled code in the user's cache folder or where the environment says."""
    for key, folder in (("TORCHINDUCTOR_CACHE_DIR", "inductor"), ("TRITON_CACHE_DIR", "triton")):
        os.environ.setdefault(key, str(cache_folder() / folder))  # before torch looks
    import torch._dynamo

    torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
    torch._dynamo.config.accumulated_recompile_limit = 16 * RECOMPILE_LIMIT
    torch._dynamo.config.fail_on_recompile_limit_hit = True


@contextmanager
def raise_compile_errors() -> Iterator[None]:
    """Turn what the compiler raises into a ConfigError of one sentence; the rest goes to the log."""
    try:
        yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        log.info("compilation failed:\n%s", "".join(traceback.format_exception(error)))
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ConfigError(
            f"compile: this model does not compile here ({reason.strip()[:300]}), got on or regional; allowed is off"
        ) from error

"""CUDA graphs give the run without them, bit for bit; without a GPU they are refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ramen.errors import ConfigError

Train = Callable[..., dict[str, Any]]


def test_without_a_gpu_they_are_refused(train: Train) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.cuda_graphs: needs a GPU, got device cpu; allowed is false"):
        train("run", "trainer.cuda_graphs=true")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(
    "more",
    [
        (),
        ("precision=bf16", "optimizer=adamw"),
        ("compile=on", "trainer.grad_clip=null"),
        *((f"optimizer={name}",) for name in ("muon", "lite", "bam", "aro_sinkhorn", "contra_muon", "soap_muon")),
        ("optimizer=spectron", "linear=low_rank"),
    ],
)
def test_a_recorded_run_is_the_eager_one_bit_for_bit(train: Train, weights: Any, more: tuple[str, ...]) -> None:
    """Over several micro-batches a step, stages of the batch, and a scalar that rests."""
    stages = ("schedule@batch_schedule=stepped", "trainer.micro_batch_tokens=128", "stream=modded")
    overrides = ("device=cuda", "attention.backend=sdpa", *stages, "trainer.freeze_scalar_steps=1", *more)
    for name, graphs in (("eager", "false"), ("recorded", "true")):
        assert train(name, *overrides, f"trainer.cuda_graphs={graphs}")["status"] == "finished"
    torch.testing.assert_close(weights("recorded"), weights("eager"), rtol=0, atol=0)

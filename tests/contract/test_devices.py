"""Every option on a GPU that is not here: fake tensors on cuda have shapes and types, and refuse to meet those of another device.

A tensor born on the CPU in a step would be a copy there, for which the host may wait for the device; one read back always waits.
"""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import ramen.kernels.cuda.orthonormal  # noqa: F401 - registers itself
from ramen.build.objects import build_groups, build_model, build_optimizers
from ramen.config.kinds import PARTS
from ramen.config.registry import options
from ramen.kernels import plain_torch
from ramen.kernels.cuda import attention
from ramen.nn.gpt import DataSpec

CUDA, TEXT = torch.device("cuda"), DataSpec(37, 0, 16)
TINY = ("model.layers=4", "model.dim=32", "model.heads=2")
OPTIONS = [(kind, name) for kind in PARTS for name in options(kind)]
EVERYTHING = (
    "attention.pattern=SSLN", "attention.long_window_tokens=16", "attention.short_window_tokens=4",
    "attention.key_offset=true", "attention.gate_inputs=12", "attention.paired_layers=[2]", "attention.xsa=true",
    "attention.qk_matrix_heads=1", "position=yarn", "embedding=split", "value_embedding=tables", "stream=modded",
    "stream.bigram_rows=50", "residual=hc", "mlp=nff", "model.mtp_weights=[0.5,0.25]",
)  # fmt: skip


GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
using namespace c10;
struct Guard final : impl::NoOpDeviceGuardImpl<DeviceType::CUDA> {
  Device exchangeDevice(Device) const override { return getDevice(); }
  Device getDevice() const override { return Device(DeviceType::CUDA, 0); }
  DeviceIndex deviceCount() const noexcept override { return 1; }
};
static impl::DeviceGuardImplRegistrar registered(DeviceType::CUDA, new Guard());
"""


@pytest.fixture(scope="module", autouse=True)
def device_guard(tmp_path_factory):
    """What operations ask which device is the current one: without a driver torch has none for cuda, or one that fails."""
    if torch.cuda.is_available():
        return
    if not shutil.which("g++"):
        pytest.skip("needs g++")
    library, root = tmp_path_factory.mktemp("guard") / "guard.so", Path(torch.__file__).parent
    command = [
        "g++",
        "-shared",
        "-fPIC",
        "-std=c++20",
        "-w",
        "-x",
        "c++",
        "-",
        f"-I{root}/include",
        f"-L{root}/lib",
        "-lc10",
    ]
    subprocess.run([*command, "-o", str(library)], input=GUARD, text=True, check=True)
    torch.ops.load_library(str(library))


class OnTheDevice(TorchDispatchMode):
    """No operation gives a tensor of another device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        wrong = [t.device for t in tree_leaves(made) if isinstance(t, torch.Tensor) and t.device.type != CUDA.type]
        assert not wrong, f"{func} made a tensor on {wrong}"
        return made


def on_cuda(config: dict[str, Any]) -> nn.Module:
    with CUDA:
        model = build_model(config, TEXT)
    for module in model.modules():  # without the copy of .to(), for which there must be a driver
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else torch.empty_like(buffer, device=CUDA)
    return model


@contextmanager
def bfloat16() -> Iterator[None]:
    """torch.autocast, which does nothing where there is no driver."""
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.set_autocast_enabled("cuda", True)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, block_mask: Any, scale: float) -> torch.Tensor:
    assert block_mask.kv_indices.device.type == CUDA.type and q.dtype == k.dtype == v.dtype
    return F.scaled_dot_product_attention(q, k, v, scale=scale)


def forward(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "flex_attention", lambda on_cuda: attend)
    with FakeTensorMode(), torch.no_grad(), bfloat16():
        model, tokens = on_cuda(config), torch.zeros(2, TEXT.sequence_length, dtype=torch.long, device=CUDA)
        with OnTheDevice():
            assert model(tokens, tokens, documents=3).dtype == torch.float32
            model.eval()
            assert model(tokens, documents=3).shape == (2, TEXT.sequence_length, TEXT.vocabulary)


@pytest.mark.parametrize(("kind", "name"), OPTIONS)
def test_a_model_stays_on_its_device(option, monkeypatch, kind, name):
    forward(option(kind, name, *TINY), monkeypatch)


@pytest.mark.parametrize("backend", ["sdpa", "flex", "varlen"])
def test_everything_stays_on_its_device_under_every_backend(compose, monkeypatch, backend):
    forward(compose(*TINY, *EVERYTHING, f"attention.backend={backend}"), monkeypatch)


@pytest.mark.parametrize("name", options("optimizer"))
def test_an_optimizer_stays_on_its_device(option, name):
    config = option("optimizer", name, *TINY)
    pytest.importorskip(config["optimizer"]["_target_"].partition(".")[0])
    with FakeTensorMode(), torch.no_grad():
        model = on_cuda(config)
        optimizers = build_optimizers(config, build_groups(config, model))
        for _ in range(2):
            for parameter in model.parameters():
                parameter.grad = torch.ones_like(parameter)
            if name == "psgd":  # draws its chances of an update on the CPU
                optimizers.step()
            else:
                with OnTheDevice():
                    optimizers.step()
        assert all(
            t.is_cuda
            for o in optimizers.by_name.values()
            for t in tree_leaves(list(o.state.values()))
            if torch.is_tensor(t)
        )


@pytest.mark.parametrize(
    "words", [EVERYTHING, ("residual=mhc",), ("residual=kromhc", "mlp.activation=relu_nelu"), ("mlp=ff",)]
)
def test_what_a_function_of_our_own_returns_was_not_changed_in_place(compose, monkeypatch, words):
    """Under torch.compile, torch 2.11 then takes it for a constant: the loss is right, and all gradients before it are zero."""
    apply, seen = torch.autograd.Function.apply.__func__, set()

    def checked(function: Any, *given: Any) -> Any:
        made = apply(function, *given)
        assert all(t._version == 0 for t in tree_leaves(made) if torch.is_tensor(t)), function.__name__
        seen.add(function.__name__)
        return made

    monkeypatch.setattr(torch.autograd.Function, "apply", classmethod(checked))
    model = build_model(compose(*TINY, *words), TEXT)
    tokens = torch.zeros(2, TEXT.sequence_length, dtype=torch.long)
    with plain_torch("cpu", "kernel"):
        model(tokens, tokens)
    assert {"_LinearCrossEntropy", "_RMSNorm"} <= seen

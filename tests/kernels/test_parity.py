"""Kernels against plain torch in whole models and steps: on the GPU where there is one (benchmarks/gpu_check.py), else on the CPU.

Errors are relative: what is compared differs in the order of sums and in bf16's rounding, CUDA graphs in nothing.
"""

from contextlib import nullcontext

import pytest
import torch
from torch.nn import Parameter

from ramen.build.objects import build_groups, build_model, build_optimizers
from ramen.config.registry import factory
from ramen.data.batches import Batch
from ramen.kernels import plain_torch, register
from ramen.kernels.any.cross_entropy import cross_entropy_rows
from ramen.kernels.attention import backends
from ramen.kernels.cuda.graphs import GradientGraphs, GraphedStep
from ramen.nn.gpt import DataSpec
from ramen.nn.parameter import initialise
from ramen.ops.adamw import cautious_adamw
from ramen.ops.bank import accumulate, descend
from ramen.ops.cross_entropy import IGNORED, Softcap, linear_cross_entropy
from ramen.ops.doubly_stochastic import scaled, sinkhorn_knopp
from ramen.ops.operation import twins
from ramen.training.compilation import loss_function
from ramen.training.loss import GradientAccumulator

register()
ON_CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_CUDA else "cpu")
on_a_gpu = pytest.mark.skipif(not ON_CUDA, reason="needs a GPU")
DATA = DataSpec(2048, 2047, 256) if ON_CUDA else DataSpec(300, 299, 64)
VOCABULARY, PADDED, TOKENS = (50257, 50304, 8192) if ON_CUDA else (101, 128, 64)
BF16 = torch.bfloat16
PAIRED = "attention.paired_layers=[1]", "attention.key_offset=true", "attention.xsa=true", "attention.gate_inputs=12"
CAPS = {"none": None, "sigmoid": Softcap("sigmoid", 23.0, 5.0, 7.5), "tanh": Softcap("tanh", 30.0, 0.0, 30.0)}


def agree(tensors, expected, allowed):
    errors = {name: ((tensors[name] - e).norm() / e.norm().clamp_min(1e-12)).item() for name, e in expected.items()}
    worst = max(errors, key=errors.get)
    assert errors[worst] < allowed, f"{worst} is off by {errors[worst]:.2e}, allowed is {allowed:.0e}"


def batch(rows=8):
    tokens = torch.randint(0, DATA.bos, (rows, DATA.sequence_length), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = tokens[::2, 17] = tokens[1::3, 50] = DATA.bos
    return tokens.to(DEVICE)


@pytest.fixture(scope="module")
def gradients(compose):
    """gradients(*words, precision=, mode=): loss and gradients of a model on one batch, all weights away from zero."""

    def compute(*overrides, precision=torch.float32, mode="off"):
        model, tokens = build_model(compose("model.layers=3", *overrides), DATA), batch()
        initialise(model, 0)
        with torch.no_grad():
            for number, parameter in enumerate(model.parameters()):
                parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
        model.to(DEVICE)
        with torch.autocast(DEVICE.type, precision) if precision != torch.float32 else nullcontext():
            loss = loss_function(model, mode, False)(tokens, tokens.clone(), int((tokens == DATA.bos).sum()))
        loss.backward()
        return {"loss": loss.detach()} | {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    return compute


@pytest.mark.parametrize("options", [(), PAIRED], ids=["plain", "in pairs"])
@pytest.mark.parametrize("mode", ["off", pytest.param("on", marks=on_a_gpu), pytest.param("regional", marks=on_a_gpu)])
@pytest.mark.parametrize("precision", [torch.float32, BF16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("backend", ["auto", "kernel", "sdpa", "varlen", "flex"])
def test_models_agree_with_sdpa_in_float32(gradients, backend, precision, mode, options):
    """With a window and several documents a row."""
    if backend != "auto" and not (
        backend in backends() and backends()[backend].serves(DEVICE, precision, 32, mode == "on")
    ):
        pytest.skip("cannot serve here")
    overrides = ("attention.long_window_tokens=30", *options)
    results = gradients(*overrides, f"attention.backend={backend}", precision=precision, mode=mode)
    agree(results, gradients(*overrides, "attention.backend=sdpa"), 2e-3 if precision == torch.float32 else 5e-2)


def head(cap):
    """Loss and gradients, with padding and ignored targets."""
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(TOKENS, 256, generator=generator), 0.05 * torch.randn(PADDED, 256, generator=generator)
    targets = torch.randint(0, VOCABULARY, (TOKENS,), generator=generator)
    targets[::7] = IGNORED
    x, weight, targets = x.to(DEVICE).requires_grad_(), weight.to(DEVICE).requires_grad_(), targets.to(DEVICE)

    def compute():
        with torch.autocast(DEVICE.type, BF16):
            loss = linear_cross_entropy(x, weight, targets, VOCABULARY, cap)
        grads = torch.autograd.grad(loss, (x, weight))
        return {"loss": loss.detach(), "x": grads[0], "weight": grads[1]}

    return compute


def stepping(name, shapes, **changes):
    """Three steps of an optimizer from ones, and its weights."""

    def compute(compose):
        node = compose(f"optimizer={name}")["optimizer"] | changes
        node = {key: value for key, value in node.items() if not key.endswith("_schedule")}
        weights, generator = [Parameter(torch.ones(shape, device=DEVICE)) for shape in shapes], torch.Generator()
        optimizer = factory(node)(weights)
        for _ in range(3):
            for weight in weights:
                weight.grad = torch.randn(weight.shape, generator=generator).to(DEVICE)
            optimizer.step()
        return {str(k): weight.detach() for k, weight in enumerate(weights)}

    return compute


def sinkhorn():
    generator = torch.Generator().manual_seed(0)
    logits, grad = (torch.randn(TOKENS, 4, 4, generator=generator).to(DEVICE) for _ in range(2))
    logits = (2 * logits).requires_grad_()
    y = sinkhorn_knopp(logits, 20)
    return {"value": y.detach(), "gradient": torch.autograd.grad(y, logits, grad)[0]}


def both(task, *operations):
    """What a task computes with the twins of this device, which there are, and without."""
    assert all(DEVICE.type in twins(operation) for operation in operations)
    with plain_torch(DEVICE.type):
        expected = task()
    return task(), expected


@pytest.mark.parametrize("cap", CAPS.values(), ids=CAPS)
def test_the_heads_kernel_agrees(cap):
    agree(*both(head(cap), cross_entropy_rows), 1e-2)


def test_the_kernel_of_cautious_adamw_agrees(compose):
    task = stepping("adamw", [(PADDED, 256)], cautious=True, weight_decay=0.3)
    agree(*both(lambda: task(compose), cautious_adamw), 1e-5)


def test_the_kernels_of_matrix_optimizers_agree(compose):
    task = stepping("muon", [(256, 64)] * 9, iteration_dtype="float32", weight_decay=0.3)
    agree(*both(lambda: task(compose), accumulate, descend), 1e-4)


@on_a_gpu
def test_the_kernel_of_sinkhorn_agrees():
    agree(*both(sinkhorn, scaled), 2e-3)  # the gradient solves a system of the rounded result


@on_a_gpu
def test_cuda_graphs_change_no_bit(compose):
    """Of micro-batches that accumulate and change size, and of optimizers' steps; unless launched steps do not repeat either."""

    def weights(recorded):
        config = compose("attention.backend=sdpa", "model.layers=3")
        model = build_model(config, DATA)
        initialise(model, 0)
        model.to(DEVICE)
        optimizers = build_optimizers(config, build_groups(config, model))
        accumulator = GradientAccumulator(loss_function(model, "off", False), 4, BF16, DEVICE)
        if recorded:
            accumulator.graphs = GradientGraphs(accumulator.run, list(model.parameters()), lambda: None, DEVICE)
            optimizers.use_cuda_graphs(GraphedStep)
        for number, rows in enumerate((8, 4, 6, 8)):
            tokens = batch(rows)
            accumulator(Batch(tokens, tokens, tokens.numel()))
            optimizers.schedule(number / 4, 1 - number / 4)
            optimizers.step()
            model.zero_grad(set_to_none=True)
        return {name: p.detach().clone() for name, p in model.named_parameters()}

    launched, again, recorded = weights(False), weights(False), weights(True)
    if all(torch.equal(again[name], value) for name, value in launched.items()):
        assert [name for name, value in launched.items() if not torch.equal(recorded[name], value)] == []
    else:
        agree(recorded, launched, 1e-2)

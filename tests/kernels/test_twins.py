"""The twins of operations, C kernels above all, against plain torch."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ramen.kernels import plain_torch, status
from ramen.kernels.any.cross_entropy import chunked
from ramen.ops.activation import relu_squared
from ramen.ops.cross_entropy import IGNORED, Softcap, linear_cross_entropy
from ramen.ops.operation import twins as twins_of
from ramen.ops.rms_norm import rms_norm

with_kernels = pytest.mark.skipif(status() != "C kernels", reason=status())
CAPS = {
    "none": None,
    "sigmoid": Softcap("sigmoid", limit=23.0, shift=5.0, scale=7.5),
    "tanh": Softcap("tanh", limit=30.0, shift=0.0, scale=30.0),
}
SHAPES = [(5, 7, 48), (3, 1), (2, 3, 2, 33), (0, 16), (1, 16)]


def twins(function, *inputs):
    """The value of a function with kernels, and by plain torch."""
    first = function(*inputs)
    with plain_torch():
        return first, function(*inputs)


def values(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def with_gradient(function):
    def run(x, grad):
        x = x.clone().requires_grad_()
        y = function(x)
        y.backward(grad)
        return y.detach(), x.grad

    return run


def head_of(dtype, softcap, tokens=23, rows=48, vocabulary=37):
    """Loss and both gradients of a small head in chunks of 9 tokens, as a function of x and weight."""
    targets = torch.randint(vocabulary, (tokens,), generator=torch.Generator().manual_seed(1))
    targets[[0, 7]] = IGNORED

    def run(x, weight):
        x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = chunked(x, weight, targets, vocabulary, softcap, None, 9)
        (loss * 0.7).backward()
        return loss.detach(), x.grad, weight.grad

    return run, (values(tokens, 12), values(rows, 12, seed=2))


def close(pairs, tolerance):
    for actual, plain in zip(*pairs, strict=True):
        assert actual.dtype == plain.dtype and actual.shape == plain.shape
        torch.testing.assert_close(actual, plain, rtol=tolerance, atol=tolerance)


@with_kernels
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rms_norm_equals_its_twin(shape):
    close(twins(with_gradient(rms_norm), values(*shape) * 3, values(*shape, seed=1)), 2e-6)


@with_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [*SHAPES, (3, 5000)], ids=str)
def test_relu_squared_equals_its_twin(shape, dtype):
    inputs = values(*shape, dtype=dtype), values(*shape, dtype=dtype, seed=1)
    close(twins(with_gradient(relu_squared), *inputs), 1e-6 if dtype == torch.float32 else 2e-2)


@with_kernels
def test_rounding_to_bfloat16_is_torchs():
    """To the bit: squares of 8 binary digits are now and then halfway between two numbers, and go to the even one."""
    x = (torch.arange(128.0, 256.0) / 128).bfloat16()
    assert torch.equal(*twins(relu_squared, x))
    assert torch.equal(relu_squared(x), x.float().square().bfloat16())


@with_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("softcap", CAPS.values(), ids=CAPS)
def test_cross_entropy_equals_its_twin(softcap, dtype):
    run, inputs = head_of(dtype, softcap)
    actual, plain = twins(run, *inputs)
    for a, b in zip(actual, plain, strict=True):
        assert (a - b).norm() <= (2e-6 if dtype == torch.float32 else 1e-2) * b.norm()


@with_kernels
@pytest.mark.parametrize("function", [rms_norm, relu_squared], ids=lambda f: f.__name__)
def test_strides_and_broadcast_gradients(function):
    x = values(6, 5, 4).permute(2, 0, 1)
    close(twins(with_gradient(function), x, torch.ones(()).expand(4, 6, 5)), 2e-6)


@with_kernels
def test_nothing_depends_on_the_run_and_only_matrix_products_on_the_number_of_threads():
    x, grad = values(700, 96), values(700, 96, seed=1)
    run, inputs = head_of(torch.float32, CAPS["sigmoid"])
    results = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 1):
            torch.set_num_threads(count)
            results.append([*with_gradient(rms_norm)(x, grad), *with_gradient(relu_squared)(x, grad), *run(*inputs)])
    finally:
        torch.set_num_threads(threads)
    ours = len(results[0]) - 2  # the head's gradients are of matrix products: torch's, whose sums depend on the threads
    for other, same in ((results[1], ours), (results[2], ours + 2)):
        assert all(torch.equal(a, b) for a, b in zip(results[0][:same], other[:same], strict=True))


@with_kernels
def test_what_is_not_a_number_is_not_hidden():
    x = torch.ones(2, 32)
    x[0, 3] = float("nan")
    assert rms_norm(x)[0].isnan().all() and rms_norm(x)[1].isfinite().all()
    assert relu_squared(x).isnan().sum() == 1
    loss = linear_cross_entropy(x, values(9, 32), torch.tensor([1, 2]), 9, CAPS["sigmoid"])
    assert loss.isnan()


@with_kernels
@pytest.mark.parametrize("target", [-1, 9, 2**40])
def test_a_target_out_of_range_is_refused(target):
    with pytest.raises(IndexError, match="target"):
        linear_cross_entropy(values(2, 8), values(12, 8), torch.tensor([1, target]), 9, None)


@with_kernels
def test_a_gradient_is_given_once_and_only_once():
    """It is made in place: a second pass over the same graph may not find the first one's leavings."""
    x = values(3, 8).requires_grad_()
    loss = linear_cross_entropy(x, values(9, 8), torch.tensor([1, 2, 3]), 9, None)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@with_kernels
def test_plain_torch_serves_to_the_end_of_the_outer_block():
    with plain_torch():
        with plain_torch():
            assert not twins_of(rms_norm)
        assert not twins_of(rms_norm)
    assert twins_of(rms_norm).keys() == {"any", "cpu"}


@with_kernels
def test_the_compiler_sees_the_twin():
    """torch.compile's graph holds torch operations only, and gives the same numbers."""
    x = values(4, 16)
    for function in (rms_norm, relu_squared):
        traced = torch.compile(function, fullgraph=True, backend="eager")
        torch.testing.assert_close(traced(x), function(x), rtol=1e-6, atol=1e-6)


def test_a_sketch_has_shapes_and_does_no_work():
    with FakeTensorMode():
        x = torch.empty(4, 16, requires_grad=True)
        y = relu_squared(rms_norm(x))
        y.sum().backward()
        assert y.shape == x.grad.shape == (4, 16)

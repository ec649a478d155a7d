"""Attention's kernel against torch's own attention, and both against the definition."""

import math
import shutil
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import flex_attention, varlen

from ramen.kernels import plain_torch, status
from ramen.kernels.attention import backends
from ramen.kernels.cuda import attention as module  # which registers its backends
from ramen.ops.attention import attention
from ramen.ops.document_mask import DocumentMask
from ramen.ops.rotary import rotate, rotation_table

with_kernels = pytest.mark.skipif(status() != "C kernels", reason=status())
# batch, time, heads, head width, documents a row, window
LAYOUTS = [
    (2, 11, 2, 8, 3, None),
    (3, 70, 3, 32, 3, 7),
    (1, 64, 1, 16, 1, None),
    (2, 97, 2, 24, 4, 33),
    (1, 1, 2, 2, 1, 1),
    (1, 130, 2, 64, 2, 500),
]


class Rotation(torch.nn.Module):
    """A position that only rotates, by a table of its own."""

    def __init__(self, width, length):
        super().__init__()
        self.register_buffer("table", rotation_table(torch.linspace(1, 0.01, width // 2), length))

    def forward(self, x):
        return rotate(x, self.table)


def inputs(batch, time, heads, width, documents, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(batch, time, 3, heads, width, generator=generator, dtype=torch.float64)
    grad = torch.randn(batch, time, heads, width, generator=generator, dtype=torch.float64)
    rows = torch.randint(documents, (batch, time), generator=generator).sort(dim=1).values
    return qkv.to(dtype), grad.to(dtype), DocumentMask(rows)


def run(qkv, grad, mask, window, *, position=None, qk_norm=True, scale=0.3):
    """Values and gradient."""
    qkv = qkv.clone().requires_grad_()
    position = position or Rotation(qkv.shape[-1], qkv.shape[1] + 3)
    y = attention(qkv, position, mask, window=window, scale=scale, qk_norm=qk_norm)
    y.backward(grad)
    return y.detach(), qkv.grad


@with_kernels
@pytest.mark.parametrize("qk_norm", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_the_kernel_equals_torch_in_float64(layout, qk_norm):
    *shape, window = layout
    qkv, grad, mask = inputs(*shape)
    exact = run(
        qkv.double(), grad.double(), mask, window, position=Rotation(shape[3], shape[1]).double(), qk_norm=qk_norm
    )
    for actual, expected in zip(run(qkv, grad, mask, window, qk_norm=qk_norm), exact, strict=True):
        torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5)


@with_kernels
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_in_bfloat16_it_is_as_close_as_bfloat16_is(layout):
    *shape, window = layout
    qkv, grad, mask = inputs(*shape, dtype=torch.bfloat16)
    exact = run(qkv.double(), grad.double(), mask, window, position=Rotation(shape[3], shape[1]).double())
    for actual, expected in zip(run(qkv, grad, mask, window), exact, strict=True):
        assert actual.dtype == torch.bfloat16
        assert (actual.double() - expected).norm() <= 4e-3 * expected.norm() + 1e-6


def test_plain_torch_has_the_gradient_of_finite_differences():
    qkv, _, mask = inputs(2, 5, 2, 4, 2, dtype=torch.float64)
    position = Rotation(4, 5).double()

    def function(x):
        return attention(x, position, mask, window=3, scale=0.5, qk_norm=True)

    assert torch.autograd.gradcheck(function, qkv.requires_grad_())


@with_kernels
def test_positions_without_a_table_are_asked():
    """Any callable that keeps a position's contract will do, with the same numbers."""
    qkv, grad, mask = inputs(2, 40, 2, 8, 2)
    rotation = Rotation(8, 40)
    by_kernel = run(qkv, grad, mask, 9, position=rotation)
    by_call = run(qkv, grad, mask, 9, position=lambda x: rotation(x))
    for one, other in zip(by_kernel, by_call, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@with_kernels
def test_a_table_of_none_leaves_queries_and_keys_where_they_are():
    class Nowhere(torch.nn.Module):
        table = None

        def forward(self, x):
            return x

    qkv, grad, mask = inputs(2, 40, 2, 8, 2)
    for one, other in zip(
        run(qkv, grad, mask, None, position=Nowhere()), run(qkv, grad, mask, None, position=lambda x: x), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@with_kernels
def test_strides_and_threads_and_repetition_change_nothing():
    qkv, grad, mask = inputs(3, 70, 2, 16, 3)
    expected = run(qkv, grad, mask, 40)
    strided = qkv.permute(4, 3, 2, 1, 0).contiguous().permute(4, 3, 2, 1, 0)
    spread = grad.transpose(1, 2).contiguous().transpose(1, 2)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results += [run(qkv, grad, mask, 40), run(strided, spread, mask, 40)]
    finally:
        torch.set_num_threads(threads)
    for other in results:
        assert all(torch.equal(a, b) for a, b in zip(expected, other, strict=True))


@with_kernels
def test_what_is_not_a_number_reaches_those_who_see_it():
    qkv, _, _ = inputs(1, 40, 1, 8, 1)
    qkv[0, 20, 2] = float("nan")  # a value
    mask = DocumentMask(torch.zeros(1, 40, dtype=torch.long))
    y = attention(qkv, Rotation(8, 40), mask, window=None, scale=1.0, qk_norm=True)
    assert y[0, 20:].isnan().all()


@with_kernels
def test_what_is_hidden_weighs_nothing():
    """Not even by the smallest number of float32, which times a value near its largest were one like any other."""
    qkv, grad, mask = inputs(1, 70, 1, 8, 3)
    first = mask.documents[0].tolist().index(1)  # of the second document
    expected, _ = run(qkv, grad, mask, None)
    for hidden, seeing in ((first - 1, slice(first, None)), (50, slice(0, 50))):
        changed = qkv.clone()
        changed[0, hidden, 2] = 3e38
        assert torch.equal(run(changed, grad, mask, None)[0][0, seeing], expected[0, seeing])


@with_kernels
def test_logits_far_out_of_range_stay_finite():
    qkv, grad, mask = inputs(1, 40, 1, 8, 1)
    y, gradient = run(qkv * 1e3, grad, mask, None, qk_norm=False, scale=1.0)
    assert y.isfinite().all() and gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_row_longer_than_the_table_is_refused(dtype):
    qkv, grad, mask = inputs(1, 9, 1, 4, 1, dtype=dtype)
    with pytest.raises(ValueError, match=r"a row may have 5 tokens .*, got 9"):
        run(qkv, grad, mask, None, position=Rotation(4, 5).to(dtype))


def test_a_kernel_that_is_not_there_is_no_other_backend():
    qkv, _, mask = inputs(1, 9, 1, 4, 1)
    settings = dict(window=None, scale=0.3, qk_norm=True)
    with (
        plain_torch("kernel"),
        pytest.raises(
            ValueError, match=r"backend: kernel needs the CPU, .* a C compiler, .*; allowed here are auto, sdpa"
        ),
    ):
        attention(qkv, Rotation(4, 9), mask, **settings, backend="kernel")
    with plain_torch():
        assert attention(qkv, Rotation(4, 9), mask, **settings).isfinite().all()
        with pytest.raises(
            ValueError, match=r"backend: kernel is one of ramen.kernels, .* allowed here are auto, sdpa"
        ):
            attention(qkv, Rotation(4, 9), mask, **settings, backend="kernel")


def test_starts_are_where_documents_start():
    mask = DocumentMask(torch.tensor([[1, 1, 2, 2, 2], [0, 1, 2, 3, 3]]))
    assert mask.starts.tolist() == [[0, 0, 2, 2, 2], [0, 1, 2, 3, 3]]
    assert mask.starts.dtype == torch.int32


@with_kernels
def test_equal_keys_are_seen_equally():
    """By hand: all logits alike, so an output is the mean of the visible values."""
    qkv = torch.ones(1, 6, 3, 1, 2)
    qkv[0, :, 2, 0, 0] = torch.arange(6.0)
    mask = DocumentMask(torch.tensor([[0, 0, 0, 1, 1, 1]]))
    y = attention(qkv, lambda x: x, mask, window=2, scale=1.0, qk_norm=True)[0, :, 0, 0]
    table = Rotation(2, 6)
    table.table[..., 0], table.table[..., 1] = 1.0, 0.0
    by_kernel = attention(qkv, table, mask, window=2, scale=1.0, qk_norm=True)[0, :, 0, 0]
    assert by_kernel.tolist() == pytest.approx([0, 0.5, 1.5, 3, 3.5, 4.5])
    assert y.tolist() == pytest.approx(by_kernel.tolist())
    assert math.isclose(by_kernel[0].item(), 0.0, abs_tol=1e-7)


@with_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_it_is_the_same_to_the_bit(dtype):
    """To a compiler each pass is one operation, whose shapes it is told."""
    qkv, grad, mask = inputs(2, 37, 2, 8, 3, dtype)
    turn = Rotation(8, 40)

    def loss(x):
        y = attention(x, turn, mask, window=9, scale=0.3, qk_norm=True)
        return (y * grad).sum()

    results = []
    for function in (loss, torch.compile(loss, backend="aot_eager", fullgraph=True, dynamic=False)):
        x = qkv.clone().requires_grad_()
        value = function(x)
        value.backward()
        results.append((value.detach(), x.grad))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    starts, settings = mask.starts, (9, 0.3, True)
    torch.library.opcheck(torch.ops.ramen.attention, (qkv, turn.table[:37].contiguous(), starts, *settings))
    y, denominators = torch.ops.ramen.attention(qkv, None, starts, *settings)
    torch.library.opcheck(torch.ops.ramen.attention_backward, (grad, qkv, None, starts, y, denominators, *settings))


# Rows of several documents, borders off and on the blocks of 128 tokens, and of one: there are blocks that are seen whole.
PACKED = torch.tensor([0] * 60 + [1] * 3 + [2] * 193 + [3] * 256), torch.zeros(512, dtype=torch.long)
WINDOWS = (None, 1, 7, 128, 129, 300)


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile on a CPU needs g++")
def test_compiled_flex_sees_what_its_block_lists_and_its_condition_leave(monkeypatch):
    """Compiled on the CPU it has no backward pass, and goes by the lists of blocks as on CUDA."""
    compiled = torch.compile(flex_attention.flex_attention, dynamic=False, fullgraph=True)
    monkeypatch.setattr(module, "flex_attention", lambda on_cuda: compiled)
    mask = DocumentMask(torch.stack(PACKED))
    q, k, v = torch.randn(3, 2, 512, 2, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for window in WINDOWS:
            flex, sdpa = (backends()[name].attend(q, k, v, mask, window, 0.4) for name in ("flex", "sdpa"))
            torch.testing.assert_close(flex, sdpa, rtol=1e-4, atol=1e-5)
        for name in ("kv_num_blocks", "full_kv_num_blocks"):  # both lists are used: without one the result is another
            unlisted = DocumentMask(torch.stack(PACKED))
            getattr(module.block_mask(unlisted, None), name).zero_()
            assert not torch.allclose(
                backends()["flex"].attend(q, k, v, unlisted, None, 0.25),
                backends()["sdpa"].attend(q, k, v, mask, None, 0.25),
            )


@pytest.mark.parametrize("window", WINDOWS)
def test_varlen_is_asked_for_the_same_attention(window, monkeypatch):
    """By what torch documents of varlen_attn, whose kernel is CUDA's: sequences end to end, tokens to the left and to the right."""

    def documented(q, k, v, begins_q, begins_k, longest_q, longest_k, *, scale, window_size):
        left, right = window_size
        result = []
        for first, last in pairwise(begins_q):
            ahead = torch.arange(last - first)[None, :] - torch.arange(last - first)[:, None]  # key less query
            seen = (ahead <= right) & ((ahead >= -left) | (left == -1))
            part = (x[first:last].transpose(0, 1) for x in (q, k, v))
            result.append(F.scaled_dot_product_attention(*part, attn_mask=seen, scale=scale).transpose(0, 1))
            assert last - first <= min(longest_q, longest_k)
        assert torch.equal(begins_q, begins_k) and begins_q.dtype == torch.int32
        return torch.cat(result)

    monkeypatch.setattr(varlen, "varlen_attn", documented)
    mask = DocumentMask(torch.stack(PACKED))
    q, k, v = torch.randn(3, 2, 512, 2, 16, generator=torch.Generator().manual_seed(0))
    result = (backends()[name].attend(q, k, v, mask, window, 0.4) for name in ("varlen", "sdpa"))
    torch.testing.assert_close(*result, rtol=1e-4, atol=1e-5)

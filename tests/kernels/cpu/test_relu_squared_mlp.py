"""The MLP in chunks is the three operations one by one, forward and backward, and keeps half of what they keep."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ramen.kernels import plain_torch, status
from ramen.kernels.cpu.activation import CHUNK
from ramen.ops.activation import relu_squared_mlp
from ramen.ops.operation import twins

SERVING = twins(relu_squared_mlp)
pytestmark = pytest.mark.skipif(status() != "C kernels", reason=status())


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) / shape[-1] ** 0.5


def operands(*lead: int, dim: int = 12, hidden: int = 40) -> list[Tensor]:
    shapes = ((*lead, dim), (hidden, dim), (dim, hidden))
    return [draw(*shape, seed=seed).requires_grad_() for seed, shape in enumerate(shapes)]


def fused(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return SERVING["cpu"](x, up, down)


def down_of_squares(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return F.linear(F.relu(F.linear(x, up)).square(), down)


@pytest.mark.parametrize("lead", [(1,), (7,), (3, 5), (CHUNK,), (2, CHUNK - 1), (3, CHUNK), (0,)])
def test_against_float64(lead):
    ours, exact = operands(*lead), [t.detach().double().requires_grad_() for t in operands(*lead)]
    got = fused(*ours)
    x, up, down = exact
    expected = down_of_squares(x, up, down)
    torch.testing.assert_close(got, expected.float())
    weights = draw(*expected.shape, seed=9)
    got.backward(weights)
    expected.backward(weights.double())
    for actual, theirs in zip(ours, exact, strict=True):
        torch.testing.assert_close(actual.grad, theirs.grad.float(), rtol=1e-5, atol=1e-5)


def test_without_gradients_nothing_is_kept():
    x, up, down = operands(2 * CHUNK)
    expected = fused(x, up, down)
    with torch.no_grad():
        got = fused(x, up, down)
    assert torch.equal(got, expected) and got.grad_fn is None


def test_it_keeps_the_hidden_layer_once():
    saved: list[int] = []
    x, up, down = operands(CHUNK)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t.numel()), t)[1], lambda t: t):
        fused(x, up, down)
    assert sorted(saved) == sorted([x.numel(), up.numel(), down.numel(), CHUNK * len(up)])


def test_a_gradient_that_is_no_row_of_memory_after_another():
    ours, others = operands(6, 4), operands(6, 4)
    weights = draw(4, 6, 12, seed=3).transpose(0, 1)
    fused(*ours).backward(weights)
    fused(*others).backward(weights.contiguous())
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(ours, others, strict=True))


def test_it_serves_float32_alone():
    x, up, down = operands(4)
    assert fused(x.double(), up.double(), down.double()) is NotImplemented
    assert fused(x.bfloat16(), up.bfloat16(), down.bfloat16()) is NotImplemented
    with torch.autocast("cpu", torch.bfloat16):
        assert fused(x, up, down) is NotImplemented
        assert relu_squared_mlp(x, up, down).dtype == torch.bfloat16
    with plain_torch():
        torch.testing.assert_close(relu_squared_mlp(x, up, down), down_of_squares(x, up, down))


def test_compiled_it_is_the_same_to_the_bit():
    """To a compiler each pass is one operation, whose shapes it is told."""
    ours, others = operands(2, CHUNK), operands(2, CHUNK)
    expected = fused(*ours)
    expected.square().sum().backward()
    got = torch.compile(fused, backend="aot_eager", fullgraph=True, dynamic=False)(*others)
    got.square().sum().backward()
    assert torch.equal(got, expected)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(ours, others, strict=True))
    tokens, up, down = (t.detach() for t in operands(5))
    for differentiated in (True, False):
        torch.library.opcheck(torch.ops.ramen.relu_squared_mlp, (tokens, up, down, differentiated))
    torch.library.opcheck(torch.ops.ramen.relu_squared_mlp_backward, (draw(5, 12), tokens, up, down, draw(5, 40)))

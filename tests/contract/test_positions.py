"""Every option of conf/position: keeps the lengths of queries and keys, sees differences of positions alone, or adds a table."""

import pytest
import torch

from ramen.config.registry import factory, options
from ramen.nn.contracts import Position
from ramen.nn.parameter import initialise

WIDTH, LENGTH, DIM = 8, 24, 16


@pytest.fixture(params=options("position"))
def position(request, compose):
    """make(length): the position module of this option."""
    return lambda length=LENGTH: factory(compose(f"position={request.param}")["position"])(WIDTH, length, DIM)


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_keeps_shape_type_and_length(position, dtype):
    x = values(2, LENGTH, 2, 3, WIDTH).to(dtype)
    y = position()(x)
    assert y.shape == x.shape and y.dtype == dtype
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(y.norm(dim=-1), x.norm(dim=-1), rtol=tolerance, atol=tolerance)


def test_number_types_agree(position):
    x = values(2, LENGTH, 2, 3, WIDTH)
    torch.testing.assert_close(position()(x.double()).float(), position()(x), rtol=1e-6, atol=1e-6)
    narrow = position()(x.bfloat16()).float()
    assert (narrow - position()(x)).norm() < 0.01 * x.norm()


def test_logits_depend_on_the_difference_of_positions(position):
    q, k = (values(1, 1, 1, WIDTH, seed=seed).double().expand(1, LENGTH, 1, WIDTH) for seed in (0, 1))
    turned_q, turned_k = position()(torch.stack((q, k), dim=2)).unbind(2)
    logits = turned_q[0, :, 0] @ turned_k[0, :, 0].T  # (T, T)
    for offset in range(LENGTH):
        diagonal = logits.diagonal(-offset)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-6, atol=1e-6)


def test_a_longer_table_begins_as_a_shorter_one(position):
    x = values(1, LENGTH, 1, WIDTH)
    assert torch.equal(position(LENGTH)(x), position(10 * LENGTH)(x))
    torch.testing.assert_close(position(LENGTH)(x)[:, :5], position(5)(x[:, :5]), rtol=1e-6, atol=1e-6)


def test_has_no_weights_but_those_it_adds_and_leaves_none_in_a_checkpoint(position):
    module = position()
    kind = type(module)
    assert [*module.parameters()] == [] or kind.embed is not Position.embed
    # One that follows the window depends on its path.
    assert kind.rescale is not Position.rescale or module.state_dict().keys() == dict(module.named_parameters()).keys()


def test_what_it_adds_depends_on_the_place_in_the_document_alone(position):
    module = position()
    initialise(module, 0)
    x, starts = values(2, LENGTH, DIM), torch.zeros(2, LENGTH, dtype=torch.int32)
    starts[1, 7:] = 7
    added = module.embed(x, starts) - x
    assert added.shape == x.shape
    torch.testing.assert_close(added[1, :7], added[0, :7], rtol=0, atol=1e-6)
    torch.testing.assert_close(added[1, 7:], added[0, : LENGTH - 7], rtol=0, atol=1e-6)


def test_the_first_token_is_not_moved(position):
    x = values(2, LENGTH, 3, WIDTH)
    assert torch.equal(position()(x)[:, 0], x[:, 0])

"""The mask against its definition, pair by pair."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention.flex_attention import create_block_mask

from ramen.kernels.cuda.attention import block_mask, boundaries
from ramen.ops.document_mask import DocumentMask


@st.composite
def layouts(draw):
    """Rows of document numbers, non-decreasing from 0 or 1, of one length."""
    length = draw(st.integers(1, 9))
    rows = draw(st.lists(st.lists(st.booleans(), min_size=length, max_size=length), min_size=1, max_size=3))
    return torch.tensor(rows).cumsum(-1)


@given(layouts(), st.none() | st.integers(1, 12))
def test_equals_the_definition(documents, window):
    mask = DocumentMask(documents)
    rows, length = documents.shape
    dense, additive = mask.dense(window), mask.additive(window, torch.float32)
    assert dense.shape == additive.shape == (rows, 1, length, length)
    assert dense.dtype == torch.bool
    for b in range(rows):
        for q in range(length):
            for k in range(length):
                near = k <= q and (window is None or q - k < window)
                allowed = near and documents[b, q] == documents[b, k]
                assert dense[b, 0, q, k] == allowed
                assert additive[b, 0, q, k] == (0 if allowed else -torch.inf)
    assert dense[:, 0].diagonal(dim1=-2, dim2=-1).all()  # no row of a softmax is empty


@given(layouts())
def test_boundaries_are_the_same_when_their_number_is_known(documents):
    mask = DocumentMask(documents)
    rows, length = documents.shape
    begins = [row * length + at for row in range(rows) for at in range(length) if mask.first[row, at]]
    assert boundaries(mask).tolist() == [*begins, rows * length]
    assert boundaries(mask.paired()).tolist() == [2 * begin for begin in (*begins, rows * length)]
    known = DocumentMask(documents, len(begins))
    for reported, results in ((known, mask), (known.paired(), mask.paired())):
        assert torch.equal(boundaries(reported), boundaries(results)) and boundaries(reported).dtype == torch.int32


def test_each_window_and_number_type_has_a_mask_of_its_own():
    """Layers with different windows share one object; none may be handed another's mask."""
    mask = DocumentMask(torch.zeros(1, 6, dtype=torch.long))
    asked = [(None, torch.float32), (1, torch.float32), (3, torch.float32), (3, torch.bfloat16), (None, torch.float32)]
    result = [mask.additive(*key) for key in asked]
    for (window, dtype), additive in zip(asked, result, strict=True):
        assert additive.dtype == dtype
        assert torch.equal(additive == 0, mask.dense(window))
    assert result[0] is result[-1]  # and made once
    windows, at = (None, 1, 3, None), torch.arange(6)
    for window, blocks in zip(windows, [block_mask(mask, window) for window in windows], strict=True):
        assert blocks.mask_mod(torch.tensor(0), 0, at[:, None], at).equal(mask.dense(window)[0, 0])


@given(st.integers(0, 2**31), st.sampled_from([1, 127, 128, 129, 256, 300]), st.none() | st.integers(1, 400))
@settings(max_examples=30)
def test_blocks_are_those_found_pair_by_pair(seed, length, window):
    """FlexAttention's own way looks at all T x T pairs."""
    random = torch.Generator().manual_seed(seed)
    blocks_are_right((torch.rand(2, length, generator=random) < 4 / length).cumsum(-1), window)


@pytest.mark.parametrize("window", [None, 1, 2, 127, 128, 129, 130, 257])
def test_blocks_are_right_at_their_borders(window):
    """Where one pair of a block is seen, or one is not."""
    for begins in (0, 1, 127, 128, 129, 255, 256):
        blocks_are_right((torch.arange(385) >= begins).long().repeat(2, 1), window)


def test_a_compiler_may_not_lay_blocks_out_as_it_likes():
    """FlexAttention's kernel finds a row of the batch by the stride of the heads' axis, which is one long."""

    def listed(documents):
        return [x for x in block_mask(DocumentMask(documents), 100).as_tuple() if torch.is_tensor(x)]

    outputs = make_fx(listed)(torch.zeros(3, 300, dtype=torch.long)).graph.output_node().args[0]
    assert [node.target for node in outputs] == 8 * [torch.ops.aten.as_strided.default]
    assert [node.args[1:] for node in outputs] == 4 * [([3, 1, 3], [3, 3, 1]), ([3, 1, 3, 3], [9, 9, 3, 1])]


def blocks_are_right(documents, window):
    mask, length = DocumentMask(documents), documents.shape[1]
    dense, blocks = mask.dense(window), block_mask(mask, window)
    results = create_block_mask(lambda b, h, q, k: dense[b, 0, q, k], 2, None, length, length, device="cpu")
    for actual, expected in zip(blocks.as_tuple()[:-1], results.as_tuple()[:-1], strict=True):
        assert (
            actual.equal(expected) and actual.dtype == expected.dtype if torch.is_tensor(actual) else actual == expected
        )
    at = torch.arange(length)
    assert blocks.mask_mod(torch.tensor(1), 0, at[:, None], at).equal(dense[1, 0])

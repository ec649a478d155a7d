"""Learned positions: a table at the entrance, which later tokens of a document read further down."""

import pytest
import torch


def test_a_row_of_the_table_is_added_to_each_token(build_gpt, rows):
    model, tokens = build_gpt("position=learned", "model.embedding_norm=false", length=12), rows((5, 7))
    starts = torch.tensor([[0] * 5 + [5] * 7])
    x = model.embedding(tokens)
    places = torch.tensor([*range(5), *range(7)])
    assert torch.equal(model.position.embed(x, starts), x + model.position.weight[places])
    model.position.weight.data.zero_()
    assert torch.equal(model(tokens), build_gpt("position=none", "model.embedding_norm=false", length=12)(tokens))


def test_the_order_of_earlier_tokens_is_seen_in_one_layer(build_gpt, rows):
    """Without positions one layer of attention sees a bag of tokens."""
    tokens = rows((8,))
    swapped = tokens[:, [0, 2, 1, 3, 4, 5, 6, 7]]
    for position, differs in (("none", False), ("learned", True)):
        model = build_gpt(f"position={position}", "model.layers=1", noise=0.3)
        moved = (model(tokens)[:, 3:] - model(swapped)[:, 3:]).abs().max()
        assert (moved > 1e-3) == differs


def test_a_row_longer_than_the_table_is_refused(build_gpt, rows):
    with pytest.raises(ValueError, match=r"a row may have 6 tokens \(data.sequence_length\), got 8"):
        build_gpt("position=learned", length=6)(rows((8,)))

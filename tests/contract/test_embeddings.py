"""Every option of conf/embedding: tokens to vectors, and a head for exactly the vocabulary's tokens."""

import pytest
import torch

from ramen.config.registry import factory, options
from ramen.nn.parameter import initialise

VOCABULARY, DIM = 37, 16


@pytest.fixture(params=options("embedding"))
def embedding(request, compose):
    """make(**changed): the embedding of this option, initialised."""

    def make(vocabulary=VOCABULARY, **changed):
        module = factory(compose(f"embedding={request.param}")["embedding"] | changed)(vocabulary, DIM)
        initialise(module, 0)
        return module

    return make


def test_looks_up_rows(embedding):
    tokens = torch.tensor([[0, 36, 5], [5, 5, 1]])
    vectors = embedding()(tokens)
    assert vectors.shape == (2, 3, DIM)
    assert torch.equal(vectors[0, 2], vectors[1, 0]) and not torch.equal(vectors[0, 0], vectors[0, 1])


@pytest.mark.parametrize(("multiple", "rows"), [(1, 37), (64, 64), (16, 48)])
def test_rows_are_padded_to_the_multiple(embedding, multiple, rows):
    module = embedding(pad_to_multiple=multiple)
    assert module.head().shape == (rows, DIM)
    assert all(value.shape == (rows, DIM) for value in module.parameters())


def test_padding_does_not_change_the_start_of_the_other_rows(embedding):
    """Runs that differ in padding alone are the same run."""
    narrow, wide = embedding(pad_to_multiple=1), embedding(pad_to_multiple=64)
    for first, second in zip(narrow.parameters(), wide.parameters(), strict=True):
        assert torch.equal(first, second[:VOCABULARY])


def test_starts_at_the_standard_deviation_asked_for(embedding):
    module = embedding(vocabulary=2000, init_std=0.3)
    vectors = module(torch.arange(2000)[None])
    assert vectors.std().item() == pytest.approx(0.3, rel=0.02)


def test_no_table_is_a_matrix_to_be_orthogonalised(embedding):
    assert {value.role for value in embedding().parameters()} <= {"embedding", "head"}


def test_refuses_to_pad_to_nothing_and_to_start_where_there_is_no_gradient(embedding):
    with pytest.raises(ValueError, match="pad_to_multiple must be >= 1, got 0"):
        embedding(pad_to_multiple=0)
    with pytest.raises(ValueError, match="init_std must be > 0, got 0"):
        embedding(init_std=0)


def test_the_gpt_has_logits_for_the_vocabulary_alone(embedding, request, build_gpt, rows):
    name = request.node.callspec.params["embedding"]
    model = build_gpt(f"embedding={name}", vocabulary=VOCABULARY)
    assert model.embedding.head().shape[0] > VOCABULARY
    assert model(rows((6, 4))).shape == (1, 10, VOCABULARY)
    assert model.embedding_parameters() == sum(value.numel() for value in model.embedding.parameters())

"""Tied, then split: nothing moves at the split, and from then on the two are two."""

import pytest
import torch

from ramen.errors import ConfigError
from ramen.nn.embedding.split import Split


def test_is_the_tied_model_until_the_split_and_at_it(build_gpt, rows):
    tied, model = (
        build_gpt("attention.output_init_scale=1.0"),
        build_gpt("attention.output_init_scale=1.0", "embedding=split"),
    )
    tokens = rows((12,), (5, 7))
    assert torch.equal(model(tokens), tied(tokens))
    model.embedding.split()
    assert torch.equal(model(tokens), tied(tokens))
    assert model.embedding.head().data_ptr() != model.embedding.weight.data_ptr()


def test_each_table_has_a_gradient_of_its_own_after_the_split(build_gpt, rows):
    model, tokens = build_gpt("embedding=split", "attention.output_init_scale=1.0"), rows((12,))
    model(tokens, tokens).backward()
    whole = model.embedding.weight.grad.clone()
    assert model.embedding.head_weight.grad is None
    model.zero_grad()
    model.embedding.split()
    model(tokens, tokens).backward()
    torch.testing.assert_close(
        model.embedding.weight.grad + model.embedding.head_weight.grad, whole, rtol=1e-4, atol=1e-6
    )


def test_a_checkpoint_holds_whether_it_is_split(build_gpt):
    model, restored = build_gpt("embedding=split"), build_gpt("embedding=split")
    model.embedding.split()
    restored.load_state_dict(model.state_dict())
    assert restored.embedding.is_split and restored.embedding.head() is restored.embedding.head_weight
    restored.load_state_dict(build_gpt("embedding=split").state_dict())
    assert not restored.embedding.is_split


@pytest.mark.parametrize("fraction", [0.0, 1.0, 1.5])
def test_refuses_a_fraction_that_is_not_within_the_run(fraction):
    with pytest.raises(ValueError, match=r"split_at must be in \(0, 1\)"):
        Split(10, 4, init_std=0.02, split_at=fraction, pad_to_multiple=1)


def test_the_two_must_be_trained_by_one_optimizer(dry, compose):
    with pytest.raises(ConfigError, match="must be one optimizer"):
        dry(compose("embedding=split", "routing.head.to=optimizer"))

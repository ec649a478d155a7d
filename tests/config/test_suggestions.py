"""A key of another tool, of another section or with a slip of the finger is answered with the key that was meant."""

from collections.abc import Callable
from typing import Any

import pytest

from ramen.config.check import check, flatten
from ramen.config.compose import Composer, plain
from ramen.config.kinds import SECTIONS
from ramen.config.suggestions import ALIASES, suggest_key
from ramen.errors import ConfigError


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("lr=0.1", "lr: no such key; did you mean 'optimizer.lr' or 'auxiliary.lr'?"),
        ("steps=100", "steps: no such key; did you mean 'optimizer.steps' or 'trainer.steps'?"),
        ("max_iters=100", "max_iters: no such key; did you mean 'trainer.steps'?"),
        ("batch_size=12", "batch_size: no such key; did you mean 'trainer.batch_tokens'?"),
        ("n_layer=12", "n_layer: no such key; did you mean 'model.layers'?"),
        ("learning_rate=0.1", "learning_rate: no such key; did you mean 'optimizer.lr'?"),
        ("optimizer.learning_rate=0.1", "optimizer.learning_rate: no such key; did you mean 'optimizer.lr'?"),
        (
            "+optimizer.learning_rate=0.1",
            "optimizer.learning_rate: no such key; did you mean 'optimizer.lr'?",
        ),
        ("model.block-size=8", "model.block-size: no such key; did you mean 'data.sequence_length'?"),
        ("+n_embd=8", "n_embd: no such key; did you mean 'model.dim'?"),
        (
            "batch_token=8",
            "batch_token: no such key; did you mean 'trainer.batch_tokens'?",
        ),
        ("model.batch_tokens=8", "model.batch_tokens: no such key; did you mean 'trainer.batch_tokens'?"),
        ("sede=3", "sede: no such key; did you mean 'seed'?"),
        ("mlp.zzzz=3", "mlp.zzzz: no such key; allowed are activation"),
    ],
)
def test_a_word_is_answered_with_the_key_that_was_meant(word: str, message: str) -> None:
    with Composer().open() as composer, pytest.raises(ConfigError) as caught:
        check(plain(composer.compose([word])))
    assert str(caught.value).startswith(message)


def test_every_alias_is_of_a_key_that_there_is(compose: Callable[..., dict[str, Any]]) -> None:
    keys = {*flatten(compose()), *SECTIONS, "hydra.run.dir", "model.softcap", "data.files"}
    assert {key for key in ALIASES.values() if key not in keys} == set()
    assert not {alias for alias in ALIASES if alias in {key.rpartition(".")[2] for key in keys}}


def test_a_name_that_is_like_nothing_gets_the_list() -> None:
    assert suggest_key("zzzz", ["b", "a"], ["x.steps"]) == "; allowed are a, b"

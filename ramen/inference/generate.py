"""Text from a model, a token at a time."""

import codecs
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ramen.data.tokenizer import Tokenizer
from ramen.errors import ConfigError


def generate(
    model: nn.Module,
    tokenizer: Tokenizer,
    *,
    prompt: str,
    tokens: int,
    temperature: float,
    top_k: int | None,
    seed: int,
) -> Iterator[str]:
    """Pieces of text that continue the prompt, until `tokens` are drawn or the document ends.

    The same seed draws the same text on the same machine. The model sees the last `sequence_length` tokens. ConfigError for
    settings that nothing can be drawn with, at once and not at the first piece.
    """
    wrong = []
    if tokens < 1:
        wrong.append(f"tokens: must be >= 1, got {tokens}")
    if not (math.isfinite(temperature) and temperature >= 0):
        wrong.append(f"temperature: must be >= 0 (0 takes the likeliest token), got {temperature}")
    if top_k is not None and top_k < 1:
        wrong.append(f"top_k: must be >= 1, got {top_k}; without it all tokens can be drawn")
    if wrong:
        raise ConfigError(*wrong)
    device, generator = next(model.parameters()).device, torch.Generator().manual_seed(seed)
    text: Any = model.data
    ids = [tokenizer.bos, *map(int, tokenizer.encode(prompt))]
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")  # a character may span tokens

    @torch.no_grad()
    def pieces() -> Iterator[str]:
        for _ in range(tokens):
            logits = model(torch.tensor([ids[-text.sequence_length :]], device=device))[0, -1].float().cpu()
            token = draw(logits, temperature, top_k, generator)
            if token == tokenizer.bos:
                break
            ids.append(token)
            yield decoder.decode(tokenizer.tokens[token])
        yield decoder.decode(b"", final=True)

    return pieces()


def draw(logits: torch.Tensor, temperature: float, top_k: int | None, generator: torch.Generator) -> int:
    """One id from logits (V,): the likeliest at temperature 0, else drawn from the softmax over the top k."""
    if temperature == 0:
        return int(logits.argmax())
    likeliest = logits.topk(min(top_k or len(logits), len(logits)))  # exactly k, whatever ties there are
    chances = ((likeliest.values - likeliest.values[0]) / temperature).softmax(-1)
    return int(likeliest.indices[torch.multinomial(chances, 1, generator=generator)])

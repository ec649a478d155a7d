"""Byte-level BPE, trained on the corpus itself: small vocabularies that a laptop can train with.

Sennrich et al. 2016 (https://arxiv.org/abs/1508.07909), on bytes as in GPT-2; trained by Hugging Face's `tokenizers`
(https://github.com/huggingface/tokenizers), whose result does not depend on its number of threads. Cost: 2,048 ids on
5 MB take about two seconds; a text without spaces, in which all pieces differ, about five seconds a megabyte.
"""

from collections.abc import Iterable, Iterator

from ramen.data.tokenizer import PATTERNS, Tokenizer, tokens_of, unicode_text
from ramen.errors import ConfigError

TRAINING_CHARACTERS = 2**24  # more text changes the merges little and costs memory and minutes
PIECE_CHARACTERS = 64  # longer pieces are cut for the training: its time grows with the square of their length
SMALLEST = 258  # 256 bytes, one merge, BOS


def train_bpe(texts: Iterable[str], vocabulary: int, progress: bool = False) -> Tokenizer:
    """A tokenizer of exactly `vocabulary` ids (256 bytes, merges, BOS), from the first TRAINING_CHARACTERS of `texts`."""
    from tokenizers import Regex, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Trained

    trained = Trained(models.BPE())
    pieces = pre_tokenizers.Split(Regex(PATTERNS["bpe"]), "isolated")
    cut = pre_tokenizers.FixedLength(PIECE_CHARACTERS)
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trained.pre_tokenizer = pre_tokenizers.Sequence([pieces, cut, to_bytes])
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 1,  # BOS comes behind the merges
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=progress,
    )
    trained.train_from_iterator(map(unicode_text, _head(texts, TRAINING_CHARACTERS)), trainer)
    tokens = tokens_of(trained.get_vocab(), "bpe")
    if len(tokens) < vocabulary - 1:
        most = len(tokens) + 1
        allowed = f"{SMALLEST} to {most}" if most >= SMALLEST else "none; data.tokenizer=byte needs no training"
        raise ConfigError(
            f"data.bpe_vocabulary: the text has too few repeated pairs, got {vocabulary}; allowed for this text is {allowed}"
        )
    return Tokenizer("bpe", tokens)


def _head(texts: Iterable[str], characters: int) -> Iterator[str]:
    """The first texts, up to that many characters; the last one is cut."""
    for text in texts:
        yield text[:characters]
        characters -= len(text)
        if characters <= 0:
            return

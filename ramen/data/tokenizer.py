"""Tokenizers: text to ids and back, one class for all kinds.

`byte` (the 256 bytes), `bpe` (byte-level BPE trained on the corpus, see bpe.py) and `gpt2` (see gpt2.py). The id
behind the last mergeable token is BOS: it opens every document, and predicting it means that the document has ended,
as in the GPT-2 data sets. Text is encoded by tiktoken (https://github.com/openai/tiktoken), five times as fast as
`tokenizers`; the file that a tokenizer is saved in is that of `tokenizers`, which reads it and gives the same ids.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ramen.data.shard import LARGEST_ID
from ramen.errors import DataError, told
from ramen.runs.atomic import read_json, write_atomically

if TYPE_CHECKING:
    import tiktoken

BYTES = tuple(bytes([value]) for value in range(256))
# What cuts a text into the pieces that are merged on their own; every character is in exactly one piece. bpe: words with
# the space before and the apostrophes within ("o'er", "lov'd"), numbers by up to three digits, punctuation with the line
# breaks behind it, line breaks, blanks (the last one is left to the word behind).
PATTERNS = {
    "byte": "",
    "bpe": r" ?'?\p{L}+(?:'\p{L}+)*| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+\n*|\n+|[^\S\n]+(?!\S)|\s",
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
}
REMEDY = "delete the folder to prepare it again"
BOS_NAME = "<|bos|>"  # in the file, for other programs
PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))  # bytes that stand for themselves in GPT-2's files
CHARACTERS = {value: chr(value) for value in PRINTABLE}  # byte -> its character there; the others get those from 256 on
CHARACTERS |= {value: chr(256 + n) for n, value in enumerate(sorted({*range(256)} - CHARACTERS.keys()))}
VALUES = {character: value for value, character in CHARACTERS.items()}


@dataclass(frozen=True)
class Tokenizer:
    """The byte strings of the ids, in rank order; `name` is a key of PATTERNS."""

    name: str
    tokens: tuple[bytes, ...] = field(repr=False)

    @property
    def bos(self) -> int:
        """The id that opens a document and, as a label, ends it."""
        return len(self.tokens)

    @property
    def vocabulary(self) -> int:
        """The number of real ids, BOS included."""
        return len(self.tokens) + 1

    @property
    def pattern(self) -> str:
        """Cuts text into pieces."""
        return PATTERNS[self.name]

    @cached_property
    def hash(self) -> str:
        """sha256 over the definition."""
        tokens = [base64.b64encode(token).decode() for token in self.tokens]
        definition = {"name": self.name, "pattern": self.pattern, "tokens": tokens}
        return hashlib.sha256(json.dumps(definition, indent=0).encode()).hexdigest()

    def encode(self, text: str) -> NDArray[np.uint16]:
        """The ids of `text`, without BOS. What is not Unicode (lone surrogates) becomes a replacement character."""
        text = unicode_text(text)
        if self.name == "byte":
            return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.uint16)
        return self._encoding.encode_to_numpy(text, disallowed_special=()).astype(np.uint16)

    def decode(self, ids: Sequence[int] | NDArray[np.integer]) -> str:
        """The text of `ids`. BOS stands for no text; bytes that are not UTF-8 become U+FFFD."""
        values = np.asarray(ids, dtype=np.int64)
        if values.size and not 0 <= int(values.min()) <= int(values.max()) <= self.bos:
            raise DataError(
                f"token ids: are not of tokenizer {self.name}, got {values.min()} to {values.max()}; "
                f"allowed are 0 to {self.bos}"
            )
        return b"".join(self.tokens[value] for value in values.tolist() if value != self.bos).decode(errors="replace")

    def save(self, path: Path) -> None:
        """Write tokenizer.json, which `tokenizers.Tokenizer.from_file` reads, too."""
        from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
        from tokenizers import Tokenizer as Saved

        spelled = [_spell(token) for token in self.tokens]
        saved = Saved(models.BPE({token: rank for rank, token in enumerate(spelled)}, self._merges()))
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        split = [pre_tokenizers.Split(Regex(self.pattern), "isolated")] if self.pattern else []
        saved.pre_tokenizer = pre_tokenizers.Sequence([*split, to_bytes])
        saved.decoder = decoders.ByteLevel()
        saved.add_special_tokens([AddedToken(BOS_NAME, normalized=False)])
        write_atomically(path, saved.to_str(pretty=True).encode())

    def _merges(self) -> list[tuple[str, str]]:
        """The two tokens that each longer token is merged from, in rank order."""
        ranks = {token: rank for rank, token in enumerate(self.tokens)}
        merges = []
        for token in self.tokens:
            parts = [token[at : at + 1] for at in range(len(token))]
            while len(parts) > 2:
                _, at = min((ranks.get(a + b, len(ranks)), at) for at, (a, b) in enumerate(pairwise(parts)))
                parts[at : at + 2] = [parts[at] + parts[at + 1]]
            if len(parts) == 2:
                merges.append((_spell(parts[0]), _spell(parts[1])))
        return merges

    @cached_property
    def _encoding(self) -> "tiktoken.Encoding":
        import tiktoken

        ranks = {token: rank for rank, token in enumerate(self.tokens)}
        return tiktoken.Encoding(
            self.name, pat_str=self.pattern, mergeable_ranks=ranks, special_tokens={BOS_NAME: self.bos}
        )


def byte_tokenizer() -> Tokenizer:
    """One id a byte: 257 ids with BOS."""
    return Tokenizer("byte", BYTES)


def load_tokenizer(path: Path, sha256: str | None = None) -> Tokenizer:
    """The tokenizer that `save` wrote, bit-identical. DataError when the file is missing, is something else, or has another
    hash than is stated (by the caller, or in a file of ramen 0.1 itself)."""
    try:
        stored = read_json(path)
        if "model" in stored:
            tokens = tokens_of(stored["model"]["vocab"])
            splits = [part for part in stored["pre_tokenizer"]["pretokenizers"] if part["type"] == "Split"]
            pattern = splits[0]["pattern"]["Regex"] if splits else ""
        else:  # of ramen 0.1
            tokens = tuple(base64.b64decode(token, validate=True) for token in stored["tokens"])
            pattern, sha256 = stored["pattern"], sha256 or stored.get("sha256")
        name = next(name for name, known in PATTERNS.items() if known == pattern)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        raise DataError(f"{path}: is no tokenizer, got {told(error)}; {REMEDY}") from error
    if not set(BYTES) <= set(tokens) or len(set(tokens)) != len(tokens) or len(tokens) > LARGEST_ID:
        raise DataError(
            f"{path}: is damaged, got {len(tokens)} tokens; "
            f"needed are all 256 bytes, each token once, at most {LARGEST_ID}"
        )
    tokenizer = Tokenizer(name, tokens)
    if sha256 not in (None, tokenizer.hash):
        raise DataError(f"{path}: was changed, got sha256 {tokenizer.hash}; stated is {sha256}; {REMEDY}")
    return tokenizer


def tokens_of(vocabulary: Mapping[str, int]) -> tuple[bytes, ...]:
    """The byte strings of a vocabulary as `tokenizers` spells it, in the order of their ids, which are 0, 1, 2 ..."""
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise ValueError("the ids have gaps")
    return tuple(
        bytes(VALUES[character] for character in token) for token in sorted(vocabulary, key=vocabulary.__getitem__)
    )


def unicode_text(text: str) -> str:
    """The text, with a replacement character for each lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _spell(token: bytes) -> str:
    return "".join(CHARACTERS[value] for value in token)

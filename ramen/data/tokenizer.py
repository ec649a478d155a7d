"""Tokenizers: text to ids and back, one class for all three kinds.

`byte` (the 256 bytes), `bpe` (byte-level BPE trained on the corpus, see bpe.py) and `gpt2` (see gpt2.py). The id
behind the last mergeable token is BOS: it opens every document, and predicting it means that the document has ended,
as in the GPT-2 data sets. The merging itself is tiktoken's (https://github.com/openai/tiktoken).
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ramen.data.shard import LARGEST_ID
from ramen.errors import DataError
from ramen.runs.atomic import read_json, write_atomically

if TYPE_CHECKING:
    import tiktoken

BYTES = tuple(bytes([value]) for value in range(256))


@dataclass(frozen=True)
class Tokenizer:
    """Byte strings in rank order, and the pattern that cuts text into the pieces that are merged on their own."""

    name: str
    pattern: str
    tokens: tuple[bytes, ...] = field(repr=False)

    @property
    def bos(self) -> int:
        """The id that opens a document and, as a label, ends it."""
        return len(self.tokens)

    @property
    def vocabulary(self) -> int:
        """The number of real ids, BOS included."""
        return len(self.tokens) + 1

    @cached_property
    def hash(self) -> str:
        """sha256 over the definition."""
        return hashlib.sha256(json.dumps(self._definition(), indent=0).encode()).hexdigest()

    def encode(self, text: str) -> NDArray[np.uint16]:
        """The ids of `text`, without BOS. What is not Unicode (lone surrogates) becomes a replacement character."""
        if self.name == "byte":
            return np.frombuffer(text.encode(errors="replace"), dtype=np.uint8).astype(np.uint16)
        try:
            ids = self._encoding.encode_to_numpy(text, disallowed_special=())
        except UnicodeEncodeError:
            whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            ids = self._encoding.encode_to_numpy(whole, disallowed_special=())
        return ids.astype(np.uint16)

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
        """Write the definition as json, with its hash."""
        write_atomically(path, json.dumps({**self._definition(), "sha256": self.hash}, indent=0).encode())

    def _definition(self) -> dict[str, Any]:
        tokens = [base64.b64encode(token).decode() for token in self.tokens]
        return {"name": self.name, "pattern": self.pattern, "tokens": tokens}

    @cached_property
    def _encoding(self) -> "tiktoken.Encoding":
        import tiktoken

        ranks = {token: rank for rank, token in enumerate(self.tokens)}
        return tiktoken.Encoding(
            self.name, pat_str=self.pattern, mergeable_ranks=ranks, special_tokens={"<|bos|>": self.bos}
        )


def byte_tokenizer() -> Tokenizer:
    """One id a byte: 257 ids with BOS."""
    return Tokenizer("byte", "", BYTES)


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer that `save` wrote, bit-identical. DataError when the file is missing or is something else."""
    try:
        stored = read_json(path)
        tokens = tuple(base64.b64decode(token, validate=True) for token in stored["tokens"])
        made = Tokenizer(stored["name"], stored["pattern"], tokens)
        if stored.get("sha256", made.hash) != made.hash:  # files of an older ramen have none
            raise ValueError(f"sha256 {made.hash} where {stored['sha256']} is stated")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: is no tokenizer, got {type(error).__name__}: {error}; delete the folder to prepare it again"
        ) from error
    if not set(BYTES) <= set(tokens) or len(set(tokens)) != len(tokens) or len(tokens) > LARGEST_ID:
        raise DataError(
            f"{path}: is damaged, got {len(tokens)} tokens; "
            f"needed are all 256 bytes, each token once, at most {LARGEST_ID}"
        )
    return made

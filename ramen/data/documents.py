"""The documents of a list of shards, as an endless stream with a position that can be kept and taken up again.

A document begins at BOS and ends before the next one. What a shard holds before its first BOS belongs to no document
and is skipped. If any shard begins without BOS, the shards come from one that cuts documents at their ends (modded-
nanogpt's tokenization does), and the last document of every shard counts as unfinished: nobody knows whether it ends
there.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ramen.data.shard import open_shard
from ramen.errors import DataError

SCAN_TOKENS = 2**22  # looked at together when BOS is sought: bounds the memory
FINGERPRINT_TOKENS = 4096
FINGERPRINT_BITS = 62


def document_starts(tokens: NDArray[np.uint16], bos: int) -> NDArray[np.int64]:
    """Where BOS stands in `tokens` (N,), in order."""
    found = [np.flatnonzero(tokens[at : at + SCAN_TOKENS] == bos) + at for at in range(0, len(tokens), SCAN_TOKENS)]
    return np.concatenate(found)


class DocumentStream:
    """Walks the documents epoch after epoch.

    The position is (epoch, shard, document, offset): `shard` and `document` count in this epoch's order, `offset` is
    how many tokens of the document have been taken. Orders are drawn from (seed, epoch) and (seed, epoch, shard)
    alone, in bits that numpy promises to keep.
    """

    def __init__(self, shards: Sequence[Path], *, bos: int, seed: int, shuffle: bool):
        if not shards:
            raise DataError("data: there is no shard to read, got an empty list; at least one is needed")
        self.shards = tuple(shards)
        self.bos = bos
        self.seed = seed
        self.shuffle = shuffle
        heads = [open_shard(path)[:FINGERPRINT_TOKENS] for path in self.shards]
        self.whole = all(head[0] == bos for head in heads)
        self.fingerprint = _fingerprint(self.shards, heads)
        self.seek(0, 0, 0, 0)

    def seek(self, epoch: int, shard: int, document: int, offset: int) -> None:
        """Go to a position, as read from the attributes of the same names. DataError when there is none such."""
        if epoch < 0 or not 0 <= shard < len(self.shards):
            raise DataError(f"data position: got epoch {epoch}, shard {shard}; there are {len(self.shards)} shards")
        self.epoch, self.shard = epoch, shard
        self._open()
        if not 0 <= document < len(self._order):
            raise DataError(f"data position: got document {document}; {self._path} has {len(self._order)}")
        self._go_to(document)
        if not 0 <= offset < len(self._text):
            raise DataError(f"data position: got offset {offset}; the document has {len(self._text)} tokens")
        self.offset = offset

    def rest(self) -> NDArray[np.uint16]:
        """The tokens of the present document that have not been taken: never empty."""
        return self._text[self.offset :]

    @property
    def finished(self) -> bool:
        """Whether the document is known to end where its tokens do."""
        return self.whole or int(self._order[self.document]) < len(self._starts) - 1

    def take(self, tokens: int) -> None:
        """Count that many tokens as taken; fewer than the rest."""
        self.offset += tokens

    def skip(self) -> None:
        """Go to the start of the next document, which may be in the next shard or epoch."""
        if self.document + 1 < len(self._order):
            self._go_to(self.document + 1)
            return
        self.shard += 1
        if self.shard == len(self.shards):
            self.shard = 0
            self.epoch += 1
        self._open()
        self._go_to(0)

    def _open(self) -> None:
        """Map the shard at this position and draw the order of its documents."""
        index = self._draw(len(self.shards), 0)[self.shard]
        path = self.shards[index]
        if path != getattr(self, "_path", None):
            tokens = open_shard(path).view(np.ndarray)
            if (largest := int(tokens.max())) > self.bos:
                raise DataError(
                    f"{path}: holds ids of another tokenizer, got id {largest}; allowed are 0 to {self.bos}, which is BOS"
                )
            starts = document_starts(tokens, self.bos)
            if not len(starts):
                raise DataError(
                    f"{path}: holds no document, got no BOS (id {self.bos}) among {len(tokens)} tokens; "
                    "each document opens with it"
                )
            self._path, self._tokens, self._starts = path, tokens, starts
        self._order = self._draw(len(self._starts), 1 + int(index))

    def _go_to(self, document: int) -> None:
        index = int(self._order[document])
        end = self._starts[index + 1] if index + 1 < len(self._starts) else None
        self._text = self._tokens[self._starts[index] : end]
        self.document = document
        self.offset = 0

    def _draw(self, count: int, purpose: int) -> NDArray[np.int64]:
        """A permutation of `count` things, fixed by (seed, epoch, purpose)."""
        if not self.shuffle:
            return np.arange(count)
        bits = np.random.Philox(np.random.SeedSequence(self.seed, spawn_key=(self.epoch, purpose)))
        return np.argsort(bits.random_raw(count), kind="stable")


def _fingerprint(shards: Sequence[Path], heads: Sequence[NDArray[np.uint16]]) -> int:
    """An integer that tells these shards, in this order, from others by name, size and first tokens."""
    state = hashlib.sha256()
    for path, head in zip(shards, heads, strict=True):
        state.update(b"%s %d\n" % (os.fsencode(path.name), path.stat().st_size))
        state.update(head.tobytes())
    return int.from_bytes(state.digest()[:8], "big") >> (64 - FINGERPRINT_BITS)

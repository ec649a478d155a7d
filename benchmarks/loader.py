"""The data loader: tokens a second of the config's data set, and of a set of sparse shards too large for memory."""

import resource
import statistics
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.context import BenchmarkContext, Row, Workload
from ramen.build.objects import build_section
from ramen.data.batches import DocumentBatches
from ramen.data.shard import HEADER_BYTES, header_of

BATCH_TOKENS = 65536
BOS, DOCUMENT, LENGTH = 65535, 65536, 1024  # of the sparse shards
READ_SHARDS = 4


def loader(work: Workload, context: BenchmarkContext) -> list[Row]:
    """Both; of the second also the memory after its first shard and after some more, which must be the same."""
    source = build_section(work.config(), "data")
    dataset = source.dataset(progress=False)
    length = source.sequence_length
    batches = source.batches(dataset.train.paths, source.vocabulary - 1, seed=0)
    rows = max(1, BATCH_TOKENS // length)
    seconds = statistics.median(context.rounds({"take": lambda: batches.take(rows)}, work.rounds)["take"])
    return [
        {"name": "the config's data", "tokens_per_second": rows * length / seconds},
        _large(context, work.loader_gigabytes),
    ]


def _large(context: BenchmarkContext, gigabytes: float) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        shards = _sparse_shards(Path(folder), gigabytes)
        batches = DocumentBatches(shards, bos=BOS, sequence_length=LENGTH, seed=0, shuffle=True, long_documents="split")
        per_shard = shards[0].stat().st_size // 2
        megabytes, rates = [], []
        for _ in range(min(READ_SHARDS, len(shards) - 1)):
            seconds = [
                context.seconds(lambda: batches.take(BATCH_TOKENS // LENGTH)) for _ in range(0, per_shard, BATCH_TOKENS)
            ]
            rates += [BATCH_TOKENS / s for s in seconds]
            megabytes.append(_memory() / 1e6)
    return {
        "name": f"{gigabytes:g} GB of sparse shards",
        "tokens_per_second": statistics.median(rates),
        "megabytes_after_first_shard": megabytes[0],
        "megabytes_at_the_end": megabytes[-1],
    }


def _memory() -> int:
    """Bytes of this process in memory, without the pages of files. OSError on a system without /proc."""
    resident, shared = map(int, Path("/proc/self/statm").read_text().split()[1:3])
    return (resident - shared) * resource.getpagesize()


def _sparse_shards(folder: Path, gigabytes: float) -> list[Path]:
    """Shards that are holes but for where documents begin: a hundredth of their size on disk."""
    count = max(2, round(gigabytes * 5))
    tokens = int(gigabytes * 5e8 / count) // DOCUMENT * DOCUMENT or DOCUMENT
    paths = [folder / f"{number:03}.bin" for number in range(count)]
    for path in paths:
        with path.open("wb") as file:
            file.write(header_of(tokens))
            for start in range(0, tokens, DOCUMENT):
                file.seek(HEADER_BYTES + 2 * start)
                file.write(np.array([BOS], dtype="<u2").tobytes())
            file.truncate(HEADER_BYTES + 2 * tokens)
    return paths

"""A larger corpus takes longer, not more memory; the tokens of a shard and of a long document are not kept."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PEAK = """
import sys
from pathlib import Path
from ramen.data.text import Text
settings = dict(
    files=sys.argv[1], folder=sys.argv[2], separator=None, text_column="text", tokenizer="byte", bpe_vocabulary=300,
    sequence_length=16, batching="documents", long_documents="split", holdout="hash", validation_fraction=0.05,
    validation="spread", validation_tokens=None, shard_tokens=10**8, workers=1,
)  # all in one shard, which has no share in the memory either
data = Text(**settings).dataset(progress=False)
status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
print(data.train.tokens + data.validation.tokens, status["VmHWM"].split()[0])
"""


# Not resource.getrusage: what it says of a child begins at the size of the process that started it.
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_peak_memory_does_not_grow_with_the_corpus(tmp_path):
    results = []
    for megabytes in (5, 30):
        corpus = tmp_path / f"{megabytes}.jsonl"
        with corpus.open("w") as file:
            for number in range(megabytes * 1000):
                file.write(f'{{"text": "{number:07d} {"some text " * 99}"}}\n')
        command = [sys.executable, "-c", PEAK, str(corpus), str(tmp_path / "data")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        results.append([int(word) for word in done.stdout.split()])
    (few, low), (many, high) = results
    print(f"peak {low / 1024:.0f} MB for 5 MB of text, {high / 1024:.0f} MB for 30 MB")
    assert many == 6 * few
    assert high - low < 8 * 1024  # kilobytes

import numpy as np
import pytest

from ramen.data import shard
from ramen.data.shard import HEADER_BYTES, MAGIC, open_shard
from ramen.errors import DataError


def header(magic=MAGIC, version=1, count=3):
    values = np.zeros(256, dtype="<i4")
    values[:3] = magic, version, count
    return values.tobytes()


BODY = np.array([1, 2, 3], dtype="<u2").tobytes()


def test_what_is_written_is_read(tmp_path, write_shard):
    tokens = np.array([0, 1, 50256, 65535], dtype=np.int64)
    write_shard(tmp_path / "a.bin", tokens)
    shard = open_shard(tmp_path / "a.bin")
    assert shard.dtype == np.uint16 and isinstance(shard, np.memmap)
    assert shard.tolist() == tokens.tolist()


def test_the_header_is_that_of_the_format():
    assert shard.header_of(3) == header()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cut short, got 0 bytes"),
        (header()[:1000], "cut short, got 1000 bytes"),
        (header(magic=7) + BODY, "magic number 7"),
        (header(version=2) + BODY, "version 2,"),
        (header(count=0), " 0 tokens; allowed"),
        (header(count=-3) + BODY, " -3 tokens; allowed"),
        (header() + BODY[:-1], f"cut short, got {HEADER_BYTES + 5} bytes"),
        (header(count=2**31 - 1) + BODY, f"cut short, got {HEADER_BYTES + 6} bytes; 2147483647 tokens"),
        (header() + BODY + b"\0", "bytes behind its last token"),
    ],
)
def test_each_damage_has_its_message(tmp_path, content, message):
    path = tmp_path / "a.bin"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        open_shard(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(DataError, match="cannot be read, got FileNotFoundError"):
        open_shard(tmp_path / "a.bin")
    with pytest.raises(DataError, match="got a folder"):
        open_shard(tmp_path)

"""Two hundred damaged shards: each is told in one message, or read as what it is. None is read as something else."""

import os
import random

import numpy as np
import pytest

from ramen.data.batches import DocumentBatches
from ramen.data.dataset import open_dataset
from ramen.data.shard import HEADER_BYTES, open_shard
from ramen.errors import DataError


def flip_header(data, rng):
    at = rng.randrange(HEADER_BYTES * 8) if rng.random() < 0.3 else rng.randrange(12 * 8)
    data[at // 8] ^= 1 << at % 8


def flip_token(data, rng):
    at = rng.randrange(HEADER_BYTES, len(data))
    data[at] ^= 1 << rng.randrange(8)


def truncate(data, rng):
    del data[rng.randrange(len(data)) :]


def trail(data, rng):
    data.extend(rng.randbytes(rng.randrange(1, 3000)))


def count(data, rng):
    values = [0, 1, -1, 2**31 - 1, -(2**31), len(data), rng.randrange(-(2**31), 2**31)]
    data[8:12] = rng.choice(values).to_bytes(4, "little", signed=True)


def scramble(data, rng):
    data[:] = rng.randbytes(rng.randrange(3 * HEADER_BYTES))


DAMAGES = [flip_header, flip_token, truncate, trail, count, scramble]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_shard_is_told_or_right(text_source, jsonl, damage):
    data = text_source(str(jsonl)).dataset(progress=False)
    path = data.train.paths[1]
    whole, tokens = path.read_bytes(), open_shard(path).tolist()
    refusals = 0
    for seed in range(35):
        damaged = bytearray(whole)
        damage(damaged, random.Random(seed))
        path.write_bytes(damaged)
        try:
            open_dataset(data.folder)
            assert open_shard(path).tolist() == tokens, "another text was taken for the shard"
        except DataError as error:
            refusals += 1
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
        try:  # without a manifest a changed id cannot be seen, but nothing breaks
            taken = DocumentBatches(
                [path], bos=data.tokenizer.bos, sequence_length=16, seed=0, shuffle=True, long_documents="split"
            ).take(20)
            assert taken.tokens.min() >= 0 and taken.tokens.max() <= data.tokenizer.bos
        except DataError as error:
            assert "\n" not in str(error)
        path.write_bytes(whole)
        open_dataset(data.folder)
    assert refusals >= 30


def test_what_is_no_file_is_told_and_not_waited_for(text_source, jsonl):
    data = text_source(str(jsonl)).dataset(progress=False)
    path = data.train.paths[0]
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match="got a pipe or device"):
        open_dataset(data.folder)
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match="got a folder"):
        open_dataset(data.folder)
    path.rmdir()
    path.symlink_to("/dev/zero")
    with pytest.raises(DataError, match="got a pipe or device"):
        open_dataset(data.folder)


def test_shards_of_another_tokenizer_are_refused(text_source, jsonl, write):
    (path,) = write(np.array([256, 300, 5, 256, 1]))
    with pytest.raises(DataError, match="ids of another tokenizer, got id 300; allowed are 0 to 256"):
        DocumentBatches([path], bos=256, sequence_length=4, seed=0, shuffle=False, long_documents="split")
    byte = text_source(str(jsonl)).dataset(progress=False)
    bpe = text_source(str(jsonl), tokenizer="bpe").dataset(progress=False)
    for name in ("manifest.json", byte.train.paths[0].name):
        (byte.folder / name).write_bytes((bpe.folder / name).read_bytes())
    with pytest.raises(DataError, match=r"tokenizer.json: was changed|other settings"):
        open_dataset(byte.folder)


@pytest.mark.parametrize("name", ["manifest.json", "tokenizer.json"])
def test_a_mutated_file_of_the_folder_is_told_or_harmless(text_source, jsonl, name):
    data = text_source(str(jsonl)).dataset(progress=False)
    path = data.folder / name
    whole = path.read_bytes()
    rng = random.Random(0)
    values = [b"null", b"-1", b'"x"', b"[]", b"{}", b"1e999", b"true", b"99999999999999999999"]
    parts = [part for part in whole.replace(b",", b"\n").split(b"\n") if part.strip(b" []{}")]
    for _ in range(60):
        part = rng.choice(parts)
        _, colon, value = part.partition(b":")
        damaged = whole.replace(value if colon else part, rng.choice(values), 1)
        if rng.random() < 0.3:
            at = rng.randrange(len(whole))
            damaged = whole[:at] + rng.randbytes(2) + whole[at + rng.randrange(3) :]
        path.write_bytes(damaged)
        try:
            reopened = open_dataset(data.folder)
        except DataError:
            continue
        finally:
            path.write_bytes(whole)
        assert reopened.hash == data.hash and reopened.train.tokens == data.train.tokens

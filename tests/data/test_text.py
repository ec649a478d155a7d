import json

import pytest

from ramen.errors import ConfigError, DataError


def test_a_txt_file_is_a_document(text_source, tmp_path):
    for name in ("b", "a"):
        (tmp_path / f"{name}.txt").write_bytes(f"\ufefftext {name}\r\n\r\nmore".encode())
    source = text_source(str(tmp_path / "*.txt"))
    assert list(source.documents()) == ["text a\n\nmore", "text b\n\nmore"]
    assert list(source.documents()) == list(source.documents())


@pytest.mark.parametrize(
    ("separator", "expected"),
    [
        ("", ["a\nb\n", "<|endoftext|>\nc\n"]),
        ("<|endoftext|>", ["a\nb\n\n\n", "c\n"]),
        (None, ["a\nb\n\n\n<|endoftext|>\nc\n"]),
    ],
)
def test_a_separator_cuts_a_txt_file(text_source, tmp_path, separator, expected):
    (tmp_path / "a.txt").write_text("a\nb\n\n\n<|endoftext|>\nc\n")
    assert list(text_source(str(tmp_path / "a.txt"), separator=separator).documents()) == expected


def test_jsonl_and_parquet_hold_one_document_a_record(text_source, tmp_path):
    import pyarrow
    from pyarrow import parquet

    texts = ["one", "two\nlines", "日本"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"body": text, "id": 1}) + "\n" for text in texts) + "\n")
    parquet.write_table(pyarrow.table({"body": texts, "id": [1, 2, 3]}), tmp_path / "b.parquet")
    source = text_source([str(tmp_path / "*.parquet"), str(tmp_path / "a.jsonl")], text_column="body")
    assert list(source.documents()) == texts * 2


def test_nothing_found_names_the_pattern(text_source, tmp_path):
    with pytest.raises(DataError, match=r"data\.files: no file matches, got '.*/\*\.txt'"):
        text_source(str(tmp_path / "*.txt")).dataset(progress=False)
    with pytest.raises(DataError, match=r"data\.files: no file matches, got '.*missing\.txt'"):
        text_source([str(tmp_path / "missing.txt")]).dataset(progress=False)
    with pytest.raises(DataError, match=r"data\.files: names no file"):
        text_source([]).dataset(progress=False)
    for pattern in ("~nobody-of-that-name/a.txt", "a" * 300):
        with pytest.raises(DataError, match=rf"data\.files: no file matches, got '{pattern}'"):
            text_source(pattern).dataset(progress=False)


def test_a_path_that_cannot_be_looked_for_is_told(text_source, jsonl):
    with pytest.raises(DataError, match=r"data: cannot be looked for, got .*File name too long: 'a+/text"):
        text_source(str(jsonl), folder="a" * 300).dataset(progress=False)


def test_other_kinds_of_files_are_told(text_source, tmp_path):
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(
        DataError, match=r"a\.csv: is no text file, got \.csv suffix; allowed are \.txt, \.jsonl, \.parquet"
    ):
        text_source(str(tmp_path / "a.csv")).dataset(progress=False)
    with pytest.raises(DataError, match="got a folder"):
        text_source(str(tmp_path)).dataset(progress=False)
    (tmp_path / "b.txt").symlink_to("nowhere")
    with pytest.raises(DataError, match="got a pipe, a device or a broken link"):
        text_source(str(tmp_path / "b.txt")).dataset(progress=False)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.txt", b"ab\xff", r"a\.txt: is not UTF-8, got byte 0xff"),
        ("a.jsonl", b"{\n", "line 1 is not json"),
        ("a.jsonl", b"[" * 100_000, "line 1 is not json"),
        ("a.jsonl", b'{"text": "x", "n": ' + b"1" * 5000 + b"}", "line 1 is not json"),
        ("a.jsonl", b'{"text": "x"}\n{"txt": "x"}\n', "line 2 has no text under data.text_column='text', got txt"),
        ("a.jsonl", b"{}\n", r"line 1 has no text .* got \{\}"),
        ("a.jsonl", b"3\n", "line 1 has no text .* got int"),
        ("a.jsonl", b'{"text": 3}\n', "line 1 has no text .* got int"),
        ("a.parquet", b"PAR?", "cannot be read as parquet"),
    ],
)
def test_damaged_files_are_told(text_source, tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=told):
        list(text_source(str(tmp_path / name)).documents())


@pytest.mark.parametrize(("column", "told"), [("body", "its columns are text, id"), ("id", "holds 1; only texts")])
def test_parquet_columns_are_checked(text_source, tmp_path, column, told):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"text": ["a"], "id": [1]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=told):
        list(text_source(str(tmp_path / "a.parquet"), text_column=column).documents())


def test_a_file_with_brackets_in_its_name_is_found(text_source, tmp_path):
    (tmp_path / "a[1].txt").write_text("x")
    assert list(text_source(str(tmp_path / "a[1].txt")).documents()) == ["x"]


@pytest.mark.parametrize("separator", [" x", "x\n", "\n"])
def test_an_impossible_separator_is_told(text_source, separator):
    with pytest.raises(ConfigError, match=r"data\.separator"):
        text_source("a.txt", separator=separator)


def test_one_file_and_no_separator_names_the_remedy(text_source, tmp_path):
    (tmp_path / "a.txt").write_text("a\n\nb\n\nc\n\nd\n\ne\n")
    with pytest.raises(ConfigError, match=r"two different documents.* data\.separator"):
        text_source(str(tmp_path / "a.txt")).dataset(progress=False)
    data = text_source(str(tmp_path / "a.txt"), separator="", validation_fraction=0.4).dataset(progress=False)
    assert data.train_documents + data.validation_documents == 5

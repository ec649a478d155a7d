import json
import os

import pytest

from ramen.errors import DataError


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
    with pytest.raises(DataError, match=r"data: cannot be looked for, got .*File name too long: 'a+"):
        text_source(str(jsonl), folder="a" * 300).dataset(progress=False)


def test_what_is_no_file_is_told(text_source, tmp_path):
    (tmp_path / "b.txt").symlink_to("nowhere")
    os.mkfifo(tmp_path / "c.txt")
    for path in ("b.txt", "c.txt", "/dev/zero"):
        with pytest.raises(DataError, match="got a pipe, a device or a broken link"):
            text_source(str(tmp_path / path)).dataset(progress=False)


def test_any_suffix_is_text_and_a_folder_gives_its_texts(text_source, tmp_path, caplog):
    caplog.set_level("INFO")
    folder = tmp_path / "docs"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / "a.md").write_text("# a")
    (folder / "deep" / "er" / "b.py").write_text("b = 1  # " + "é" * 4000)
    (folder / "deep" / "c").write_text("no suffix")
    (folder / "deep" / "d.jsonl").write_text('{"text": "d"}\n')
    (folder / "image.png").write_bytes(b"\x89PNG\0\0")
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    (folder / ".git" / "config").write_text("hidden")
    texts = list(text_source(str(folder)).documents())
    assert texts == ["# a", "no suffix", "d", "b = 1  # " + "é" * 4000]
    assert "2 of 6 files" in caplog.text and "no text and are left out" in caplog.text
    with pytest.raises(
        DataError, match=r"latin\.txt: cannot be read, got UnicodeDecodeError: .*; a file of UTF-8 text"
    ):
        list(text_source(str(folder / "latin.txt")).documents())


def test_files_of_the_system_are_not_waited_for(text_source, tmp_path):
    (tmp_path / "empty.txt").write_text("")
    assert list(text_source([str(tmp_path / "empty.txt"), "/proc/kmsg"]).documents()) == []


def test_files_may_begin_at_home(text_source, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.txt").write_text("at home")
    assert list(text_source("~/x.txt").documents()) == ["at home"]


@pytest.mark.parametrize("separator", ["\n", r"\n"])
def test_each_line_may_be_a_document(text_source, tmp_path, separator):
    (tmp_path / "names.txt").write_bytes(b"emma\r\nolivia\n\nava")
    assert list(text_source(str(tmp_path / "names.txt"), separator=separator).documents()) == [
        "emma",
        "olivia",
        "",
        "ava",
    ]


def test_null_rows_are_left_out_and_counted(text_source, tmp_path, caplog):
    lines = [json.dumps({"text": None if n % 4 == 0 else f"text {n}"}) for n in range(40)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    data = text_source(str(tmp_path / "a.jsonl")).dataset(progress=False)
    assert data.train.documents + data.validation.documents == 30
    assert "10 rows hold null" in caplog.text


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_keys_may_be_nested(text_source, tmp_path, suffix):
    import pyarrow
    from pyarrow import parquet

    rows = [{"meta": {"body": {"en": f"text {n}"}}, "a.b": f"dotted {n}", "n": n} for n in range(3)]
    path = tmp_path / f"a.{suffix}"
    if suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert list(text_source(str(path), text_column="meta.body.en").documents()) == ["text 0", "text 1", "text 2"]
    assert list(text_source(str(path), text_column="a.b").documents()) == ["dotted 0", "dotted 1", "dotted 2"]
    for column, there in [("meta.body.fr", "en"), ("meta.nobody", "body"), ("n.x", "int"), ("nothing", "meta, a.b, n")]:
        with pytest.raises(
            DataError, match=rf"a\.{suffix}: \w+ 1: has no text under data\.text_column='{column}', got {there}"
        ):
            list(text_source(str(path), text_column=column).documents())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"ab\xff", r"a\.txt: cannot be read, got UnicodeDecodeError: .* byte 0xff"),
        ("a.jsonl", b"{\n", "line 1 is not json"),
        ("a.jsonl", b"[" * 100_000, "line 1 is not json"),
        ("a.jsonl", b'{"text": "x", "n": ' + b"1" * 5000 + b"}", "line 1 is not json"),
        ("a.jsonl", b'{"text": "x"}\n{"txt": "x"}\n', "line 2: has no text under data.text_column='text', got txt"),
        ("a.jsonl", b"{}\n", r"line 1: has no text .* got \{\}"),
        ("a.jsonl", b"3\n", "line 1: has no text .* got int"),
        ("a.jsonl", b'{"text": 3}\n', "line 1: .* holds no text, got int"),
        ("a.parquet", b"PAR?", "cannot be read as parquet"),
    ],
)
def test_damaged_files_are_told(text_source, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(text_source(str(tmp_path / name)).documents())


@pytest.mark.parametrize(("column", "message"), [("body", "got text, id"), ("id", "holds no text, got int")])
def test_parquet_columns_are_checked(text_source, tmp_path, column, message):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"text": ["a"], "id": [1]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=message):
        list(text_source(str(tmp_path / "a.parquet"), text_column=column).documents())


def test_a_file_with_brackets_in_its_name_is_found(text_source, tmp_path):
    (tmp_path / "a[1].txt").write_text("x")
    assert list(text_source(str(tmp_path / "a[1].txt")).documents()) == ["x"]


@pytest.mark.parametrize("separator", [" x", "x\n", "\n\n"])
def test_an_impossible_separator_is_told(text_source, separator):
    with pytest.raises(ValueError, match=r"^separator: is not a line"):
        text_source("a.txt", separator=separator)


def test_one_plain_file_just_works(text_source, tmp_path, caplog):
    (tmp_path / "a.txt").write_text("a\n\nb\n\nc\n\nd\n\ne\n")
    one = text_source(str(tmp_path / "a.txt")).dataset(progress=False)
    assert one.train.documents == one.validation.documents == 1 and "there is one document" in caplog.text
    data = text_source(str(tmp_path / "a.txt"), separator="", validation_fraction=0.4).dataset(progress=False)
    assert data.train.documents + data.validation.documents == 5

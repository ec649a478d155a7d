import pytest

from ramen.data.prepare import position
from ramen.data.python import Python
from ramen.errors import DataError


@pytest.fixture
def source(corpus_settings):
    settings = {key: value for key, value in corpus_settings.items() if key != "text_column"}
    return lambda *packages, **changed: Python(packages=list(packages), **{**settings, **changed})


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of some files, installed as pip does; returns a function that installs it elsewhere too."""
    import base64
    import hashlib

    def install(folder, files):
        info = folder / "noodles-1.0.dist-info"
        info.mkdir(parents=True)
        lines = []
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
            lines.append(f"{name},sha256={digest},{len(text)}\n")
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: noodles\nVersion: 1.0\n")
        (info / "RECORD").write_text("".join(lines) + "noodles-1.0.dist-info/RECORD,,\n")
        monkeypatch.syspath_prepend(folder)

    return install


FILES = {f"noodles/part_{number}.py": f"value = {number}\n" * (1 + number) for number in range(30)}
REST = {
    "noodles/__init__.py": "",
    "noodles/version.py": "built = 'here'\n",
    "noodles/table.json": "{}",
    "noodles/_c.so": "x",
}


def test_a_file_is_a_document_and_no_path_matters(source, package, tmp_path):
    package(tmp_path / "a", FILES | REST)
    one = source("noodles", folder=str(tmp_path / "one"))
    texts = list(one.documents())
    assert sorted(text for text in texts if text) == sorted(FILES.values())
    data = one.dataset(progress=False)
    assert data.validation.documents == sum(position(text) < 0.3 for text in FILES.values()) > 0
    package(tmp_path / "b", dict(reversed([*FILES.items(), *REST.items()])))
    two = source("noodles", folder=str(tmp_path / "two"))
    assert two.dataset(progress=False).hash == data.hash
    assert two.prepared_folder().name == one.prepared_folder().name and list(two.documents()) == texts


def test_other_contents_are_another_corpus(source, package, tmp_path):
    package(tmp_path / "a", FILES)
    before = source("noodles").prepared_folder()
    package(tmp_path / "b", FILES | {"noodles/part_0.py": "value = 100\n"})
    assert source("noodles").prepared_folder() != before


def test_a_file_changed_after_its_installation_is_told(source, package, tmp_path):
    package(tmp_path / "a", FILES)
    (tmp_path / "a" / "noodles" / "part_7.py").write_text("edited\n")
    with pytest.raises(DataError, match=r"part_7\.py: was changed after it was installed"):
        source("noodles").dataset(progress=False)


def test_packages_that_are_not_there_are_named(source):
    with pytest.raises(
        DataError, match=r"not installed with pip, got no-such-one, nor-this; `pip install no-such-one nor"
    ):
        source("numpy", "no-such-one", "nor-this").dataset(progress=False)
    with pytest.raises(DataError, match="got no name"):
        source().dataset(progress=False)

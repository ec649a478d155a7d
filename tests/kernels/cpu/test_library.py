"""The cache of compiled kernels, and what happens where there can be none."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ramen.device import cache_folder
from ramen.kernels import status
from ramen.kernels.cpu import library

ROOT = Path(__file__).resolve().parents[3]
with_kernels = pytest.mark.skipif(status() != "C kernels", reason=status())
posix = pytest.mark.skipif(os.name != "posix", reason="owners and modes of files are POSIX's")

ASK = """
import sys, torch
from ramen import kernels
from ramen.errors import ConfigError
from ramen.ops.rms_norm import rms_norm
kernels.register()
x = torch.arange(1.0, 25).view(3, 8)
torch.testing.assert_close(rms_norm(x), torch.nn.functional.rms_norm(x, (8,)), rtol=1e-6, atol=1e-6)
print(kernels.status())
"""


def ask(cache: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A new process with this cache registers its kernels, uses one and prints what it runs on."""
    variables = {**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run([sys.executable, "-c", ASK], env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> tuple[str, bytes]:
    """Name and content of the library that a process compiles."""
    cache = tmp_path_factory.mktemp("cache")
    ask(cache)
    (path,) = (cache / "ramen").iterdir()
    return path.name, path.read_bytes()


@pytest.fixture
def cached(compiled, tmp_path) -> Path:
    """That library, in a cache of its own."""
    name, content = compiled
    folder = tmp_path / "ramen"
    folder.mkdir(mode=0o700)
    path = folder / name
    path.write_bytes(content)
    path.chmod(0o700)
    return path


@with_kernels
def test_a_library_is_compiled_once_and_kept(cached):
    before = cached.stat().st_mtime_ns
    assert ask(cached.parents[1]).stdout == "C kernels\n"
    assert [*cached.parent.iterdir()] == [cached] and cached.stat().st_mtime_ns == before


@with_kernels
@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "another's"])
def test_a_damaged_library_is_never_loaded_and_healed(cached, damage):
    content = cached.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    cut = {"cut": content[:5000], "empty": b"", "flipped": bytes(flipped), "another's": b"\x7fELF planted"}[damage]
    cached.write_bytes(cut)
    assert ask(cached.parents[1]).stdout == "C kernels\n"
    assert cached.read_bytes() == content or len([*cached.parent.iterdir()]) == 1
    assert all(b"planted" not in path.read_bytes() for path in cached.parent.iterdir())


@with_kernels
@posix
def test_a_library_others_can_write_to_is_not_loaded(cached):
    """Even with the right content: it could be changed after it was looked at."""
    cached.chmod(0o777)
    assert ask(cached.parents[1]).stdout == "C kernels\n"
    assert not any(path.stat().st_mode & 0o022 for path in cached.parent.iterdir())


@with_kernels
@posix
def test_a_folder_others_can_write_to_is_not_used(cached):
    cached.parent.chmod(0o777)
    before = cached.stat().st_mtime_ns
    done = ask(cached.parents[1])
    assert done.stdout == "C kernels\n" and "is not this user's alone" in done.stderr
    assert [*cached.parent.iterdir()] == [cached] and cached.stat().st_mtime_ns == before


@posix
@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("what", ["folder", "library"])
def test_what_another_user_planted_is_not_loaded(cached, what):
    os.chown(cached.parent if what == "folder" else cached, 12345, 12345)
    done = ask(cached.parents[1])
    assert done.stdout == "C kernels\n"
    owners = {path.stat().st_uid for path in cached.parent.iterdir()}
    assert owners == {0}
    assert ("is not this user's alone" in done.stderr) == (what == "folder")


@with_kernels
def test_processes_with_one_number_do_not_disturb_each_other(tmp_path):
    """As in containers that share a cache: several compile at once, and none sees another's unfinished file."""
    variables = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    code = "import os; os.getpid = lambda: 7\n" + ASK
    asked = [subprocess.Popen([sys.executable, "-c", code], env=variables, stdout=subprocess.PIPE) for _ in range(3)]
    assert [process.communicate()[0] for process in asked] == [b"C kernels\n"] * 3
    assert all(path.suffix == ".so" for path in (tmp_path / "ramen").iterdir())


COMPILERS = {
    "#!/bin/sh\nexit 1": "failed",
    "#!/bin/sh\necho \"clang: error: unsupported option '-fopenmp'\" >&2; exit 1": "has no OpenMP",
    None: "no C compiler",
}


@pytest.mark.parametrize(("script", "reported"), COMPILERS.items(), ids=COMPILERS.values())
def test_without_a_compiler_torch_serves_and_says_so_once(tmp_path, script, reported):
    compiler = tmp_path / "cc"
    if script is not None:
        compiler.write_text(script)
        compiler.chmod(0o755)
    done = ask(tmp_path, CC=str(compiler))
    assert done.stdout.startswith("plain torch, which is slower (") and reported in done.stdout
    assert done.stderr.count(reported) == 1
    assert not [*(tmp_path / "ramen").glob("*")]


@pytest.mark.parametrize("variable", ["CC", "RAMEN_KERNELS"])
def test_a_run_says_what_served(tmp_path, small, variable):
    """Without kernels attention runs on `sdpa`, and a run that asks for `kernel` is refused."""
    value = {"CC": "/no/compiler", "RAMEN_KERNELS": "off"}[variable]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), variable: value}

    def train(name: str, *overrides: str) -> subprocess.CompletedProcess[str]:
        overrides = (*small, "trainer.steps=1", f"hydra.run.dir={tmp_path / name}", *overrides)
        command = [sys.executable, "train.py", *overrides]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    done = train("run", "precision=bf16")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["attention_backend"] == "sdpa"
    assert done.stderr.count("CPU kernels could not be compiled") == (variable == "CC")
    done = train("refused", "attention.backend=kernel")
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "attention.backend: kernel needs the CPU" in done.stderr


def test_kernels_can_be_left_out(tmp_path):
    done = ask(tmp_path, RAMEN_KERNELS="off")
    assert done.stdout == "plain torch, which is slower (RAMEN_KERNELS=off)\n" and done.stderr == ""
    assert not (tmp_path / "ramen").exists()


def test_a_cache_that_cannot_be_made_is_replaced(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    folder = cache_folder()
    assert folder.is_dir() and tmp_path not in folder.parents and folder == cache_folder()


@with_kernels
def test_kernels_are_for_ordinary_tensors_of_the_cpu():
    x = torch.ones(2)
    assert library.kernels(x) and library.kernels(x.bfloat16())
    others = x.double(), x.half(), x.to("meta"), x.as_subclass(type("Special", (torch.Tensor,), {}))
    assert not any(library.kernels(other) for other in others)
    assert library.kernels(x, others[2]) is None
    assert torch.func.vmap(lambda row: row + float(library.kernels(row) is not None))(torch.zeros(2, 3)).eq(0).all()


@with_kernels
def test_a_kernel_refuses_what_it_cannot_read():
    kernels = library.kernels(torch.ones(2))
    with pytest.raises(ValueError, match="contiguous"):
        kernels.rms_norm_forward(torch.ones(4, 4).T, torch.ones(4, 4), torch.ones(4), 4, 4)
    with pytest.raises(AttributeError):
        kernels.no_such_kernel(torch.ones(2))


def test_a_fingerprint_is_of_sources_command_and_processor(tmp_path, monkeypatch):
    """A stale library would go on serving after a change."""
    source, header = tmp_path / "one.c", tmp_path / "kernel.h"
    source.write_text("a")
    header.write_text("b")
    monkeypatch.setattr(library, "SOURCES", [source])
    fingerprints = [library._fingerprint(["gcc", "-O3"]), library._fingerprint(["gcc", "-O3", "-DBFLOAT16"])]
    source.write_text("c")
    fingerprints.append(library._fingerprint(["gcc", "-O3"]))
    header.write_text("d")
    fingerprints.append(library._fingerprint(["gcc", "-O3"]))
    monkeypatch.setattr(library, "_processor", lambda: "another")
    fingerprints.append(library._fingerprint(["gcc", "-O3"]))
    assert len(set(fingerprints)) == 5

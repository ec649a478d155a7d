"""C kernels for tensors on the CPU: compiled by the system's compiler on first use, kept in the user's cache folder.

Eager torch takes a pass over memory for every operation; a kernel takes one for them all. Kernels read float32 or bfloat16 and
compute in float32, and the number of threads changes no result. One library holds all sources for a number type.
A cached library's name ends in the hash of its content: one that is damaged, of another user's, or writable by others is never
loaded, and is replaced.
Cost: two or three seconds the first time, nothing afterwards.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from ramen.device import belongs_to_user, cache_folder
from ramen.kernels.compiler import constant

log = logging.getLogger("ramen")

Argument = Tensor | float | int | Sequence[Tensor] | Sequence[int] | None
SOURCES = sorted(Path(__file__).parent.glob("*.c"))
FLAGS = ["-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared"]
FLAGS += ["-fPIC"] + ["-mprefer-vector-width=512"] * (platform.machine() == "x86_64")
TYPES: dict[torch.dtype, list[str]] = {torch.float32: [], torch.bfloat16: ["-DBFLOAT16"]}


def kernels(*tensors: Tensor) -> "Library | None":
    """The kernels for tensors like these, numbers of the first one's type; None where torch has to serve."""
    return load(tensors[0].dtype) if not torch.compiler.is_compiling() and serves(*tensors) else None


def serves(*tensors: Tensor) -> bool:
    """True if there are kernels for tensors like these. A compiler may ask too, for an operation that it does not look into."""
    if torch.compiler.is_compiling():
        return all(tensor.device.type == "cpu" for tensor in tensors) and exist(tensors[0].dtype)
    return all(map(_ordinary, tensors)) and exist(tensors[0].dtype)


@constant
def exist(dtype: torch.dtype) -> bool:
    """True if there are kernels for numbers of this type."""
    return load(dtype) is not None


def _ordinary(tensor: Tensor) -> bool:
    """True for an ordinary tensor of the CPU, and for a fake one."""
    ordinary = type(tensor) in (Tensor, torch.nn.Parameter, FakeTensor)
    return ordinary and tensor.device.type == "cpu" and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)


class Library:
    """The functions of a compiled library, as attributes.

    They take contiguous tensors, floats, ints, None and lists of tensors or ints (arrays of pointers or longs) in the order of
    their C declaration; the number of threads is added. Called with fake tensors they do nothing, so that a dry run saves
    what the run will save.
    """

    def __init__(self, path: Path):
        self._library = ctypes.CDLL(str(path))

    def __getattr__(self, name: str) -> Callable[..., None]:
        function = getattr(self._library, name)

        def call(*arguments: Argument) -> None:
            if any(isinstance(a[0] if isinstance(a, list | tuple) else a, FakeTensor) for a in arguments):
                return
            if function(*map(_as_c, arguments), ctypes.c_long(torch.get_num_threads())):
                raise IndexError(f"{name}: a target out of range, or no memory to work in")

        setattr(self, name, call)
        return call


def _as_c(value: Argument) -> Any:
    if isinstance(value, Tensor):
        if not value.is_contiguous():
            raise ValueError(f"a kernel takes contiguous tensors, got strides {value.stride()}")
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, list | tuple):
        values = [item if isinstance(item, int) else _as_c(item).value for item in value]
        return ((ctypes.c_long if isinstance(value[0], int) else ctypes.c_void_p) * len(values))(*values)
    if isinstance(value, float):
        return ctypes.c_float(value)
    return ctypes.c_void_p(None) if value is None else ctypes.c_long(value)  # type: ignore[arg-type]


def load(dtype: torch.dtype) -> Library | None:
    """The kernels for numbers of this type; None where there are none, after a warning if they could not be compiled."""
    return _attempt(dtype)[0] if dtype in TYPES else None


def trouble() -> str:
    """The reason why there are no kernels, in a line; empty where there are."""
    return _attempt(torch.float32)[1]


@functools.cache
def _attempt(dtype: torch.dtype) -> tuple[Library | None, str]:
    try:
        return Library(_cached(dtype)), ""
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("CPU kernels could not be compiled, plain torch serves, more slowly: %s", error)
        return None, str(error)


def _cached(dtype: torch.dtype) -> Path:
    """The library for a number type, from the cache or compiled now. OSError or SubprocessError when it cannot be."""
    command = [*_compiler(), *FLAGS, *TYPES[dtype]]
    folder, name = cache_folder(), f"kernels-{str(dtype).removeprefix('torch.')}-{_fingerprint(command)}"
    for library in folder.glob(f"{name}-*.so"):
        if belongs_to_user(library) and library.stem == f"{name}-{_hash(library)}":
            return library
        library.unlink(missing_ok=True)
    descriptor, unfinished = tempfile.mkstemp(".unfinished", "kernels-", folder)  # no other process has this name
    os.close(descriptor)
    try:
        command += [*map(str, SOURCES), "-o", unfinished, "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            raise OSError(_diagnosis(command[0], done.stderr))
        library = folder / f"{name}-{_hash(Path(unfinished))}.so"
        Path(unfinished).replace(library)  # atomic: another process sees all of it or nothing
        return library
    finally:
        Path(unfinished).unlink(missing_ok=True)


def _compiler() -> list[str]:
    """$CC, or else gcc or cc. FileNotFoundError when it is not there."""
    asked = shlex.split(os.environ.get("CC", ""))
    for name in asked[:1] or ("gcc", "cc"):
        if path := shutil.which(name):
            return [path, *asked[1:]]
    raise FileNotFoundError(f"no C compiler: {asked[0] if asked else 'gcc'} is not on the PATH")


def _diagnosis(compiler: str, complaint: str) -> str:
    if "fopenmp" in complaint:
        return f"{compiler} has no OpenMP, which the clang of macOS comes without; gcc has it: CC=gcc-14, for one"
    return f"{compiler} failed: {complaint.strip()[:300]}"


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _fingerprint(command: list[str]) -> str:
    """Of everything a library depends on, this machine's instruction set included."""
    digest = hashlib.sha256("\0".join(command).encode())
    for path in (*SOURCES, SOURCES[0].with_name("kernel.h")):
        digest.update(path.read_bytes())
    digest.update(_processor().encode())
    return digest.hexdigest()[:16]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(("model name", "flags", "Features"))))

"""C kernels for tensors on the CPU: compiled by the system's gcc on first use, kept in the user's cache folder.

Eager torch takes a pass over memory for every operation; a kernel takes one for them all. A `<name>.c` beside the `<name>.py`
that uses it has a plain torch twin there, which serves other devices and number types, machines without a compiler, and
torch.compile where the kernel is no operation of torch's own. Kernels read float32 or bfloat16 and compute in float32, and the
number of threads changes no result.
RAMEN_KERNELS=off leaves them out.
Cost: a second or two the first time, nothing afterwards.
"""

import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

log = logging.getLogger("ramen")

Value = TypeVar("Value")
Argument = Tensor | float | int | Sequence[Tensor] | Sequence[int] | None
SOURCES = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.c"))}
FLAGS = ["-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared"]
FLAGS += ["-fPIC"] + ["-mprefer-vector-width=512"] * (platform.machine() == "x86_64")
HAS_TRITON = importlib.util.find_spec("triton") is not None  # asked here: torch.compile cannot trace it
_off = False
FLAVOURS: dict[torch.dtype, list[str]] = {torch.float32: [], torch.bfloat16: ["-DBFLOAT16"]}


def kernels(source: str, *tensors: Tensor) -> "Library | None":
    """The functions of `<source>.c` for tensors like these, numbers of the first one's type; None where torch has to serve."""
    if torch.compiler.is_compiling() or not serves(*tensors):
        return None
    return _libraries(tensors[0].dtype)[0][source]


def serves(*tensors: Tensor) -> bool:
    """Whether there are kernels for tensors like these. A compiler may ask too, for an operation that it does not look into."""
    if torch.compiler.is_compiling():
        return all(tensor.device.type == "cpu" for tensor in tensors) and _exist(tensors[0].dtype)
    return all(map(_plain, tensors)) and _exist(tensors[0].dtype)


def constant(function: Callable[..., Value]) -> Callable[..., Value]:
    """torch.compiler.assume_constant_result, whose import takes a second of every process that compiles nothing."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@constant
def _exist(dtype: torch.dtype) -> bool:
    return not _off and bool(_libraries(dtype)[0])


def triton_serves(device: torch.device) -> bool:
    """Whether Triton's kernels run there."""
    return device.type == "cuda" and not _off and os.environ.get("RAMEN_KERNELS") != "off" and HAS_TRITON


@contextlib.contextmanager
def plain_torch() -> Iterator[None]:
    """Within, torch serves: what a kernel is compared with."""
    global _off
    before, _off = _off, True
    try:
        yield
    finally:
        _off = before


def status() -> str:
    """What operations on the CPU run on, in one line."""
    libraries, trouble = _libraries(torch.float32)
    return "C kernels" if libraries else f"plain torch, which is slower ({trouble})"


class Library:
    """The functions of one compiled source, as attributes.

    They take contiguous tensors, floats, ints, None and lists of tensors or ints (arrays of pointers or longs) in the order of
    their C declaration; the number of threads is added. Called with fake tensors they do nothing, so that the sketch of a run keeps
    what the run will keep.
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


def _plain(tensor: Tensor) -> bool:
    """An ordinary tensor of the CPU, or the sketch of one."""
    ordinary = type(tensor) in (Tensor, torch.nn.Parameter, FakeTensor)
    return ordinary and tensor.device.type == "cpu" and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)


@functools.cache
def _libraries(dtype: torch.dtype) -> tuple[dict[str, Library], str]:
    """The compiled sources for numbers of this type, or none and why."""
    if dtype not in FLAVOURS:
        return {}, f"no kernels for {dtype}"
    if os.environ.get("RAMEN_KERNELS") == "off":
        return {}, "RAMEN_KERNELS=off"
    try:
        return _compiled(FLAVOURS[dtype]), ""
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("CPU kernels could not be compiled, plain torch serves, more slowly: %s", error)
        return {}, str(error)


def _compiled(flags: list[str]) -> dict[str, Library]:
    """Every source as a library: from the cache, or compiled now, all at once. OSError or SubprocessError when it cannot be."""
    compiler = shutil.which(os.environ.get("CC", "gcc")) or shutil.which("cc")
    if compiler is None:
        raise FileNotFoundError("no C compiler: gcc is not on the PATH")
    command = [compiler, *FLAGS, *flags]
    folder = cache_folder()
    libraries = {name: folder / f"{name}-{_fingerprint(source, command)}.so" for name, source in SOURCES.items()}
    running = {}
    for name, library in libraries.items():
        if not library.exists():
            made = library.with_suffix(f".{os.getpid()}")
            line = [*command, str(SOURCES[name]), "-o", str(made), "-lm"]
            running[name] = made, subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    complaints = {name: process.communicate(timeout=120)[1] for name, (_, process) in running.items()}
    for name, (made, process) in running.items():
        if process.returncode:
            raise OSError(f"{compiler} failed on {SOURCES[name].name}: {complaints[name].strip()[:300]}")
        made.replace(libraries[name])  # atomic: another process sees all of it or nothing
    return {name: _load(library) for name, library in libraries.items()}


def _load(library: Path) -> Library:
    try:
        return Library(library)
    except OSError:
        library.unlink(missing_ok=True)  # whatever it is, the next process makes a new one
        raise


def _fingerprint(source: Path, command: list[str]) -> str:
    """Of everything a library depends on, this machine's instruction set included."""
    digest = hashlib.sha256("\0".join(command).encode())
    for path in (source, source.with_name("kernel.h")):
        digest.update(path.read_bytes())
    digest.update(_processor().encode())
    return digest.hexdigest()[:16]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(("model name", "flags", "Features"))))


def cache_folder() -> Path:
    """ramen/ in the user's cache folder, or a folder of this process alone when that cannot be written."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ramen"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):
        pass
    return Path(tempfile.mkdtemp(prefix="ramen-"))

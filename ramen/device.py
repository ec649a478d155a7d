"""The machine: which device, which number type, how fast it can be, and what was installed."""

import atexit
import ctypes
import functools
import logging
import os
import platform
import re
import shutil
import sys
import tempfile
import timeit
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes

from ramen.errors import ConfigError

log = logging.getLogger("ramen")

# Peak dense bf16 rates in FLOP/s, from the makers' data sheets (H200 and H100: what a matrix product reaches at best is lower).
PEAK_BF16 = {
    "B200": 2250e12, "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12,
    "RTX 5090": 209.5e12, "RTX 4090": 165.2e12, "RTX 3090": 71e12,
}  # fmt: skip


def select_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU. ConfigError for a device that is not here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", name):
        raise ConfigError(f"device: not supported, got {name!r}; allowed are auto, cpu, cuda, cuda:N")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device: not usable here, got {name!r} ({reason}); allowed are auto, cpu") from error
    return device


def compute_dtype(x: torch.Tensor) -> torch.dtype:
    """The number type of matrix products with x: autocast's where that is on, else its own."""
    kind = x.device.type
    on = kind != "meta" and torch.is_autocast_enabled(kind)  # torch would not know of it there
    return torch.get_autocast_dtype(kind) if on else x.dtype


class DryRunMode(FakeTensorMode):
    """Makes fake tensors of the CPU, which stand for those of a type of device and are treated as they will be there."""

    def __init__(self, stands_for: str):
        super().__init__()
        self.stands_for = stands_for


def device_type(x: torch.Tensor) -> str:
    """The type of the device that x is on, or stands for."""
    mode = x.fake_mode if isinstance(x, FakeTensor) else None
    return mode.stands_for if isinstance(mode, DryRunMode) else x.device.type


def cache_folder() -> Path:
    """ramen/ in the user's cache folder, or a folder of this process alone where that cannot be written or trusted."""
    home = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = (Path(home) if home else Path.home() / ".cache") / "ramen"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if belongs_to_user(folder) and os.access(folder, os.W_OK):
            return folder
        problem = "is not this user's alone (chmod go-w would make it)"
    except (OSError, RuntimeError) as error:
        problem = f"cannot be made ({error})"
    return _private_folder(f"{home or '~/.cache'}/ramen {problem}")


@functools.cache
def _private_folder(reason: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="ramen-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    log.warning("cache folder: %s: what this process compiles is not kept", reason)
    return folder


def belongs_to_user(path: Path) -> bool:
    """True if this process's user owns a file or folder, and no other can write to it."""
    if os.name != "posix":
        return True
    status = path.stat()
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


def prepare(device: torch.device, threads: int | None) -> None:
    """Settings of the process: number of threads and current CUDA device."""
    if threads is not None:
        torch.set_num_threads(threads)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # kernels of our own are launched on the current one


def select_precision(choice: str, device: torch.device) -> torch.dtype:
    """The type matrix products run in: `auto` is bfloat16 where it is at least 1.3 times as fast as float32."""
    if choice == "auto":
        return torch.bfloat16 if _bfloat16_pays(device.type) else torch.float32
    if choice == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError("precision: bf16 is not supported by this GPU; allowed are auto, fp32")
    return torch.bfloat16 if choice == "bf16" else torch.float32


def _bfloat16_pays(kind: str) -> bool:
    return torch.cuda.is_bf16_supported(including_emulation=False) if kind == "cuda" else bfloat16_speed() > 1.3


@functools.cache
def bfloat16_speed() -> float:
    """Speed of a bfloat16 matrix product on this CPU, relative to float32: about 2 where it has units for it, 0.5 where not.

    On one thread: with more, a process beside this one would decide, and what a run computes must not depend on that.
    """
    types, threads = (torch.bfloat16, torch.float32), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # The first caller may be a dry run, or inside autocast.
        with _disable_current_modes(), torch.autocast("cpu", enabled=False):
            # In turn: a busy moment meets both.
            rounds = [[_matmul_rate(dtype, size=512) for dtype in types] for _ in range(5)]
    finally:
        torch.set_num_threads(threads)
    narrow, wide = map(max, zip(*rounds, strict=True))
    return narrow / wide


def _matmul_rate(dtype: torch.dtype, size: int) -> float:
    """FLOP/s of the best of some square matrix products on the CPU."""
    a = torch.ones(size, size, dtype=dtype)
    return 2 * size**3 / min(timeit.repeat(lambda: a @ a, number=1, repeat=4))  # the first may be a warm-up


def peak_rate(device: torch.device) -> float | None:
    """FLOP/s this GPU reaches in bfloat16 by its data sheet; None where it is not known, and on a CPU."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((rate for key, rate in PEAK_BF16.items() if key in name), None)


def describe(device: torch.device) -> dict[str, Any]:
    """Device, versions and threads, for environment.json."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    packages = ("ramen", "torch", "numpy", "hydra-core", "omegaconf", "tiktoken", "safetensors", "pydantic")
    versions: dict[str, str | None] = dict.fromkeys(packages)
    for package in packages:
        with suppress(PackageNotFoundError):  # one that stands on the path without having been installed
            versions[package] = version(package)
    return {
        "device": name,
        "device_type": device.type,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
    }


class PeakMemory:
    """Bytes at the peak since this was made: of tensors on a GPU; on a CPU what the process has grown by."""

    def __init__(self, device: torch.device):
        self.device, self.before = device, 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        elif sys.platform == "linux":
            with suppress(AttributeError):  # another libc
                ctypes.CDLL(None).malloc_trim(0)
            self.before = _figure("/proc/self/status", "VmRSS")
            with suppress(OSError):  # where it is forbidden the old peak stays
                Path("/proc/self/clear_refs").write_text("5")

    def bytes(self) -> int | None:
        """None where the system does not say."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return _figure("/proc/self/status", "VmHWM") - self.before if sys.platform == "linux" else None


def free_memory(device: torch.device) -> int:
    """Bytes that may still be taken: of the GPU, or of the machine and this process's control group."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if sys.platform != "linux":
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    free = _figure("/proc/meminfo", "MemAvailable")
    for folder, limit, used, cached in CONTROL_GROUPS:
        with suppress(OSError, ValueError, StopIteration):  # no such group, or "max"
            taken = int(Path(folder, used).read_text()) - _figure(f"{folder}/memory.stat", cached)
            free = min(free, int(Path(folder, limit).read_text()) - taken)
    return max(0, free)


CONTROL_GROUPS = (  # version 2 and 1: limit, use, and the part of the use that is given back when asked for
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def _figure(path: str, key: str) -> int:
    """A number of a file of the system, in bytes where that says kB."""
    lines = (line.split() for line in Path(path).read_text().splitlines())
    fields = next(line for line in lines if line[0].rstrip(":") == key)
    return int(fields[1]) * (1024 if fields[-1] == "kB" else 1)

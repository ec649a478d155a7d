"""Memory of the process for big tensors on the CPU: fewer page faults, so shorter steps. Serves all operations.

glibc returns freed blocks to the system; faulted in again they cost up to 10 % of a small model's step. Huge pages give 1 to 3 %.
"""

import ctypes
import sys
from contextlib import suppress

HEAP_BYTES = 1_900_000_000  # asked for in huge pages: below 2^31, from where on glibc gives freed memory back
HUGE_PAGE, MADV_HUGEPAGE = 1 << 21, 14  # bytes; Linux's number of the advice


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks, and the heap to come be of huge pages where the system has them; elsewhere do nothing."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    with suppress(AttributeError):  # another libc
        trim_threshold, mmap_max, arena_max = -1, -4, -8
        libc.mallopt(mmap_max, 0)  # a threshold above 32 MB is refused, and a head's logits are larger
        libc.mallopt(trim_threshold, (1 << 31) - 1)
        libc.mallopt(arena_max, 1)
        libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        libc.free.argtypes, libc.madvise.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        block = libc.malloc(HEAP_BYTES)  # nothing is taken until it is used
        if block is not None:  # a process may be forbidden as much
            begin = -(-block // HUGE_PAGE) * HUGE_PAGE
            libc.madvise(begin, (block + HEAP_BYTES - begin) // HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE)
            libc.free(block)  # the heap keeps it, and the advice

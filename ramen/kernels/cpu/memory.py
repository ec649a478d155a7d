"""Memory of the process for big tensors on the CPU: fewer page faults, so shorter steps. Serves all operations.

glibc returns freed blocks to the system; faulted in again they cost up to 10 % of a small model's step. Huge pages give 1 to 3 %.
What is kept gets cut into pieces, though, so that a step of recomputed activations held three times its tensors.
"""

import ctypes
import sys
from contextlib import suppress

HEAP_BYTES = 1_900_000_000  # asked for in huge pages: below 2^31, from where on glibc gives freed memory back
LARGE, MOST_MAPS = 1 << 20, 1 << 16  # bytes of a block, blocks
HUGE_PAGE, MADV_HUGEPAGE = 1 << 21, 14  # bytes; Linux's number of the advice


def set_up_heap(return_freed: bool) -> None:
    """Let glibc keep freed blocks, in huge pages where the system has them, or return large ones at once; elsewhere do nothing."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    with suppress(AttributeError):  # another libc
        trim_threshold, mmap_threshold, mmap_max, arena_max = -1, -3, -4, -8
        libc.mallopt(arena_max, 1)
        libc.mallopt(mmap_threshold, LARGE)
        libc.mallopt(
            mmap_max, MOST_MAPS if return_freed else 0
        )  # a threshold above 32 MB is refused: logits are larger
        libc.mallopt(trim_threshold, LARGE if return_freed else (1 << 31) - 1)
        if return_freed:
            return
        libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        libc.free.argtypes, libc.madvise.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        block = libc.malloc(HEAP_BYTES)  # nothing is taken until it is used
        if block is not None:  # a process may be forbidden as much
            begin = -(-block // HUGE_PAGE) * HUGE_PAGE
            libc.madvise(begin, (block + HEAP_BYTES - begin) // HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE)
            libc.free(block)  # the heap keeps it, and the advice

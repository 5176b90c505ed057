"""What the C library does with memory that tensors on a CPU have left."""

import ctypes

# mallopt's parameters, from glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Let this process keep memory that it has freed, for the next tensors; says whether that could be had.

    Left to itself, glibc returns large blocks to the kernel when they are freed, and the kernel clears each page of the
    next ones: of a pretraining step in fp32, a sixth of the time. The process keeps the size that it once had. Results
    are the same. Only glibc has this switch; elsewhere nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt and mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))

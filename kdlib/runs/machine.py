"""What this machine can do, and how its memory is asked for."""

import ctypes
import functools
import os
from pathlib import Path

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of glibc's malloc.h


@functools.cache
def cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 itself (avx512_bf16 or amx_bf16), as Linux says; False elsewhere."""
    try:
        return not {"avx512_bf16", "amx_bf16"}.isdisjoint(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False


def memory() -> int:
    """Bytes of the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def keep_memory():
    """Keep freed memory in this process, where the C library is glibc.

    By default an array of 32 MB or more is asked of the system anew each time and its pages are cleared one by one: a
    forward pass of EfficientNet-B3 took 1.5 to 2.7 times as long, of resnet32x4 1.2 times. No result changes by it."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 1 << 26)):
            mallopt(option, value)

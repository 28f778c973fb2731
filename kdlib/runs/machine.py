"""What this machine can do: device, precision, and how its memory is asked for."""

import ctypes
import functools
import os
from pathlib import Path

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of glibc's malloc.h


@functools.cache
def cpu_has_bfloat16() -> bool:
    """Return whether the CPU multiplies bfloat16 natively (avx512_bf16 or amx_bf16), according to Linux; False elsewhere."""
    try:
        return not {"avx512_bf16", "amx_bf16"}.isdisjoint(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False


def memory() -> int:
    """Return the bytes of the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def keep_memory():
    """Keep freed memory in this process, where the C library is glibc.

    By default, each array of 32 MB or more is a new request to the system, which clears its pages one by one: a forward pass
    took 1.5 to 2.7 times as long for EfficientNet-B3, 1.2 times for resnet32x4. No result changes."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 1 << 26)):
            mallopt(option, value)


def resolve_device(device) -> str:
    """Return the device that "auto" stands for, or the given one."""
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def choose_precision(device, dataset) -> tuple:
    """Return (precision, reason): what `auto` stands for on this device and machine, for this data set.

    It is the same for a teacher and its student. Measured on a CPU with avx512_bf16, bfloat16 takes .5 to .7 of float32's
    time for ResNets, WRNs and VGGs at CIFAR's 32 pixels, but 1.2 to 1.4 for networks of depthwise convolutions (MobileNetV2,
    ShuffleV2, EfficientNet-B0) and for the small networks of `quick`: hence CIFAR alone."""
    if device.startswith("cuda"):
        import torch

        if torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False):
            return "float32", "this GPU has no bfloat16 arithmetic"
        return "bfloat16", "the device is a GPU"
    if not cpu_has_bfloat16():
        return "float32", "this CPU has no bfloat16 arithmetic (avx512_bf16 or amx_bf16)"
    if dataset.startswith("cifar"):
        return "bfloat16", "this CPU has bfloat16 arithmetic, and the images are CIFAR's"
    return "float32", "on CPUs, bfloat16 is faster only for CIFAR-sized images"

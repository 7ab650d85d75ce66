"""Detect accelerators through the driver, without importing torch."""

import ctypes
import platform
import sys
from functools import cache


@cache
def num_cuda_devices() -> int:
    """Number of CUDA devices visible to this process (`CUDA_VISIBLE_DEVICES` applies)."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        count = ctypes.c_int(0)
        if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0:
            return count.value
    except OSError:
        pass  # no driver
    return 0


def has_mps() -> bool:
    """Whether this is a Mac with Apple silicon."""
    return sys.platform == "darwin" and platform.machine() == "arm64"

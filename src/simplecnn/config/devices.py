"""Which accelerators this machine has, asked of the driver: no torch."""

import ctypes
import platform
import sys
from functools import cache


@cache
def num_cuda_devices() -> int:
    """CUDA devices that the driver shows to this process (`CUDA_VISIBLE_DEVICES` counts)."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        count = ctypes.c_int(0)
        if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0:
            return count.value
    except OSError:
        pass  # no driver
    return 0


def has_mps() -> bool:
    """Whether this is a Mac with Apple's own processor."""
    return sys.platform == "darwin" and platform.machine() == "arm64"

"""Which accelerators this machine has, asked of the driver: no torch."""

import ctypes
import platform
import sys
from functools import cache
from typing import Any


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


def count(accelerator: str, devices: Any) -> int:
    """How many processes `trainer.accelerator` and `trainer.devices` stand for here."""
    if isinstance(devices, list):
        return len(devices)
    if isinstance(devices, int):
        return devices
    return max(1, num_cuda_devices()) if accelerator in ("auto", "gpu", "cuda") else 1


def problem(accelerator: str, devices: Any) -> str | None:
    """Why this machine cannot serve `trainer.accelerator` and `trainer.devices`, or None."""
    num_gpus = num_cuda_devices() if accelerator in ("gpu", "cuda") else 0
    if accelerator == "gpu" and not num_gpus and has_mps():
        accelerator = "mps"
    if accelerator in ("gpu", "cuda"):
        if not num_gpus:
            return (
                f"trainer.accelerator is {accelerator!r}: no CUDA device is seen on this machine. "
                f"Type trainer=auto or trainer=cpu."
            )
        wanted = devices if isinstance(devices, int) else 0
        wanted = max(devices) + 1 if isinstance(devices, list) else wanted
        if wanted > num_gpus:
            return f"trainer.devices is {devices!r}: this machine has {num_gpus} CUDA device(s)."
    if accelerator == "mps" and not has_mps():
        return (
            "trainer.accelerator is 'mps': this is not a Mac with an Apple processor. "
            "Type trainer=auto or trainer=cpu."
        )
    return None

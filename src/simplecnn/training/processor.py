"""Settings of the process: two that are worth a third of a training step on a CPU, and those that
a run must not leave to the next one. Imports no torch before it is needed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Turns that an OpenMP thread waits in a loop before it goes to sleep: a tenth of a millisecond.
# More are a little faster in a quiet hour, fewer beside busy processes: docs/performance.md.
# With GNU's default, beside two busy processes, a step of 64 digits took 429 ms; with this, 17 to
# 19 ms, and as long as ever in a quiet hour (6.7 to 7.7 ms; 2 cores, torch 2.15).
SPIN_COUNT = "30000"


def configure_threads() -> None:
    """Keep waiting threads from spinning; before torch is imported. What the user set stays."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
        os.environ.setdefault("KMP_BLOCKTIME", "1")  # ms; where the runtime is Intel's


def keep_freed_memory() -> None:
    """Have the allocator of Linux (glibc) keep freed memory, up to 62 MB, for the next step.

    Else it returns large pieces to the system and gets them back page by page, each step: 9.3 to
    9.6 ms instead of 6.7 to 8.7. It goes by the largest piece that it has seen freed, up to 32 MiB.
    """
    import torch

    torch.empty(31 * 2**18)


@contextmanager
def state_restored() -> Iterator[None]:
    """Leave the environment and torch's switches as they were: the next run is not this one's."""
    import torch

    environment = dict(os.environ)
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    deterministic = torch.are_deterministic_algorithms_enabled()
    cudnn = torch.backends.cudnn
    flags = {name: getattr(cudnn, name) for name in ("deterministic", "benchmark", "allow_tf32")}
    values: list[tuple[Any, Any]] = [
        (torch.set_float32_matmul_precision, torch.get_float32_matmul_precision()),
        (torch.set_num_threads, torch.get_num_threads()),
        (torch.set_default_dtype, torch.get_default_dtype()),
    ]
    try:
        yield
    finally:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        for name, value in flags.items():
            setattr(cudnn, name, value)
        for restore, value in values:
            restore(value)

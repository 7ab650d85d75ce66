"""Two settings of the process that are worth a third of a training step on a CPU. No torch."""

import os

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

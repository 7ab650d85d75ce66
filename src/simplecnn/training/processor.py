"""Process-wide settings that save a third of a training step on a CPU: threads and freed memory.

Imports torch only where it is needed.
"""

import os

# Iterations that an idle OpenMP thread spins before it sleeps, about 0.1 ms. A larger count is at
# best slightly faster on an idle machine, and slower on a busy one: see docs/performance.md. Beside
# two busy processes, a step of 64 digits took 429 ms with GNU's default, and 17 to 19 ms with this
# value; on an idle machine, 6.7 to 7.7 ms with either (2 cores, torch 2.15).
SPIN_COUNT = "30000"


def configure_threads() -> None:
    """Limit how long idle threads spin. Call before importing torch; keeps the user's settings."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
        os.environ.setdefault("KMP_BLOCKTIME", "1")  # ms; for Intel's OpenMP runtime


def keep_freed_memory() -> None:
    """Make glibc's allocator keep up to 62 MB of freed memory for the next step.

    By default it returns large blocks to the system and gets them back page by page in every step:
    9.3 to 9.6 ms instead of 6.7 to 8.7. Its threshold is the size of the largest block freed so
    far, up to 32 MiB.
    """
    import torch

    torch.empty(31 * 2**18)  # 31 MiB, freed at once

"""Restore what a Trainer changes in the process, after a trial of the arguments or a run."""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def restore_process_state() -> Iterator[None]:
    """On exit, restore the environment and torch's global settings, which a Trainer may change."""
    torch = importlib.import_module("torch")  # late: keys are validated without it
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

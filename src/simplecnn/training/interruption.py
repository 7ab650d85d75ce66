"""Clean exit of a run's processes: on signals, when the parent dies, and at interpreter exit."""

import atexit
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.multiprocessing import ProcessExitedException

from simplecnn.signals import Interrupted, SignalHandler


class Interruption(Callback):
    """Restore simplecnn's signal handlers after Lightning sets its own; exit if the parent dies.

    Lightning's SIGTERM handler lets the epoch finish, and waits for the run's other processes,
    which may no longer respond. A process launched by Lightning exits when its parent is killed
    (torch ends those it has spawned on Linux only); otherwise it would keep training beside the
    resumed run.
    """

    def __init__(self, signal_handler: SignalHandler) -> None:
        self.signal_handler = signal_handler

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        is_distributed = trainer.world_size > 1
        self._parent = os.getppid() if is_distributed and self.signal_handler.is_child else None
        if is_distributed:
            atexit.register(leave_process_group)

    def on_train_start(self, *_: Any) -> None:
        self.signal_handler.restore()

    on_sanity_check_start = on_test_start = on_train_start

    def on_validation_batch_start(self, *_: Any) -> None:
        self.signal_handler.raise_if_received()

    on_test_batch_start = on_validation_batch_start

    def on_train_batch_start(self, *_: Any) -> None:
        self.signal_handler.raise_if_received()
        if self._parent is not None and os.getppid() != self._parent:
            raise SystemExit("The parent process has ended.")


@contextmanager
def kill_processes_on_interrupt(trainer: Trainer, signal_handler: SignalHandler) -> Iterator[None]:
    """Kill the processes that the Trainer launched inside the context if a signal ends this one."""
    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        launcher: Any = trainer.strategy.launcher
        if launcher is not None:
            launcher.kill(9)
            # Lightning monitors them: seconds after one has died, it kills this process too.
            launcher.procs.clear()
        raise
    except ProcessExitedException:
        if signal_handler.received is not None:
            raise Interrupted(signal_handler.received) from None
        raise


def leave_process_group() -> None:
    """Destroy the process group, whose gloo threads Lightning leaves running at interpreter exit.

    A gloo thread that releases its last tensors during interpreter shutdown aborts the process
    (SIGABRT), and a finished distributed run would be reported as failed.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        gc.collect()  # DDP objects in reference cycles still hold the group

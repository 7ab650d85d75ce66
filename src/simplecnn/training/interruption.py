"""How the processes of a run end: by our signal handlers, with their parent, without a crash."""

import atexit
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.multiprocessing import ProcessExitedException

from simplecnn.signals import Interrupted, Stop


class Interruption(Callback):
    """Puts our signal handlers back in front of Lightning's, and watches the parent process.

    Lightning's handler of SIGTERM lets the epoch end, and talks to the other processes of the run,
    who may not listen. A process that Lightning started ends when its parent was killed: else it
    would train on beside the run that is resumed.
    """

    def __init__(self, stop: Stop) -> None:
        self.stop = stop

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        several = trainer.world_size > 1
        self._parent = os.getppid() if several and self.stop.is_child else None
        if several:
            atexit.register(leave_group)

    def on_train_start(self, *_: Any) -> None:
        self.stop.restore()

    on_sanity_check_start = on_test_start = on_train_start

    def on_train_batch_start(self, *_: Any) -> None:
        if self._parent is not None and os.getppid() != self._parent:
            raise SystemExit("The process that started this one has ended.")


@contextmanager
def processes_end_with_this_one(trainer: Trainer, stop: Stop) -> Iterator[None]:
    """End the processes that the Trainer started inside, where this one is ended by a signal."""
    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        launcher: Any = trainer.strategy.launcher
        if launcher is not None:
            launcher.kill(9)
            # Lightning watches them, and kills this process too, seconds after one has failed.
            launcher.procs.clear()
        raise
    except ProcessExitedException:
        if stop.received is not None:
            raise Interrupted(stop.received) from None
        raise


def leave_group() -> None:
    """End the threads of gloo, which Lightning leaves running to the end of the interpreter.

    One that still drops its last tensors while the interpreter ends takes the process with it
    (SIGABRT), and a run of several processes that was done would have failed.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        gc.collect()  # what is left of DDP has a share in the group

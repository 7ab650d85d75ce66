"""One turn of a row of the benchmark: some training steps, in a process that does nothing else.

In one process for all, each row would find the memory that the others have left: what the system
takes back and gives again in every step of a loop would not be seen.
"""

import contextlib
import copy
import io
import itertools
import logging
import multiprocessing
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from simplecnn.baselines import fit_template, fit_usual, torchvision_mnist, train_tutorial
from simplecnn.benchmark_report import (
    ALONE,
    BARE,
    CHANGED,
    FIT,
    NOTHING,
    TEMPLATE,
    TUTORIAL,
    USUAL,
    WHOLE,
    WITHOUT,
)
from simplecnn.classifier import STEPS_TOGETHER, keep_freed_memory
from simplecnn.run import build_trainer, watch
from simplecnn.signals import Stop
from simplecnn.targets import build

Config = Mapping[str, Any]
T = TypeVar("T")
WINDOW = STEPS_TOGETHER  # steps that are timed as one
NUM_WARM_UP = 3 * WINDOW  # steps at the start of each turn that are not counted
NUM_FED = 200  # batches of torchvision's DataLoader that stand for a whole pass


class Turn(NamedTuple):
    """What one process of a row took."""

    step: float  # seconds
    fit: float | None  # seconds of the whole fit, where it is ours
    memory: float  # MB, the largest resident size


def rows(config: Config, folder: Path) -> dict[str, Callable[[], Turn]]:
    """A turn of each row. `apart` can send them to another process."""
    whole = {**config, "model": {**config["model"], "split_batch": False}}
    changed = {**config, "data": {**config["data"], "augmentation": config["augmentation"]}}
    others = folder / "others"
    found: dict[str, Callable[[], Turn]] = {
        TUTORIAL: partial(tutorial_turn, config),
        USUAL: partial(other_turn, fit_usual, config, others),
        TEMPLATE: partial(other_turn, fit_template, config, others),
        WHOLE: partial(bare_turn, whole),
        BARE: partial(bare_turn, config),
        FIT: partial(fit_turn, config),
        ALONE: partial(fit_turn, config, together=1),
        CHANGED: partial(fit_turn, changed),
    }
    for name, off in WITHOUT.items():
        if config["quick"] and name != NOTHING:
            continue
        left = {
            group: {key: node for key, node in config[group].items() if key not in off}
            for group in ("callbacks", "logger")
        }
        found[name] = partial(fit_turn, {**config, **left})
    return found


def tutorial_turn(config: Config) -> Turn:
    keep_freed_memory()  # as its own test on a thousand digits at a time does, after an epoch
    timer = Steps(config["steps"])
    batch_size = config["data"]["batch_size"]
    train_tutorial(digits(config).splits["train"], batch_size=batch_size, step_done=timer.done)
    return timer.turn()


def other_turn(fit: Callable[..., None], config: Config, folder: Path) -> Turn:
    """One of the baselines that are fitted by Lightning."""
    timer = Steps(config["steps"])
    with seen_on_a_terminal():
        fit(
            digits(config).splits["train"],
            batch_size=config["data"]["batch_size"],
            num_steps=timer.num_ends,
            folder=str(folder),
            watch=_StepTimer(timer),
        )
    return timer.turn()


def bare_turn(config: Config) -> Turn:
    """A plain loop over the same batches, network, loss and optimizer."""
    keep_freed_memory()
    module = build(config["model"], _recursive_=False, _convert_="all")
    network = module.network
    optimizer = build(config["model"]["optimizer"], _partial_=True)(network.parameters())
    timer = Steps(config["steps"])
    datamodule = digits(config)
    cores = module.split_among_cores() if module.hparams["split_batch"] else None
    while True:
        for images, labels in datamodule.train_dataloader():
            if cores:
                loss, _ = cores(images, labels)
            else:
                loss = module.loss(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if timer.done():
                if cores:
                    cores.close()
                return timer.turn()


def fit_turn(config: Config, *, together: int | str = "auto") -> Turn:
    """Within `Trainer.fit`, on as many digits as it takes, with all that the configuration has."""
    module = build(config["model"], _recursive_=False, _convert_="all")
    timer = Steps(config["steps"])
    fewer = copy.copy(digits(config))
    images, labels = fewer.splits["train"]
    size = timer.num_ends * fewer.batch_size
    fewer.splits = {**fewer.splits, "train": (images[:size], labels[:size])}
    fewer.steps_together, fewer.steps_in_batch = together, 1
    with seen_on_a_terminal():  # so that the bar is drawn
        whole = {"max_epochs": 1, "limit_train_batches": 1.0}
        trainer = build_trainer({**config, "trainer": {**config["trainer"], **whole}})
        watch(trainer, Stop())
        trainer.callbacks.append(_StepTimer(timer))
        start = time.perf_counter()
        trainer.fit(module, datamodule=fewer)
    return timer.turn(fit=time.perf_counter() - start)


def digits(config: Config) -> Any:
    """The data module, with its digits in memory."""
    datamodule = build(config["data"])
    datamodule.prepare_data()
    datamodule.setup("fit")
    return datamodule


class Steps:
    """The time of a step, taken from windows of several in a row, after a warm-up."""

    def __init__(self, num_steps: int) -> None:
        self.num_ends = NUM_WARM_UP + num_steps
        self.ends: list[float] = []

    def done(self) -> bool:
        """Note the end of a step. True when there are enough."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())
        return len(self.ends) >= self.num_ends

    def median(self) -> float:
        ends = self.ends[NUM_WARM_UP - 1 :: WINDOW]
        return statistics.median(b - a for a, b in itertools.pairwise(ends)) / WINDOW

    def turn(self, fit: float | None = None) -> Turn:
        return Turn(self.median(), fit, peak_memory_mb(resource.RUSAGE_SELF))


class _StepTimer(pl.Callback):
    def __init__(self, timer: Steps) -> None:
        self.timer = timer

    def between_steps(self, *args: Any) -> None:
        self.timer.done()

    def on_train_batch_end(self, *args: Any) -> None:
        self.timer.done()


@contextlib.contextmanager
def seen_on_a_terminal() -> Iterator[None]:
    """Inside, a progress bar finds a terminal, and nobody sees it."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    with contextlib.redirect_stderr(Terminal()), contextlib.redirect_stdout(Terminal()):
        yield


def feeding(config: Config) -> dict[str, float]:
    """Seconds of a pass over 60,000 digits, without training."""
    keep_freed_memory()
    datamodule = digits(config)
    batch_size = config["data"]["batch_size"]
    return {
        "torchvision DataLoader": feed_torchvision(datamodule.splits["train"], batch_size),
        "ours": feed_ours(datamodule),
    }


def feed_torchvision(train: tuple[Tensor, Tensor], batch_size: int) -> float:
    """Seconds of torchvision's DataLoader for 60,000 digits, from its first batches."""
    loader = DataLoader(torchvision_mnist(*train), batch_size=batch_size, shuffle=True)
    num_images = 0
    start = time.perf_counter()
    for batch, (_, labels) in enumerate(loader, start=1):
        num_images += len(labels)
        if batch == NUM_FED:
            break
    return (time.perf_counter() - start) * 60_000 / num_images


def feed_ours(datamodule: Any) -> float:
    """Seconds of a whole pass of ours, for 60,000 digits."""
    start = time.perf_counter()
    num_images = sum(len(labels) for _, labels in datamodule.train_dataloader())
    return (time.perf_counter() - start) * 60_000 / num_images


def peak_memory_mb(who: int) -> float:
    """The largest resident size so far, of this process or of the largest one it waited for."""
    peak = resource.getrusage(who).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def apart(work: Callable[[], T]) -> T:
    """What `work` returns or raises, in a new process that has imported this module and no more."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(work, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        answer = ours.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"A process ended with exit code {process.exitcode}.") from None
    except BaseException:  # we are told to stop
        process.kill()
        raise
    process.join()
    if isinstance(answer, Exception):
        raise answer
    return answer


def _answer(work: Callable[[], Any], to: Connection) -> None:
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")  # what the others warn of is theirs
    try:
        to.send(work())
    except Exception as error:
        to.send(error)

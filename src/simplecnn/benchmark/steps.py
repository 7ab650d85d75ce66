"""The rows of the benchmark that train: each in a process of its own, a few steps in turn.

In one process for all, each row would find the memory that the others have left: what the system
takes back and gives again in every step of a loop would not be seen. And a machine that others use
too is slower now and faster then, by a tenth within seconds: turns of half a second meet the same.
"""

import contextlib
import gc
import io
import itertools
import logging
import multiprocessing
import resource
import signal
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from simplecnn.benchmark.baselines import fit_template, fit_usual, torchvision_mnist, train_tutorial
from simplecnn.benchmark.report import (
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
from simplecnn.config.build import build
from simplecnn.models.classifier import STEPS_TOGETHER, keep_freed_memory
from simplecnn.models.cuda_graph import GraphedStep
from simplecnn.training.run import build_trainer, watch
from simplecnn.training.signals import Stop

Config = Mapping[str, Any]
NUM_FIRST = 3  # windows before the first turn
NUM_WARM_UP = 1  # windows of each turn that are not timed
SECONDS_TO_END = 5
NUM_FED = 50  # batches of torchvision's DataLoader that stand for a whole pass


class Steps:
    """Times steps in turns: the processes of all rows train, but one at a time.

    `connection` says when it is this one's turn, and is told how long a step took: the median over
    windows of `window` steps, by their number. A GPU is waited for at the end of each window.
    """

    def __init__(
        self, connection: Connection, *, steps: int, rounds: int, window: int = STEPS_TOGETHER
    ) -> None:
        self.connection = connection
        self.window = window
        self.num_first = NUM_FIRST * window
        # Of a turn: whole windows, at least as many steps as asked for.
        self.num_steps = (NUM_WARM_UP - (-steps // window)) * window
        self.rounds = rounds
        self.num_ends = self.num_first + rounds * self.num_steps
        self.ends: list[float] = []  # of the steps of this turn
        self.num_turns = -1  # the first steps are none
        self.seconds_waited = 0.0

    def done(self) -> bool:
        """Note the end of a step; at that of a turn, wait for the next. True after the last."""
        if (len(self.ends) + 1) % self.window == 0 and torch.cuda.is_initialized():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())
        first = self.num_turns < 0
        if len(self.ends) < (self.num_first if first else self.num_steps):
            return False
        self.connection.send(None if first else self.median())
        self.num_turns += 1
        self.connection.recv()
        self.seconds_waited += time.perf_counter() - self.ends[-1]
        self.ends.clear()
        return self.num_turns == self.rounds

    def median(self) -> float:
        ends = self.ends[NUM_WARM_UP * self.window - 1 :: self.window]
        return statistics.median(b - a for a, b in itertools.pairwise(ends)) / self.window


class Whole(NamedTuple):
    """What is known at the end of a row."""

    fit: float | None  # seconds of the whole fit, where it is ours, without waiting
    memory: float  # MB, the largest resident size


class Row:
    """A row's process: it trains when it is asked to. `work` gets the Steps to count by.

    `options` are those of Steps.
    """

    def __init__(self, work: Callable[[Steps], float | None], **options: int) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_train, args=(work, other, options))
        self.process.start()
        other.close()
        self._answer()

    def turn(self) -> float:
        """Train some steps. Returns the seconds of one."""
        self.connection.send(None)
        return self._answer()

    def finish(self) -> Whole:
        """Train to the end."""
        self.connection.send(None)
        answer = self._answer()
        self.process.join()
        return answer

    def end(self) -> None:
        """End the process, which does so by itself when its connection is closed."""
        self.connection.close()
        self.process.join(SECONDS_TO_END)
        self.process.kill()

    def _answer(self) -> Any:
        try:
            answer = self.connection.recv()
        except EOFError:
            self.process.join()
            code = self.process.exitcode
            raise RuntimeError(f"A process of the benchmark ended with exit code {code}.") from None
        if isinstance(answer, Exception):
            raise answer
        return answer


def _train(
    work: Callable[[Steps], float | None], connection: Connection, options: dict[str, int]
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the benchmark answers it
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")  # what the others warn of is theirs
    try:
        fit = work(Steps(connection, **options))
        connection.send(Whole(fit, peak_memory_mb(resource.RUSAGE_SELF)))
    except (EOFError, BrokenPipeError):
        pass  # the benchmark is gone
    except Exception as error:
        connection.send(error)


def rows(config: Config, folder: Path) -> dict[str, Callable[[Steps], float | None]]:
    """What each row does."""
    changed = {**config, "data": {**config["data"], "augmentation": config["augmentation"]}}
    alone = {**config, "data": {**config["data"], "steps_together": 1}}
    # The bare loops: whatever batch they are given is a step.
    whole = {**alone, "model": {**config["model"], "split_batch": False}}
    others = folder / "others"
    found: dict[str, Callable[[Steps], float | None]] = {
        TUTORIAL: partial(train_as_tutorial, config),
        USUAL: partial(train_as_others, fit_usual, config, others),
        TEMPLATE: partial(train_as_others, fit_template, config, others),
        WHOLE: partial(train_bare, whole),
        BARE: partial(train_bare, alone),
        FIT: partial(fit, config),
        ALONE: partial(fit, alone),
        CHANGED: partial(fit, changed),
    }
    for name, off in WITHOUT.items():
        if config["quick"] and name != NOTHING:
            continue
        left = {
            group: {key: node for key, node in config[group].items() if key not in off}
            for group in ("callbacks", "logger")
        }
        found[name] = partial(fit, {**config, **left})
    return found


def train_as_tutorial(config: Config, steps: Steps) -> None:
    keep_freed_memory()  # as its own test on a thousand digits at a time does, after an epoch
    train = digits(config).splits["train"]
    train_tutorial(
        train,
        batch_size=config["data"]["batch_size"],
        device=device_of(config),
        step_done=steps.done,
    )


def train_as_others(
    others: Callable[..., None], config: Config, folder: Path, steps: Steps
) -> None:
    """One of the baselines that are fitted by Lightning."""
    batch_size = config["data"]["batch_size"]
    # Twice as many as it takes: the template sets some aside.
    train = enough(digits(config).splits["train"], 2 * batch_size * steps.num_ends)
    with seen_on_a_terminal():
        others(
            train,
            batch_size=batch_size,
            num_steps=steps.num_ends,
            device=device_of(config),
            folder=str(folder),
            watch=_Watch(steps),
        )


def train_bare(config: Config, steps: Steps) -> None:
    """A plain loop over the same batches, network, loss and optimizer, captured where ours is."""
    keep_freed_memory()
    device = device_of(config)
    module = build(config["model"], _recursive_=False, _convert_="all").to(device)
    network = module.network
    optimizer = build(config["model"]["optimizer"], _partial_=True)(network.parameters())
    datamodule = digits(config)
    train = datamodule.splits["train"]
    datamodule.splits["train"] = (train[0].to(device), train[1].to(device))
    captured = module.hparams["cuda_graph"] and device.type == "cuda"
    graph = GraphedStep(network, module.loss, optimizer) if captured else None
    network.blocked = module.hparams["blocked_layout"]
    cores = module.split_among_cores() if module.hparams["split_batch"] else None
    while True:
        for images, labels in datamodule.train_dataloader():
            if graph:
                graph(images, labels)
            elif cores:
                cores.backward(images, labels)
                optimizer.step()
            else:
                optimizer.zero_grad()
                module.loss(network(images), labels).backward()
                optimizer.step()
            if steps.done():
                if cores:
                    cores.close()
                return


def fit(config: Config, steps: Steps) -> float:
    """`Trainer.fit`, on as many digits as it takes, with all that the configuration has."""
    module = build(config["model"], _recursive_=False, _convert_="all")
    datamodule = digits(config)
    size = steps.num_ends * datamodule.batch_size
    train = enough(datamodule.splits["train"], size)
    datamodule.splits = {**datamodule.splits, "train": train}
    gc.freeze()  # as a command does after its imports
    with seen_on_a_terminal():  # so that the bar is drawn
        whole = {"max_epochs": 1, "limit_train_batches": 1.0}
        trainer = build_trainer({**config, "trainer": {**config["trainer"], **whole}})
        watch(trainer, Stop())
        trainer.callbacks.append(_Watch(steps))
        start = time.perf_counter()
        trainer.fit(module, datamodule=datamodule)
    return time.perf_counter() - start - steps.seconds_waited


def device_of(config: Config) -> torch.device:
    """Where the Trainer of a configuration trains."""
    return build_trainer({**config, "callbacks": {}, "logger": {}}).strategy.root_device


def enough(train: tuple[Tensor, Tensor], size: int) -> tuple[Tensor, Tensor]:
    """As many digits, over and over again where there are fewer."""
    images, labels = train
    places = torch.arange(size) % len(images)
    return images[places], labels[places]


def digits(config: Config) -> Any:
    """The data module, with its digits in memory."""
    datamodule = build(config["data"])
    datamodule.prepare_data()
    datamodule.setup("fit")
    return datamodule


class _Watch(pl.Callback):
    def __init__(self, steps: Steps) -> None:
        self.steps = steps

    def between_steps(self, *args: Any) -> None:
        self.steps.done()

    def on_train_batch_end(self, *args: Any) -> None:
        self.steps.done()


@contextlib.contextmanager
def seen_on_a_terminal() -> Iterator[None]:
    """Inside, a progress bar finds a terminal, and nobody sees it."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    with contextlib.redirect_stderr(Terminal()), contextlib.redirect_stdout(Terminal()):
        yield


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

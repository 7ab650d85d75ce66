"""How long a training step takes: in the tutorial's loop, in a bare loop, in our Trainer.

All in one process and in turn, round after round, so that a machine that slows down slows all. A
row's time is the median over the steps of a round, then over the rounds: what other programs
steal now and then does not count. Ratios are the result; milliseconds are context.
"""

import logging
import platform
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from simplecnn.agreement import time_windows
from simplecnn.network import SimpleCNN
from simplecnn.run import build_trainer
from simplecnn.run_folder import short, write_json
from simplecnn.screen import tame_lightning
from simplecnn.targets import build

log = logging.getLogger(__name__)
Config = Mapping[str, Any]
NUM_JOBS = 8  # of the sweep
NUM_WARM_UP = 20  # steps at the start of each turn that are not counted

TUTORIAL = "the tutorial's loop"
BARE = "bare loop of our step"
FIT = "Trainer.fit, defaults on"


def benchmark(config: Config, folder: Path) -> dict[str, Any]:
    """Time the rows in turn, print the table, write benchmark.json. Returns its content."""
    if config["sweep"]:
        return sweep_benchmark(folder, rounds=config["rounds"])
    tame_lightning()
    warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists and is not empty")
    logging.getLogger("simplecnn.callbacks").setLevel(logging.WARNING)
    datamodule = build(config["data"])
    datamodule.prepare_data()
    datamodule.setup("fit")
    images, labels = datamodule.splits["train"]
    steps, batch_size = config["steps"], config["data"]["batch_size"]
    rows: dict[str, Callable[[], float]] = {
        TUTORIAL: lambda: tutorial_step(images, labels, steps=steps, batch_size=batch_size),
        BARE: lambda: bare_step(config, datamodule, steps=steps),
        FIT: lambda: fit_step(config, datamodule, steps=steps),
    }
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for turn in range(config["rounds"]):
        for name, measure in rows.items():
            seconds[name].append(measure())
        done = ", ".join(f"{1000 * times[-1]:.1f}" for times in seconds.values())
        log.info("round %d of %d: %s ms", turn + 1, config["rounds"], done)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    convolution = time_windows()
    result = {
        "machine": machine(),
        "batch_size": batch_size,
        "steps": steps,
        "rounds": config["rounds"],
        "ms_per_step": {n: [round(1000 * t, 3) for t in times] for n, times in seconds.items()},
        "fit_against_bare": round(medians[FIT] / medians[BARE], 3),
        "tutorial_against_fit": round(medians[TUTORIAL] / medians[FIT], 3),
        "conv2d_windows_against_torch": round(convolution.ratio, 2),
        "peak_memory_mb": peak_memory_mb(),
    }
    write_json(folder / "benchmark.json", result)
    log.info("\n%s\n\nwritten to %s", table(result, medians), short(folder / "benchmark.json"))
    return result


def sweep_benchmark(folder: Path, *, rounds: int) -> dict[str, Any]:
    """Time a sweep of eight equal jobs by one process with one thread, and by two, in turn.

    Each job is the tutorial's network on the bundled digits for 8 epochs. Twice: the jobs, from
    the start of the first to the end of the last, and the whole command, with what is paid once
    (start, imports, report). Writes benchmark.json.
    """
    words = [
        *("-m", f"seed={','.join(map(str, range(1, NUM_JOBS + 1)))}", "data=mnist_5k"),
        *("trainer=cpu", "trainer.max_epochs=8", "callbacks=checkpoint", "logger=csv"),
        *("hydra/launcher=joblib", "hydra.launcher.num_threads=1"),
    ]
    code = "from simplecnn.commands import train; train()"
    seconds: dict[str, dict[int, list[float]]] = {
        name: {1: [], 2: []} for name in ("jobs", "command")
    }
    for turn in range(rounds):
        for num_workers in (1, 2):
            place = folder / f"{num_workers}_workers_{turn}"
            own = [f"hydra.launcher.n_jobs={num_workers}", f"hydra.sweep.dir='{place}'"]
            start = time.perf_counter()
            subprocess.run(
                [sys.executable, "-c", code, *words, *own], check=True, stdout=subprocess.DEVNULL
            )
            seconds["command"][num_workers].append(time.perf_counter() - start)
            begin = min(path.stat().st_mtime for path in place.glob("*/config.yaml"))
            end = max(path.stat().st_mtime for path in place.glob("*/run.json"))
            seconds["jobs"][num_workers].append(end - begin)
        log.info("round %d of %d done", turn + 1, rounds)
    rows = {name: [statistics.median(t) for t in by.values()] for name, by in seconds.items()}
    result = {
        "machine": machine(),
        "num_jobs": NUM_JOBS,
        "rounds": rounds,
        "seconds": {
            name: {f"{n} processes": [round(t, 2) for t in times] for n, times in by.items()}
            for name, by in seconds.items()
        },
        "speed_up": {name: round(one / two, 3) for name, (one, two) in rows.items()},
    }
    write_json(folder / "benchmark.json", result)
    lines = [f"{'':20}{'one process':>14}{'two':>10}"]
    for name, (one, two) in rows.items():
        title = {"jobs": f"{NUM_JOBS} equal jobs", "command": "whole command"}[name]
        lines.append(f"{title:20}{one:12.1f} s{two:8.1f} s   {one / two:.2f} times as fast")
    log.info(
        "\n%s\n\nmedians of %d rounds, one thread a process\n\nwritten to %s",
        *("\n".join(lines), rounds, short(folder / "benchmark.json")),
    )
    return result


def tutorial_step(images: Tensor, labels: Tensor, *, steps: int, batch_size: int) -> float:
    """Seconds a step of the tutorial's loop: torchvision, PIL, DataLoader, Adam, loss.item()."""
    # torchvision's own class and __getitem__, around digits that are in memory already.
    dataset = datasets.MNIST.__new__(datasets.MNIST)
    dataset.data, dataset.targets = images.cpu(), labels.cpu()
    dataset.transform, dataset.target_transform = transforms.ToTensor(), None
    network = SimpleCNN()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    loader = DataLoader(dataset, batch_size=batch_size, shuffle=True)
    timer = Steps(steps)
    total = 0.0
    while True:
        for x, y in loader:
            optimizer.zero_grad()
            loss = functional.cross_entropy(network(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item()
            if timer.done():
                return timer.median()


def bare_step(config: Config, datamodule: Any, *, steps: int) -> float:
    """Seconds a step of a plain loop over the same batches, network, loss and optimizer."""
    module = build(config["model"], _recursive_=False, _convert_="all")
    network = module.network
    optimizer = build(config["model"]["optimizer"], _partial_=True)(network.parameters())
    timer = Steps(steps)
    while True:
        for images, labels in datamodule.train_dataloader():
            optimizer.zero_grad()
            module.loss(network(images), labels).backward()
            optimizer.step()
            if timer.done():
                return timer.median()


def fit_step(config: Config, datamodule: Any, *, steps: int) -> float:
    """Seconds a step within `Trainer.fit`, with all callbacks and loggers of the configuration."""
    module = build(config["model"], _recursive_=False, _convert_="all")
    limits = {"max_epochs": 1, "limit_train_batches": NUM_WARM_UP + steps}
    trainer = build_trainer({**config, "trainer": {**config["trainer"], **limits}})
    timer = Steps(steps)
    trainer.callbacks.append(_StepTimer(timer))
    trainer.fit(module, datamodule=datamodule)
    return timer.median()


class Steps:
    """The time from the end of each step to the end of the next, after a warm-up."""

    def __init__(self, num_steps: int) -> None:
        self.num_ends = NUM_WARM_UP + num_steps
        self.ends: list[float] = []

    def done(self) -> bool:
        """Note the end of a step. True when there are enough."""
        self.ends.append(time.perf_counter())
        return len(self.ends) >= self.num_ends

    def median(self) -> float:
        ends = self.ends[min(NUM_WARM_UP, len(self.ends) - 2) :]
        return statistics.median(b - a for a, b in zip(ends, ends[1:], strict=False))


class _StepTimer(pl.Callback):
    def __init__(self, timer: Steps) -> None:
        self.timer = timer

    def on_train_batch_end(self, *args: Any) -> None:
        self.timer.done()


def machine() -> dict[str, Any]:
    return {
        "processor": platform.processor() or platform.machine(),
        "num_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": pl.__version__,
    }


def peak_memory_mb() -> float:
    """The largest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def table(result: Mapping[str, Any], medians: Mapping[str, float]) -> str:
    lines = [f"{'':28}{'ms a step':>10}{'against bare':>14}{'against tutorial':>18}"]
    for name, seconds in medians.items():
        lines.append(
            f"{name:28}{1000 * seconds:10.2f}{seconds / medians[BARE]:14.2f}"
            f"{medians[TUTORIAL] / seconds:13.2f} times as fast"
        )
    lines += [
        "",
        f"medians of {result['steps']} steps, then of {result['rounds']} rounds in turn, "
        f"batch {result['batch_size']}, {result['machine']['num_threads']} threads, "
        f"torch {result['machine']['torch']}",
        f"conv2d from scratch (windows), one thread: "
        f"{result['conv2d_windows_against_torch']:.1f} times torch's time",
        f"peak memory {result['peak_memory_mb']:.0f} MB",
    ]
    return "\n".join(lines)

"""How fast everything is, beside what people usually have, on this machine.

All rows of a table are measured in turn, round after round, so that a machine that slows down slows
all. A step's time is an eighth of that of eight steps in a row, as many as make a batch in ours; of
these the median of a turn, then that of the rounds: what other programs steal now and then does not
count. Ratios are the result, each the median of those within a round; times are context.
"""

import contextlib
import json
import logging
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from simplecnn.benchmark.baselines import TutorialCNN, train_tutorial
from simplecnn.benchmark.report import (
    BARE,
    CHANGED,
    FIT,
    START_UP,
    TARGET,
    TEMPLATE,
    TUTORIAL,
    USUAL,
    caption,
    panels,
    ratios,
    table,
)
from simplecnn.benchmark.steps import (
    Row,
    device_of,
    digits,
    feed_ours,
    feed_torchvision,
    peak_memory_mb,
    rows,
)
from simplecnn.config.build import build
from simplecnn.figures.benchmark import benchmark_figure
from simplecnn.figures.png import encode_png
from simplecnn.models.classifier import STEPS_TOGETHER, keep_freed_memory
from simplecnn.run_directory import short, write_json

log = logging.getLogger(__name__)
Config = Mapping[str, Any]
TRAIN = "from simplecnn.cli import train; train()"  # in a process of its own
NUM_JOBS = 8  # of the sweep
QUICK = {"rounds": 10, "steps": 16, "repeats": 1}
SEEDS = (1, 2, 3, 4, 5)
MOST_EPOCHS = 15  # of the tutorial's loop on its way to TARGET


def benchmark(config: Config, folder: Path) -> dict[str, Any]:
    """Measure, print the tables, write benchmark.json and benchmark.png. Returns the results."""
    if config["sweep"]:
        return sweep_benchmark(folder, rounds=config["repeats"])
    if config["quick"]:
        config = {**config, **QUICK}
    result: dict[str, Any] = {
        "machine": machine(),
        "batch_size": config["data"]["batch_size"],
        "steps": config["steps"],
        "rounds": config["rounds"],
        "repeats": config["repeats"],
        "quick": config["quick"],
    }
    parts: list[Callable[[Config, Path], dict[str, Any]]] = [steps, start_up]
    if not config["quick"] and "data_dir" in config["data"]:
        parts.append(time_to_accuracy)
    for part in parts:
        result |= part(config, folder)
        write_json(folder / "benchmark.json", result)
    png, *_ = encode_png(benchmark_figure(panels(result), title=caption(result)))
    (folder / "benchmark.png").write_bytes(png)
    where = short(folder)
    log.info("\n%s\n\nin %s: benchmark.json, benchmark.png", table(result), where)
    return result


def steps(config: Config, folder: Path) -> dict[str, Any]:
    """Rows of training steps, feeding alone, and what the machine can do, all in turn."""
    keep_freed_memory()
    datamodule = digits(config)
    train, batch_size = datamodule.splits["train"], config["data"]["batch_size"]
    together = config["data"]["steps_together"]
    window = STEPS_TOGETHER if together == "auto" else math.lcm(STEPS_TOGETHER, together)
    many = {"steps": config["steps"], "rounds": config["rounds"], "window": window}
    training: dict[str, Row] = {}
    seconds: dict[str, list[float]] = {}
    fed: dict[str, list[float]] = {"torchvision DataLoader": [], "ours": []}
    ceiling: list[float] = []
    try:
        for name, work in rows(config, folder).items():
            training[name], seconds[name] = Row(work, **many), []
        for i in range(config["rounds"]):
            ceiling.append(sgemm())
            for name, row in training.items():
                seconds[name].append(row.turn())
            fed["torchvision DataLoader"].append(feed_torchvision(train, batch_size))
            fed["ours"].append(feed_ours(datamodule))
            if (i + 1) % 5 == 0:
                done = "  ".join(f"{1000 * statistics.median(t):.1f}" for t in seconds.values())
                log.info("round %d of %d: %s ms a step", i + 1, config["rounds"], done)
        ends = {name: row.finish() for name, row in training.items()}
    finally:
        for row in training.values():
            row.connection.close()
        for row in training.values():
            row.end()

    def against(row: str, other: str) -> float:
        return round(statistics.median(ratios(seconds[row], seconds[other])), 3)

    step = statistics.median(seconds[FIT])
    feed = {name: statistics.median(times) for name, times in fed.items()}
    flop = flop_of_step(batch_size)
    gpu = gpu_ceiling() if device_of(config).type == "cuda" else None
    peak = gpu["sgemm_gflops"] if gpu else statistics.median(ceiling)
    return {
        "ms_per_step": {n: [round(1000 * t, 3) for t in times] for n, times in seconds.items()},
        "seconds_of_a_fit": {n: round(end.fit, 2) for n, end in ends.items() if end.fit},
        "memory_mb": {name: end.memory for name, end in ends.items()},
        "seconds_of_feeding_60000": {n: [round(t, 4) for t in v] for n, v in fed.items()},
        "sgemm_gflops": [round(value, 1) for value in ceiling],
        "gpu": gpu,
        "peak_gflops": peak,  # of the device that trained
        "gflop_per_step": round(flop / 1e9, 4),
        "fit_against_bare": against(FIT, BARE),
        "tutorial_against_fit": against(TUTORIAL, FIT),
        "usual_against_fit": against(USUAL, FIT),
        "template_against_fit": against(TEMPLATE, FIT),
        "augmented_against_fit": against(CHANGED, FIT),
        "share_of_sgemm": round(flop / step / 1e9 / peak, 3),
        "feeding": round(feed["torchvision DataLoader"] / feed["ours"], 1),
    }


def start_up(config: Config, folder: Path) -> dict[str, Any]:
    """New processes in turn: Lightning's import, our first step, help, and a mistake.

    Lightning's import is `python -c "import pytorch_lightning"`. The memory is the peak of such
    a process of ours, which trains 20 steps, validates and tests.
    """
    rounds = config["repeats"]
    environment = {**os.environ, "SIMPLECNN_TARGETS": FIRST_STEP}
    seconds: dict[str, list[float]] = {name: [] for name in START_UP}
    inside: list[dict[str, float]] = []
    for turn in range(rounds):
        place, stamp = folder / f"start_{turn}", folder / f"first_step_{turn}"
        words = [
            *(f"hydra.run.dir='{place}'", f"+callbacks.first_step._target_={FIRST_STEP}"),
            *(f"+callbacks.first_step.path='{stamp}'", "+trainer.limit_train_batches=20"),
            *("trainer.max_epochs=1", f"data={_choice(config)}", _trainer(config)),
        ]
        if "data_dir" in config["data"]:
            words.append(f"paths.data_dir='{config['data']['data_dir']}'")
        commands = {
            "import pytorch_lightning": ["import pytorch_lightning"],
            "first step": [TRAIN, *words],
            "--help": [TRAIN, "--help"],
            "--cfg job": [TRAIN, "--cfg", "job"],
            "a mistake": [TRAIN, "trainer=gpuu"],
        }
        for name, command in commands.items():
            start = time.time()
            code = subprocess.run(
                [sys.executable, "-c", *command],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
            ).returncode
            if code != (2 if name == "a mistake" else 0):
                raise RuntimeError(f"{name} ended with exit code {code}.")
            end = float(stamp.read_text()) if name == "first step" else time.time()
            seconds[name].append(end - start)
        record = json.loads((place / "run.json").read_text())
        parts = {f"fit: {name}": value for name, value in record["seconds_of_fit"].items()}
        inside.append(record["seconds"] | parts)
        log.info("start-up, round %d of %d done", turn + 1, rounds)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "seconds_of_start": {n: [round(t, 3) for t in times] for n, times in seconds.items()},
        "seconds_by_phase": {k: statistics.median(s[k] for s in inside) for k in inside[0]},
        "first_step_against_import": round(median["first step"] / median[START_UP[0]], 3),
        "peak_memory_mb": peak_memory_mb(resource.RUSAGE_CHILDREN),
    }


FIRST_STEP = "simplecnn.callbacks.first_step.FirstStep"


def time_to_accuracy(config: Config, folder: Path) -> dict[str, Any]:
    """Seconds to 99.0 % of the official test digits: `experiment=fast`, and the tutorial's loop.

    Ours are whole runs, each a process: files, set-up, training with all callbacks and pictures,
    and the one test at the end, without the imports. The tutorial's loop runs here; it tests after
    each epoch, and stops at the first that reaches the mark.
    """
    ours: dict[int, tuple[float, float]] = {}
    data_dir = config["data"]["data_dir"]
    for seed in SEEDS:
        place = folder / f"fast_{seed}"
        words = ["experiment=fast", f"seed={seed}", f"hydra.run.dir='{place}'"]
        words += [f"paths.data_dir='{data_dir}'", _trainer(config)]
        subprocess.run([sys.executable, "-c", TRAIN, *words], check=True, stdout=subprocess.DEVNULL)
        record = json.loads((place / "run.json").read_text())
        seconds_of_run = record["seconds"]["fit"] + record["seconds"]["test"]
        ours[seed] = (seconds_of_run, record["metrics"]["test/acc"])
        done = f"{100 * ours[seed][1]:.2f} % in {seconds_of_run:.1f} s"
        log.info("experiment=fast, seed %d: %s", seed, done)
    datamodule = build({**config["data"], "val_size": 0})
    datamodule.setup()
    torch.manual_seed(SEEDS[0])
    curve: list[float] = []

    def epoch_done(accuracy: float) -> bool:
        curve.append(accuracy)
        return accuracy >= TARGET or len(curve) == MOST_EPOCHS

    start = time.perf_counter()
    train_tutorial(
        datamodule.splits["train"],
        test=datamodule.splits["test"],
        batch_size=config["data"]["batch_size"],
        device=device_of(config),
        epoch_done=epoch_done,
    )
    tutorial = time.perf_counter() - start
    seconds = [pair[0] for pair in ours.values()]
    accuracies = [pair[1] for pair in ours.values()]
    return {
        "fast": {
            "seconds": [round(value, 2) for value in seconds],
            "test_accuracy": accuracies,
            "mean_accuracy": round(statistics.mean(accuracies), 5),
            "deviation": round(statistics.stdev(accuracies), 5),
        },
        "tutorial": {
            "seconds": round(tutorial, 2),
            "test_accuracy": curve,
            "reached": curve[-1] >= TARGET,
        },
        "tutorial_against_fast": round(tutorial / statistics.mean(seconds), 2),
    }


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
    seconds: dict[str, dict[int, list[float]]] = {
        name: {1: [], 2: []} for name in ("jobs", "command")
    }
    for turn in range(rounds):
        for num_workers in (1, 2):
            place = folder / f"{num_workers}_workers_{turn}"
            own = [f"hydra.launcher.n_jobs={num_workers}", f"hydra.sweep.dir='{place}'"]
            start = time.perf_counter()
            subprocess.run(
                [sys.executable, "-c", TRAIN, *words, *own], check=True, stdout=subprocess.DEVNULL
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


def sgemm(size: int = 2048) -> float:
    """The best of five products of two matrices, in GFLOP/s: what this machine can do."""
    a, b = torch.rand(size, size), torch.rand(size, size)
    times = []
    for _ in range(6):
        start = time.perf_counter()
        torch.mm(a, b)
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times) / 1e9


def gpu_ceiling() -> dict[str, Any]:
    """Of the CUDA device: its name, sgemm, the bandwidth of a copy, the launch of a kernel."""

    def seconds(work: Callable[[], Any], num: int) -> float:
        work()
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(num):
            work()
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / num

    a = torch.rand(8192, 8192, device="cuda")
    one, copy = torch.zeros(1, device="cuda"), torch.empty_like(a)
    return {
        "name": torch.cuda.get_device_name(),
        "sgemm_gflops": round(2 * 8192**3 / seconds(lambda: a @ a, 10) / 1e9),
        "copy_gb_per_s": round(2 * a.nbytes / seconds(lambda: copy.copy_(a), 50) / 1e9),
        "launch_us": round(1e6 * seconds(lambda: one.add_(1), 2000), 2),
    }


def flop_of_step(batch_size: int) -> int:
    """Floating-point operations of the forward and backward pass of a batch, without the rest."""
    network = TutorialCNN()
    with FlopCounterMode(display=False) as counter:
        logits = network(torch.zeros(batch_size, 1, 28, 28))
        functional.cross_entropy(logits, torch.zeros(batch_size, dtype=torch.long)).backward()
    return counter.get_total_flops()


def machine() -> dict[str, Any]:
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
    return {
        "processor": name,
        "num_cores": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": pl.__version__,
    }


def _trainer(config: Config) -> str:
    """What to type for the accelerator of a configuration."""
    return f"trainer.accelerator={config['trainer']['accelerator']}"


def _choice(config: Config) -> str:
    """The option of the group `data` that a configuration was composed from."""
    target = config["data"]["_target_"]
    return "mnist_5k" if target.endswith("MNIST5kDataModule") else "mnist"

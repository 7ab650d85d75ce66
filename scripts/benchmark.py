"""Benchmark a training step against common alternatives.

uv run scripts/benchmark.py                           # all parts, 15 minutes on two cores
uv run scripts/benchmark.py --parts steps --rounds 5  # a quick look at the steps alone

Each row trains in its own process. The rows take turns of `--steps` steps, so that other load
slows all rows equally. Times are medians of `--rounds` turns, ratios those within a round.
"""

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from itertools import chain, repeat
from pathlib import Path
from timeit import timeit
from typing import Any

ROWS = {
    "tutorial": "the tutorial's own loop",
    "usual": "Lightning as usually written",
    "template": "lightning-hydra-template's step",
    "bare": "bare loop of our step",
    "ours": "Trainer.fit, all defaults",
    "plain": "Trainer.fit, no pictures",
}
FLOP_PER_IMAGE = 11.74e6  # of a step of SimpleCNN: three passes, without the image's gradient
BATCH = 64
TUTORIAL_SEEDS = (1, 2, 3)
# The smallest sufficient part of an epoch: with half of it, the mean is 98.99 %.
TO_99 = ["experiment=fast", "data.normalize=true", "+trainer.limit_train_batches=0.55"]
# The directory of MNIST, absolute for runs in temporary directories; without it, 5,000 digits.
DATA = os.environ.get("SIMPLECNN_DATA", "")
if DATA:
    DATA = os.environ["SIMPLECNN_DATA"] = os.path.abspath(DATA)


def usual_loader() -> Any:
    """The usual torchvision DataLoader: each PIL image is converted to a tensor and normalized."""
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    from simplecnn.data import files

    images, labels = files.read(DATA, part="train") if DATA else files.read_bundled()
    normalize = transforms.Normalize((0.1307,), (0.3081,))
    to_tensor = transforms.Compose([transforms.ToTensor(), normalize])

    class Digits(Dataset):
        def __len__(self) -> int:
            return len(labels)

        def __getitem__(self, i: int) -> tuple[Any, int]:
            return to_tensor(Image.fromarray(images[i])), int(labels[i])

    return DataLoader(Digits(), batch_size=BATCH, shuffle=True)


def tutorial_network() -> Any:
    from torch import nn

    blocks = [
        layer
        for width, out in ((1, 16), (16, 32), (32, 64))
        for layer in (nn.Conv2d(width, out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    ]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(576, 128), nn.ReLU(), nn.Linear(128, 10))


def loop(network: Any, batches: Iterable[Any], optimizer: Any) -> Iterator[None]:
    """The usual training loop; yields after each step."""
    import torch

    loss_of = torch.nn.CrossEntropyLoss()
    for images, labels in batches:
        optimizer.zero_grad()
        loss_of(network(images), labels).backward()
        optimizer.step()
        yield


def tutorial(loader: Any) -> tuple[Any, Iterator[None]]:
    """The tutorial's network, and an iterator that trains it one step at a time."""
    import torch

    network = tutorial_network()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    return network, loop(network, chain.from_iterable(repeat(loader)), optimizer)


def bare() -> Iterator[None]:
    """simplecnn's training step without Lightning: same network, layout, optimizer and batches."""
    import torch

    from simplecnn import MNISTDataModule, SimpleCNN

    data, network = MNISTDataModule(dataset="MNIST5k"), SimpleCNN()
    data.setup("fit")
    batches = (
        (images.clone(memory_format=torch.channels_last), labels)
        for images, labels in chain.from_iterable(repeat(data.train_dataloader()))
    )
    return loop(network, batches, torch.optim.Adam(network.parameters(), 1e-3, fused=True))


class Turns:
    """Time training steps; after every `steps` of them, print their mean and wait for a line.

    `begin` and `done` also serve as hooks of a Lightning callback.
    """

    def __init__(self, steps: int) -> None:
        self.steps, self.num_done, self.seconds = steps, 0, 0.0
        self.begin()

    def begin(self, *_: Any) -> None:
        """Start timing a step, which excludes work between epochs."""
        self.start = time.perf_counter()

    def done(self, *_: Any) -> None:
        self.seconds += time.perf_counter() - self.start
        self.num_done += 1
        if self.num_done == self.steps:
            print(f"turn {self.seconds / self.steps}", flush=True)
            if not sys.stdin.readline():
                os._exit(0)
            self.num_done, self.seconds = 0, 0.0
        self.begin()


def fit_by_lightning(callback: Any, template: bool) -> None:
    """Fit a typical LightningModule, which calls self.log; the template's uses torchmetrics."""
    import pytorch_lightning as pl
    import torch
    from torchmetrics import MeanMetric
    from torchmetrics.classification import MulticlassAccuracy

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.loss_of = tutorial_network(), torch.nn.CrossEntropyLoss()
            self.mean_loss, self.accuracy = MeanMetric(), MulticlassAccuracy(10)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            images, labels = batch
            logits = self.network(images)
            loss = self.loss_of(logits, labels)
            if template:
                self.mean_loss(loss)
                self.accuracy(logits.argmax(1), labels)
                options = {"on_step": False, "on_epoch": True, "prog_bar": True}
                self.log("train/loss", self.mean_loss, **options)
                self.log("train/acc", self.accuracy, **options)
            else:
                self.log("train/loss", loss, prog_bar=True)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=1e-3)

    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="cpu", default_root_dir=folder, max_epochs=-1, callbacks=[callback],
            enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(Module(), usual_loader())


def fit_ours(callback: Any, *overrides: str) -> None:
    """Call Trainer.fit as `scripts/train.py` does, with further overrides."""
    from simplecnn.config.build import build
    from simplecnn.config.composition import compose_config
    from simplecnn.signals import SignalHandler
    from simplecnn.training.build import build_module, build_trainer

    with tempfile.TemporaryDirectory() as folder:
        common = ["data=mnist_5k", "trainer=cpu", "trainer.max_epochs=1000"]
        config = compose_config("train", [*common, f"hydra.run.dir={folder}/run", *overrides])
        data = build(config["data"])
        module, trainer = build_module(config, data), build_trainer(config, SignalHandler())
        trainer.callbacks.append(callback)
        trainer.fit(module, datamodule=data)


def train_in_turns(row: str, steps: int) -> None:
    """Train one row's configuration, one turn per line on stdin."""
    if row in ("bare", "ours", "plain"):
        from simplecnn.training.processor import configure_threads, keep_freed_memory

        configure_threads()
        keep_freed_memory()
    turns = Turns(steps)
    if row in ("tutorial", "bare"):
        for _ in bare() if row == "bare" else tutorial(usual_loader())[1]:
            turns.done()
    from pytorch_lightning.callbacks import LambdaCallback

    logging.disable(logging.INFO)
    callback = LambdaCallback(on_train_epoch_start=turns.begin, on_train_batch_end=turns.done)
    if row in ("usual", "template"):
        fit_by_lightning(callback, template=row == "template")
    else:
        overrides = ["callbacks=[checkpoint,lr_monitor,progress]"] if row == "plain" else []
        fit_ours(callback, *overrides)


def measure_steps(rows: Iterable[str], args: argparse.Namespace) -> dict[str, list[float]]:
    """Milliseconds per step, one value per row and round. The first turn is a warm-up."""
    processes = {
        row: subprocess.Popen(
            [sys.executable, __file__, "--row", row, "--steps", str(args.steps)], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )
        for row in rows
    }  # fmt: skip

    def turn(process: Any) -> float:
        seconds = (line.split()[1] for line in process.stdout if line.startswith("turn "))
        return 1000 * float(next(seconds))

    for process in processes.values():
        turn(process)
    ms: dict[str, list[float]] = {row: [] for row in rows}
    for _ in range(args.rounds):
        for row, process in processes.items():
            print("go", file=process.stdin, flush=True)
            ms[row].append(turn(process))
    for process in processes.values():
        process.kill()
        process.communicate()
    return ms


def ratio(values: list[float], base: list[float]) -> float:
    """Median ratio of two rows, computed within each round."""
    return statistics.median(a / b for a, b in zip(values, base, strict=True))


def step_table(ms: dict[str, list[float]], where: str = "") -> str:
    from simplecnn.table import table

    rows = [[f"a step of {BATCH} digits{where}", "ms", "÷ bare loop", "÷ ours"]]
    for row, values in ms.items():
        ratios = [f"{ratio(values, ms[base]):.2f}" for base in ("bare", "ours")]
        rows.append([ROWS[row], f"{statistics.median(values):.1f}", *ratios])
    return table(rows)


def steps(args: argparse.Namespace) -> str:
    """The table of all rows, and the FLOP/s reached, relative to a product of large matrices."""
    ms = measure_steps(ROWS, args)
    import torch

    a = torch.rand(2048, 2048)
    peak = 2 * 2048**3 / statistics.median(timeit(lambda: a @ a, number=1) for _ in range(13)) / 1e9
    reached = BATCH * FLOP_PER_IMAGE / statistics.median(ms["ours"]) / 1e6
    return (
        f"{step_table(ms)}\n{reached:.0f} GFLOP/s: {reached / peak:.0%} of a matrix product's "
        f"{peak:.0f} ({torch.backends.cpu.get_cpu_capability()})"
    )


def busy(args: argparse.Namespace) -> str:
    """Step times while two other processes keep both cores busy."""
    spinners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        return step_table(measure_steps(["bare", "ours"], args), " beside two busy processes")
    finally:
        for spinner in spinners:
            spinner.kill()


def train(folder: str, *overrides: str, check: bool = True) -> None:
    """Run scripts/train.py in a folder."""
    script = [sys.executable, str(Path(__file__).with_name("train.py").resolve()), *overrides]
    subprocess.run(script, cwd=folder, check=check, capture_output=True)


FIRST_STEP = """
import os, time
from pytorch_lightning import Callback
class First(Callback):
    def on_train_batch_end(self, *args):
        open("first_step", "w").write(str(time.time()))
        os._exit(0)
"""


def start_up(args: argparse.Namespace) -> str:
    """Time from process start to the first training step, compared with importing Lightning."""
    ours, lightning = [], []
    importing = [sys.executable, "-c", "import pytorch_lightning"]
    for _ in range(args.repeats):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "first_step.py").write_text(FIRST_STEP)
            start = time.time()
            train(folder, "data=mnist_5k", "+callbacks.x._target_=first_step.First", check=False)
            ours.append(float(Path(folder, "first_step").read_text()) - start)
        lightning.append(timeit(lambda: subprocess.run(importing), number=1))
    return (
        f"first step after {statistics.median(ours):.1f} s, {ratio(ours, lightning):.2f} times as "
        f"long as importing Lightning (n = {len(ours)})"
    )


def to_99(args: argparse.Namespace) -> str:
    """Training time to a mean test accuracy of 99 %, of simplecnn and of the tutorial's loop."""
    seeds = ",".join(str(seed) for seed in range(1, args.repeats + 1))
    with tempfile.TemporaryDirectory() as folder:
        train(folder, "-m", *TO_99, f"seed={seeds}", "hydra.sweep.dir=sweep")
        records = [json.loads(p.read_text()) for p in Path(folder, "sweep").glob("*/run.json")]
    fast = statistics.mean(record["seconds_of_fit"]["steps"] for record in records)
    fast_acc = statistics.mean(record["metrics"]["test/acc"] for record in records)
    seconds, accuracy = tutorial_to_99()
    return (
        f"{' '.join(TO_99)}: {fast_acc:.2%} after {fast:.1f} s (n = {len(records)})\n"
        f"the tutorial's loop: {accuracy:.2%} after {seconds:.1f} s, {seconds / fast:.1f} times as "
        f"long (n = {len(TUTORIAL_SEEDS)})"
    )


def tutorial_to_99() -> list[float]:
    """Train the tutorial's network until its mean test accuracy over seeds, measured after each
    epoch, reaches 99 %. Returns the training time in seconds and the accuracy."""
    import torch

    from simplecnn.data import files

    images, labels = files.read(DATA, part="test")
    pixels = (torch.tensor(images).unsqueeze(1) / 255 - 0.1307) / 0.3081
    loader, runs = usual_loader(), []
    for seed in TUTORIAL_SEEDS:
        torch.manual_seed(seed)
        runs.append(tutorial(loader))
    seconds = accuracy = 0.0
    while accuracy < 0.99:
        num_correct = 0
        for network, training in runs:
            start = time.perf_counter()
            for _ in range(len(loader)):
                next(training)
            seconds += (time.perf_counter() - start) / len(runs)
            with torch.no_grad():
                num_correct += int((network(pixels).argmax(1) == torch.tensor(labels)).sum())
        accuracy = num_correct / len(labels) / len(runs)
    return [seconds, accuracy]


def feeding(args: argparse.Namespace) -> str:
    """Data loading alone, in microseconds per image, over one epoch."""
    from simplecnn import MNISTDataModule

    name = "MNIST" if DATA else "MNIST5k"
    data = MNISTDataModule(dataset=name, data_dir=DATA or None, val_size=0)
    data.setup("fit")

    def microseconds(loader: Any) -> float:
        start = time.perf_counter()
        num_images = sum(len(labels) for _, labels in loader)
        return 1e6 * (time.perf_counter() - start) / num_images

    ours = statistics.median(microseconds(data.train_dataloader()) for _ in range(5))
    usual = microseconds(usual_loader())
    return (
        f"feeding: {ours:.2f} us per image; torchvision's DataLoader {usual:.0f} us, "
        f"{usual / ours:.0f} times as long"
    )


PARTS = {"steps": steps, "busy": busy, "start-up": start_up, "to 99 %": to_99, "feeding": feeding}


def main() -> None:
    form = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=32, help="steps per turn")
    parser.add_argument("--repeats", type=int, default=5, help="of parts that start processes")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.row:
        return train_in_turns(args.row, args.steps)
    if "to 99 %" in args.parts and not DATA:
        parser.error("part 'to 99 %' needs MNIST: set SIMPLECNN_DATA to its directory.")
    print(f"{os.cpu_count()} cores, torch {version('torch')}")
    for part in args.parts:
        print(f"\n{PARTS[part](args)}", flush=True)


if __name__ == "__main__":
    main()

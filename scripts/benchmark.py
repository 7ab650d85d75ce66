"""How long a training step takes, beside what people usually have.

uv run scripts/benchmark.py                     # all parts, 15 minutes on two cores
uv run scripts/benchmark.py --quick             # a first look at the steps alone
uv run scripts/benchmark.py --parts steps busy  # some parts

Each row trains in a process of its own, `--steps` steps at a time, one row after the other: what
slows the machine down slows all rows down. Shown are medians over `--rounds` turns, and ratios of
the turns of one round.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("steps", "busy", "fit", "start-up", "to 99 %", "feeding")
ROWS = {
    "tutorial": "the tutorial's own loop",
    "usual": "Lightning as usually written",
    "template": "lightning-hydra-template's step",
    "bare": "bare loop of our step",
    "ours": "Trainer.fit, all defaults",
    "plain": "Trainer.fit, no pictures",
    "resnet": "bare loop of a small ResNet",
}
FLOP_PER_IMAGE = 11.74e6  # of a training step of SimpleCNN: three passes, less conv1's input
BATCH = 64
TUTORIAL_SEEDS = (1, 2, 3)


# ------------------------------------------------------------------- rows, each in its own process


def images_and_labels() -> tuple[Any, Any]:
    """uint8 images (N, 28, 28) and labels: MNIST where SIMPLECNN_DATA has it, else 5,000 digits."""
    from simplecnn.data import files

    folder = os.environ.get("SIMPLECNN_DATA")
    return files.read(folder, part="train") if folder else files.read_bundled()


def usual_loader() -> Any:
    """torchvision's way to a batch: one PIL image at a time, to a tensor, normalized."""
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    images, labels = images_and_labels()
    to_tensor = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
    )

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


def loop(network: Any, loader: Any, optimizer: Any) -> Iterator[None]:
    """The training loop of every tutorial; yields after each step, without an end."""
    import torch

    loss_of = torch.nn.CrossEntropyLoss()
    network.train()
    while True:
        for images, labels in loader:
            optimizer.zero_grad()
            loss_of(network(images), labels).backward()
            optimizer.step()
            yield


def tutorial() -> Iterator[None]:
    import torch

    network = tutorial_network()
    return loop(network, usual_loader(), torch.optim.Adam(network.parameters(), lr=1e-3))


def bare(resnet: bool = False) -> Iterator[None]:
    """Our step without Lightning: same network, layout, order, optimizer and batches."""
    import torch
    from torch import nn

    from simplecnn import MNISTDataModule, SimpleCNN
    from simplecnn.training.processor import keep_freed_memory

    keep_freed_memory()
    data = MNISTDataModule(dataset="MNIST5k")
    data.setup("fit")
    network: nn.Module = SimpleCNN()
    if resnet:
        import torchvision

        network = torchvision.models.resnet18(num_classes=10)
        network.conv1 = nn.Conv2d(1, 64, 3, 2, 1)
    last = torch.channels_last
    batches = data.train_dataloader()

    class Loader:
        def __iter__(self) -> Iterator[Any]:
            return ((images.clone(memory_format=last), labels) for images, labels in batches)

    return loop(network, Loader(), torch.optim.Adam(network.parameters(), 1e-3, fused=True))


class Turns:
    """Runs `steps` steps whenever a line comes in, and answers with their seconds a step."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.wait()

    def wait(self) -> None:
        if not sys.stdin.readline():
            os._exit(0)
        self.num_done, self.seconds = 0, 0.0
        self.begin()

    def begin(self) -> None:
        """The next step begins now: what an epoch ends and begins with is not part of it."""
        self.start = time.perf_counter()

    def done(self) -> None:
        self.num_done += 1
        self.seconds += time.perf_counter() - self.start
        self.begin()
        if self.num_done >= self.steps:
            print(f"turn {self.seconds / self.num_done}", flush=True)
            self.wait()


def fit_by_lightning(template: bool, turns: Turns) -> None:
    """A LightningModule as one finds it: self.log in each step; as the template: torchmetrics."""
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
        logger = pl.loggers.TensorBoardLogger(folder) if template else True
        trainer = pl.Trainer(
            accelerator="cpu", default_root_dir=folder, max_epochs=-1, logger=logger,
            callbacks=[turns_callback(turns)], enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(Module(), usual_loader())


def turns_callback(turns: Turns) -> Any:
    """A callback that takes turns."""
    import pytorch_lightning as pl

    class TakesTurns(pl.Callback):
        def on_train_epoch_start(self, *args: Any) -> None:
            turns.begin()

        def on_train_batch_end(self, *args: Any) -> None:
            turns.done()

    return TakesTurns()


def fit_ours(words: list[str], turns: Turns) -> None:
    """Trainer.fit as `scripts/train.py` calls it, with what else the words say."""
    from simplecnn.config.composition import compose_config
    from simplecnn.signals import Stop
    from simplecnn.training.build import build_datamodule, build_module, build_trainer
    from simplecnn.training.processor import keep_freed_memory

    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        config = compose_config("train", [*common_words(folder), *words])
        data = build_datamodule(config)
        module, trainer = build_module(config, data), build_trainer(config, Stop())
        trainer.callbacks.append(turns_callback(turns))
        trainer.fit(module, datamodule=data)


def common_words(folder: str) -> list[str]:
    return ["data=mnist_5k", "trainer=cpu", "trainer.max_epochs=1000", f"hydra.run.dir={folder}/r"]


def work(row: str, steps: int) -> None:
    """A row's process: it trains a turn whenever a line comes in."""
    import logging

    if row in ("bare", "ours", "plain", "resnet"):
        from simplecnn.training.processor import configure_threads

        configure_threads()
    logging.disable(logging.INFO)
    pictureless = ["callbacks=[checkpoint,lr_monitor,progress]"]
    turns = Turns(steps)
    fits: dict[str, Callable[[], None]] = {
        "usual": lambda: fit_by_lightning(False, turns),
        "template": lambda: fit_by_lightning(True, turns),
        "ours": lambda: fit_ours([], turns),
        "plain": lambda: fit_ours(pictureless, turns),
    }
    if row in fits:
        fits[row]()
    loops = {"tutorial": tutorial, "bare": bare, "resnet": lambda: bare(resnet=True)}
    for _ in loops[row]():
        turns.done()


# ------------------------------------------------------------------------------- the parts


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "src")}


def measure_steps(rows: list[str], args: argparse.Namespace) -> dict[str, list[float]]:
    """Milliseconds a step of each row, a number a round; the first round is dropped."""
    processes = {}
    for row in rows:
        command = [sys.executable, __file__, "--work", row, "--steps", str(args.steps)]
        processes[row] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, env=environment(),
        )  # fmt: skip
    found: dict[str, list[float]] = {row: [] for row in rows}
    for _ in range(args.rounds + 1):
        for row, process in processes.items():
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            answers = (line.split()[1] for line in process.stdout if line.startswith("turn "))
            found[row].append(1000 * float(next(answers)))
    for process in processes.values():
        process.kill()
        process.communicate()
    return {row: values[1:] for row, values in found.items()}


def steps(args: argparse.Namespace) -> dict[str, Any]:
    rows = [row for row in ROWS if row != "resnet"]
    return {"ms": measure_steps(rows, args), "sgemm_gflops": sgemm()}


def busy(args: argparse.Namespace) -> dict[str, Any]:
    """The same beside two processes that keep both cores busy."""
    spinners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        return {"ms": measure_steps(["bare", "ours", "resnet"], args)}
    finally:
        for spinner in spinners:
            spinner.kill()


def sgemm() -> float:
    """What the machine can do at best: GFLOP/s of a product of 2048 x 2048 matrices."""
    code = (
        "import time, torch; a = torch.rand(2048, 2048); times = []\n"
        "for _ in range(13):\n"
        "    t = time.perf_counter(); a @ a; times.append(time.perf_counter() - t)\n"
        "print(2 * 2048**3 / sorted(times)[6] / 1e9)"
    )
    return float(subprocess.check_output([sys.executable, "-c", code], env=environment()))


def command(folder: Path, *words: str) -> tuple[dict[str, Any], float]:
    """Type a training command; gives its record, and the seconds that it took."""
    start = time.perf_counter()
    script = [sys.executable, str(ROOT / "scripts" / "train.py"), *words, "hydra.run.dir=run"]
    subprocess.run(script, cwd=folder, env=environment(), check=True, capture_output=True)
    seconds = time.perf_counter() - start
    return json.loads((folder / "run" / "run.json").read_text()), seconds


def fit(args: argparse.Namespace) -> dict[str, Any]:
    """Where the seconds of a fit of ten epochs go."""
    with tempfile.TemporaryDirectory() as folder:
        words = [] if os.environ.get("SIMPLECNN_DATA") else ["data=mnist_5k"]
        record, _ = command(Path(folder), *words)
        return {key: record[key] for key in ("seconds_of_fit", "metrics")}


FIRST_STEP = """
import os, time
from pytorch_lightning import Callback
class FirstStep(Callback):
    def on_train_batch_end(self, *args):
        open("first_step", "w").write(str(time.time()))
        os._exit(0)
"""


def start_up(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds from the start of a process to its first step, and of importing Lightning alone."""
    ours, lightning = [], []
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "first_step.py").write_text(FIRST_STEP)
        script = [sys.executable, str(ROOT / "scripts" / "train.py"), "data=mnist_5k"]
        script += ["+callbacks.first._target_=first_step.FirstStep"]
        for _ in range(args.repeats):
            start = time.time()
            subprocess.run(script, cwd=folder, env=environment(), capture_output=True)
            ours.append(float(Path(folder, "first_step").read_text()) - start)
            start = time.time()
            subprocess.run(
                [sys.executable, "-c", "import pytorch_lightning"], env=environment(), check=True
            )
            lightning.append(time.time() - start)
    return {"first_step_s": ours, "import_lightning_s": lightning}


def to_99(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of training to a mean of 99 % on the test digits: ours, and the tutorial's loop."""
    found: dict[str, Any] = {"fast_s": [], "fast_acc": []}
    for seed in range(1, args.repeats + 1):
        with tempfile.TemporaryDirectory() as folder:
            record, _ = command(Path(folder), "experiment=fast", f"seed={seed}")
            found["fast_s"].append(record["seconds_of_fit"]["steps"])
            found["fast_acc"].append(record["metrics"]["test/acc"])
    output = subprocess.check_output(
        [sys.executable, __file__, "--work", "tutorial to 99 %"], env=environment()
    )
    return found | {"tutorial": json.loads(output.splitlines()[-1])}


def tutorial_to_99() -> None:
    """Print the tutorial's seconds of training and its mean accuracy over seeds, an epoch after
    the other until that reaches 99 %."""
    import torch

    from simplecnn.data import files

    images, labels = files.read(os.environ["SIMPLECNN_DATA"], part="test")
    pixels = (torch.tensor(images).unsqueeze(1) / 255 - 0.1307) / 0.3081
    loader = usual_loader()
    runs = []
    for seed in TUTORIAL_SEEDS:
        torch.manual_seed(seed)
        network = tutorial_network()
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        runs.append((network, loop(network, loader, optimizer)))
    seconds, means = 0.0, [0.0]
    while means[-1] < 0.99 and len(means) <= 20:
        right = 0
        for network, training in runs:
            network.train()
            start = time.perf_counter()
            for _ in range(len(loader)):
                next(training)
            seconds += (time.perf_counter() - start) / len(runs)
            network.eval()
            with torch.no_grad():
                right += int((network(pixels).argmax(1) == torch.tensor(labels)).sum())
        means.append(right / len(labels) / len(runs))
    print(json.dumps({"seconds": seconds, "accuracies": means[1:]}))


def feeding(args: argparse.Namespace) -> dict[str, Any]:
    """Microseconds an image of a pass over the training images, without a network."""
    code = (
        f"import os, sys, time; sys.path.insert(0, {str(ROOT / 'scripts')!r})\n"
        "import benchmark\n"
        "from simplecnn import MNISTDataModule\n"
        "folder = os.environ.get('SIMPLECNN_DATA')\n"
        "name = 'MNIST' if folder else 'MNIST5k'\n"
        "data = MNISTDataModule(dataset=name, data_dir=folder, val_size=0); data.setup('fit')\n"
        "for loader in (data.train_dataloader(),) * 5 + (benchmark.usual_loader(),):\n"
        "    t = time.perf_counter(); n = sum(len(y) for _, y in loader)\n"
        "    print((time.perf_counter() - t) / n)"
    )
    output = subprocess.check_output([sys.executable, "-c", code], env=environment()).split()
    ours, usual = [float(value) for value in output[:-1]], float(output[-1])
    return {"ours_us": 1e6 * statistics.median(ours), "usual_us": 1e6 * usual}


# ------------------------------------------------------------------------------- the report


def ratio(values: list[float], base: list[float]) -> float:
    """The median of the ratios within a round."""
    return statistics.median(a / b for a, b in zip(values, base, strict=True))


def report(found: dict[str, Any]) -> str:
    from simplecnn.table import table

    median, mean = statistics.median, statistics.mean
    lines = [f"{found['processor']}, {found['num_cores']} cores, torch {found['torch']}"]
    for part, title in (("steps", ""), ("busy", " beside two busy processes")):
        if part in found:
            ms = found[part]["ms"]
            rows = [["a step of 64 digits" + title, "ms", "÷ bare loop", "÷ ours"]]
            for row, values in ms.items():
                ratios = [f"{ratio(values, ms[base]):.2f}" for base in ("bare", "ours")]
                rows.append([ROWS[row], f"{median(values):.1f}", *ratios])
            lines += ["", table(rows)]
    if "steps" in found:
        reached = BATCH * FLOP_PER_IMAGE / median(found["steps"]["ms"]["ours"]) / 1e6
        peak = found["steps"]["sgemm_gflops"]
        lines += [f"{reached:.0f} GFLOP/s: {reached / peak:.0%} of a matrix product's {peak:.0f}"]
    if "fit" in found:
        parts = found["fit"]["seconds_of_fit"]
        lines += ["", "a fit: " + "  ".join(f"{k} {v:.1f} s" for k, v in parts.items())]
    if "start-up" in found:
        ours, lightning = found["start-up"].values()
        share = f"{ratio(ours, lightning):.2f} of importing Lightning (n = {len(ours)})"
        lines += ["", f"first step after {median(ours):.1f} s, {share}"]
    if "to 99 %" in found:
        part = found["to 99 %"]
        fast, tutorial = mean(part["fast_s"]), part["tutorial"]
        accuracy, number = mean(part["fast_acc"]), len(part["fast_acc"])
        seconds, last = tutorial["seconds"], tutorial["accuracies"][-1]
        lines += ["", f"experiment=fast: {accuracy:.2%} after {fast:.1f} s (n = {number})"]
        lines += [
            f"the tutorial's loop: {last:.2%} after {seconds:.1f} s, "
            f"{seconds / fast:.1f} times as long (n = {len(TUTORIAL_SEEDS)})"
        ]
    if "feeding" in found:
        ours, usual = found["feeding"].values()
        lines += [
            "",
            f"feeding: {ours:.2f} us an image; torchvision's DataLoader {usual:.0f} us, "
            f"{usual / ours:.0f} times as long",
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="the steps alone, few rounds")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=32, help="of a turn")
    parser.add_argument("--repeats", type=int, default=5, help="of what starts processes")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        return tutorial_to_99() if args.work == "tutorial to 99 %" else work(args.work, args.steps)
    if args.quick:
        args.parts, args.rounds = ["steps"], 5
    if "to 99 %" in args.parts and not os.environ.get("SIMPLECNN_DATA"):
        parser.error("the way to 99 % needs MNIST: say where its files are by SIMPLECNN_DATA=DIR.")
    do = {"steps": steps, "busy": busy, "fit": fit, "start-up": start_up, "to 99 %": to_99,
          "feeding": feeding}  # fmt: skip
    from importlib.metadata import version

    found: dict[str, Any] = {
        "processor": processor(), "num_cores": os.cpu_count(), "torch": version("torch"),
        "rounds": args.rounds, "steps_a_turn": args.steps,
    }  # fmt: skip
    for part in args.parts:
        print(f"{part} …", file=sys.stderr, flush=True)
        found[part] = do[part](args)
    print(report(found))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2))


def processor() -> str:
    """The model that Linux names, or the kind of machine."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line for line in lines if "model name" in line]
    return names[0].partition(":")[2].strip() if names else platform.machine()


if __name__ == "__main__":
    main()

"""A run's checkpoint on test images: loss, accuracy, calibration, and what is confused."""

import io
import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.functional.classification import multiclass_confusion_matrix

from simplecnn.atomic import atomic_write
from simplecnn.config.build import build
from simplecnn.console import configure_lightning_logging
from simplecnn.errors import InputError, short
from simplecnn.figures.reliability import reliability_figure
from simplecnn.inference.calibration import calibration
from simplecnn.inference.networks import load_network
from simplecnn.models.activations import evaluation_mode
from simplecnn.run_directory import RunDirectory, write_json

log = logging.getLogger(__name__)
RESULTS = "evaluation.json"


def evaluate(directory: RunDirectory, checkpoint: Path, *, data: Mapping[str, Any] | None) -> float:
    """Evaluate a checkpoint of a run, print the result, add it to the run's evaluation.json.

    `data` is the configuration of another data set than the run's own. A reliability diagram goes
    to images/. Returns the accuracy.
    """
    configure_lightning_logging()
    images = TestData(data or directory.config()["data"])
    network = load_network(checkpoint)
    result = measure(network, images)
    name = f"{checkpoint.stem} on {result['num_images']:,} test images of {images.name}"
    add_result(directory.path, name, {"checkpoint": checkpoint.name, **result})
    picture = draw_reliability(directory.path, name, result)
    log.info(
        "%s\n\nadded to %s and %s",
        _table(name, result), short(directory.path / RESULTS), short(picture),
    )  # fmt: skip
    return result["acc"]


class TestData:
    """The test images of a data module, ours or another, and what its classes are called.

    Raises InputError where it has none.
    """

    __test__ = False  # pytest takes it for a test

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.datamodule = build(config)
        name = getattr(self.datamodule, "name", None)  # Lightning has it, and leaves it None
        self.name = str(name or type(self.datamodule).__name__)
        self.datamodule.prepare_data()
        self.datamodule.setup("test")
        loader = self.datamodule.test_dataloader()
        self.loader = loader[0] if isinstance(loader, list) else loader
        if not self.loader:
            raise InputError(f"data: {self.name} has no test images.")

    def tensors(self) -> tuple[Tensor, Tensor]:
        """All images (N, C, H, W) and labels (N,)."""
        batches = list(self.loader)
        return torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches])

    def class_names(self, num_classes: int) -> tuple[str, ...]:
        """The names of the data module or of its data set; 0, 1, 2, … where it has none."""
        sources = [(self.datamodule, "class_names"), (self.datamodule, "classes"),
                   (getattr(self.loader, "dataset", None), "classes")]  # fmt: skip
        for source, attribute in sources:
            names = getattr(source, attribute, None)
            if isinstance(names, list | tuple) and len(names) == num_classes:
                return tuple(map(str, names))
        return tuple(str(i) for i in range(num_classes))


@torch.no_grad()
def measure(network: nn.Module, data: TestData) -> dict[str, Any]:
    """Loss (mean negative log-likelihood, in nats) and accuracy on the test set, the accuracy per
    class, confusion[true][predicted] counts, and what `calibration` gives."""
    logits, labels = [], []
    with evaluation_mode(network):
        for images, answers in data.loader:
            logits.append(logits_of(network, images))
            labels.append(answers)
    return summarize(torch.cat(logits), torch.cat(labels), data.class_names(logits[0].shape[1]))


def logits_of(network: nn.Module, images: Tensor) -> Tensor:
    """The network's answer to a batch. Raises InputError where it does not take these images."""
    try:
        answer = network(images)
    except RuntimeError as error:
        size = " x ".join(map(str, images.shape[1:]))
        raise InputError(
            f"The network does not take images of {size}: {str(error).splitlines()[0]}"
        ) from None
    if not (isinstance(answer, Tensor) and answer.ndim == 2):
        raise InputError("The network does not give logits (N, classes): nothing to compare.")
    return answer


def summarize(logits: Tensor, labels: Tensor, class_names: Sequence[str]) -> dict[str, Any]:
    """The same from logits (N, classes) and labels (N,)."""
    confusion = multiclass_confusion_matrix(logits, labels, num_classes=len(class_names))
    counts = confusion.sum(1).tolist()
    right = confusion.diagonal().tolist()
    return {
        "num_images": len(labels),
        "loss": round(float(functional.cross_entropy(logits, labels)), 6),
        "acc": round(sum(right) / len(labels), 6),
        **calibration(logits, labels),
        "acc_per_class": {
            name: round(r / n, 6) if n else None
            for name, r, n in zip(class_names, right, counts, strict=True)
        },
        "confusion": confusion.tolist(),
    }


def add_result(directory: Path, name: str, result: dict[str, Any]) -> None:
    """Add to the evaluations there are; only the same one is replaced.

    Several processes may do so at once.
    """
    path = directory / RESULTS
    lock = directory / f".{RESULTS}.lock"
    with FileLock(lock, timeout=60):
        results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        write_json(path, {**results, name: result})


def draw_reliability(directory: Path, name: str, result: dict[str, Any]) -> Path:
    """Write the reliability diagram of a result, and its arrays beside it; gives the picture."""
    bins = result["calibration_bins"]
    arrays = {
        key: np.array([np.nan if b[key] is None else b[key] for b in bins], float)
        for key in ("num_images", "confidence", "acc")
    }
    error = f"expected calibration error {100 * result['ece']:.2f} %"
    figure = reliability_figure(*arrays.values(), title=f"{name}\n{error}, {len(bins)} bins")
    stem = "reliability_" + re.sub(r"\W+", "_", name)
    (directory / "images").mkdir(exist_ok=True)
    numbers, picture = io.BytesIO(), io.BytesIO()
    np.savez_compressed(numbers, **arrays)  # type: ignore[arg-type]
    figure.savefig(picture)
    atomic_write(directory / "images" / f"{stem}.npz", numbers.getvalue())
    atomic_write(directory / "images" / f"{stem}.png", picture.getvalue())
    return directory / "images" / f"{stem}.png"


def _table(name: str, result: dict[str, Any]) -> str:
    classes = list(result["acc_per_class"])
    width = max(4, *(len(c) for c in classes)) + 2
    cell = max(5, len(str(result["num_images"])) + 1)
    lines = [
        name,
        f"accuracy {100 * result['acc']:.2f} %   top-2 accuracy {100 * result['top2_acc']:.2f} %",
        f"loss (negative log-likelihood) {result['loss']:.4f}   expected calibration error "
        f"{100 * result['ece']:.2f} % ({len(result['calibration_bins'])} bins)",
        "",
        f"{'true':<{width}}{'right':>9}   predicted",
        " " * (width + 12) + "".join(f"{c[: cell - 1]:>{cell}}" for c in classes),
    ]
    for label, row in zip(classes, result["confusion"], strict=True):
        share = result["acc_per_class"][label]
        percent = "-" if share is None else f"{100 * share:.2f} %"
        lines.append(
            f"{label:<{width}}{percent:>9}   " + "".join(f"{n or '.':>{cell}}" for n in row)
        )
    return "\n".join(lines)

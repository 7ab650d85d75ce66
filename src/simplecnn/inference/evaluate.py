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
from simplecnn.checkpoint_file import read_checkpoint
from simplecnn.config.build import build, first_line
from simplecnn.config.schema import ImageFolder
from simplecnn.config.spelling import cut
from simplecnn.console import configure_lightning_logging
from simplecnn.data.image_folder import ImageFolderDataModule
from simplecnn.data.shape import class_names
from simplecnn.errors import InputError, short
from simplecnn.figures.inference.reliability import reliability_figure
from simplecnn.figures.style import drawing
from simplecnn.inference.calibration import calibration
from simplecnn.inference.networks import load_network
from simplecnn.models.activations import evaluation_mode
from simplecnn.run_directory import RunDirectory, write_json
from simplecnn.table import table

log = logging.getLogger(__name__)
RESULTS = "evaluation.json"
MAX_WIDTH = 120  # characters of a line of the confusion matrix


def evaluate(directory: RunDirectory, checkpoint: Path, *, data: Mapping[str, Any] | None) -> float:
    """Evaluate a checkpoint of a run, print the result, add it to the run's evaluation.json.

    `data` is the configuration of another data set than the run's own. A reliability diagram goes
    to images/. Returns the accuracy.
    """
    configure_lightning_logging()
    images = TestData(directory.config()["data"], checkpoint, data)
    images.check_classes(directory.record.get("class_names"))
    result = measure(load_network(checkpoint), images)
    name = f"{checkpoint.stem} on {result['num_images']:,} test images of {images.name}"
    add_result(directory.path, name, {"checkpoint": checkpoint.name, **result})
    picture = draw_reliability(directory.path, name, result)
    files = f"{short(directory.path / RESULTS)} and {short(picture)}"
    log.info("%s\n\nadded to %s", _table(name, result), files)
    return result["acc"]


class TestData:
    """The test images of a run's data, or of `other` data, and what the classes are called.

    config: that of the run's data. checkpoint: what it says of them (which images were trained on)
    the data module takes from it, as Lightning's Trainer would. Of other data, only a folder that
    holds all images which the run tested does: the run's own, moved. Folders are decoded as the
    network was trained.

    Raises InputError where there are no test images.
    """

    __test__ = False  # pytest takes it for a test

    def __init__(
        self,
        config: Mapping[str, Any],
        checkpoint: Path | None = None,
        other: Mapping[str, Any] | None = None,
    ) -> None:
        self.datamodule = build(config if other is None else _decoded_as(config, other))
        state = None
        if checkpoint is not None:
            state = read_checkpoint(checkpoint).get(type(self.datamodule).__qualname__)
        is_folder = isinstance(self.datamodule, ImageFolderDataModule)
        if state and (other is None or is_folder and self.datamodule.holds(state)):
            self.datamodule.load_state_dict(state)
        name = getattr(self.datamodule, "name", None)  # Lightning has it, and leaves it None
        self.name = str(name or type(self.datamodule).__name__)
        self.datamodule.prepare_data()
        self.datamodule.setup("test")
        loader = self.datamodule.test_dataloader()
        self.loader = loader[0] if isinstance(loader, list) else loader
        first = None if self.loader is None else next(iter(self.loader), None)
        if first is None:
            raise InputError(f"data: {self.name} has no test images.")
        if not (isinstance(first, list | tuple) and len(first) == 2):
            raise InputError(f"data: a batch of {self.name} is no pair of images and labels.")

    def check_classes(self, of_run: Sequence[str] | None) -> None:
        """Raise InputError where a folder of images has other classes than the run."""
        here = list(getattr(self.datamodule, "class_names", ()))
        is_folder = isinstance(self.datamodule, ImageFolderDataModule)
        if is_folder and of_run and here != list(of_run):
            raise InputError(
                f"data: {self.name} has the classes {cut(', '.join(here))}, and the network tells "
                f"{cut(', '.join(of_run))} apart."
            )

    def tensors(self) -> tuple[Tensor, Tensor]:
        """All images (N, C, H, W) and labels (N,)."""
        batches = list(self.loader)
        return torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches])

    def class_names(self, num_classes: int) -> tuple[str, ...]:
        return class_names(self.datamodule, self.loader, num_classes)


def _decoded_as(of_run: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Other data; where both are folders of images, in the size, color and shape of the run's."""
    keys = ("image_size", "channels", "fit")
    both = all(set(keys) <= set(config) for config in (of_run, other))
    for key in keys if both else ():
        default = ImageFolder.model_fields[key].default
        if other[key] not in (default, of_run[key]):
            raise InputError(
                f"data.{key} is {other[key]}, and the network was trained with {of_run[key]}: "
                f"leave it out."
            )
    return {**other, **{key: of_run[key] for key in keys if both}}


@torch.no_grad()
def measure(network: nn.Module, data: TestData) -> dict[str, Any]:
    """Loss (mean negative log-likelihood, in nats) and accuracy on the test set, its mean over
    classes, recall and precision of each, confusion[true][predicted] counts, and what
    `calibration` gives."""
    logits, labels = [], []
    with evaluation_mode(network):
        for images, answers in data.loader:
            logits.append(logits_of(network, images))
            labels.append(answers)
            if answers.max() >= logits[0].shape[1]:
                raise InputError(
                    f"data: {data.name} has more classes than the {logits[0].shape[1]} that the "
                    f"network tells apart."
                )
    return summarize(torch.cat(logits), torch.cat(labels), data.class_names(logits[0].shape[1]))


def logits_of(network: nn.Module, images: Tensor) -> Tensor:
    """The network's answer to a batch. Raises InputError where it does not take these images."""
    try:
        answer = network(images)
    except RuntimeError as error:
        size = " x ".join(map(str, images.shape[1:]))
        reason = f"The network does not take images of {size}: {first_line(error)}"
        raise InputError(reason) from None
    if not (isinstance(answer, Tensor) and answer.ndim == 2):
        raise InputError("The network does not give logits (N, classes): nothing to compare.")
    return answer


def summarize(logits: Tensor, labels: Tensor, class_names: Sequence[str]) -> dict[str, Any]:
    """The same from logits (N, classes) and labels (N,)."""
    confusion = multiclass_confusion_matrix(logits, labels, num_classes=len(class_names))
    right = confusion.diagonal().tolist()
    recall, precision = (
        {name: round(r / n, 6) if n else None
         for name, r, n in zip(class_names, right, confusion.sum(axis).tolist(), strict=True)}
        for axis in (1, 0)
    )  # fmt: skip
    known = [share for share in recall.values() if share is not None]
    return {
        "num_images": len(labels),
        "loss": round(float(functional.cross_entropy(logits, labels)), 6),
        "acc": round(sum(right) / len(labels), 6),
        "macro_acc": round(sum(known) / len(known), 6),
        **calibration(logits, labels),
        "acc_per_class": recall,
        "precision_per_class": precision,
        "confusion": confusion.tolist(),
    }


def add_result(directory: Path, name: str, result: dict[str, Any]) -> None:
    """Add to the evaluations there are; only the same one is replaced.

    Several processes may do so at once.
    """
    path = directory / RESULTS
    with FileLock(directory / f".{RESULTS}.lock", timeout=60):
        results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        write_json(path, {**results, name: result})


def draw_reliability(directory: Path, name: str, result: dict[str, Any]) -> Path:
    """Write the reliability diagram of a result, and its arrays beside it; gives the picture."""
    bins = result["calibration_bins"]
    keys = ("num_images", "confidence", "acc")
    arrays = {key: np.array([b[key] for b in bins], float) for key in keys}  # None is NaN
    stem = re.sub(r"\W+", "_", name)
    path = directory / "images" / f"reliability_{stem}.png"
    path.parent.mkdir(exist_ok=True)
    numbers, picture = io.BytesIO(), io.BytesIO()
    np.savez_compressed(numbers, **arrays)  # type: ignore[arg-type]
    error = f"expected calibration error {100 * result['ece']:.2f} %, {len(bins)} bins"
    with drawing():
        reliability_figure(*arrays.values(), title=f"{name}\n{error}").savefig(picture)
    atomic_write(path.with_suffix(".npz"), numbers.getvalue())
    atomic_write(path, picture.getvalue())
    return path


def _table(name: str, result: dict[str, Any]) -> str:
    """Recall and precision of each class, and beside them the confusion matrix.

    Where its lines would be too long, only what each class is most often predicted as.
    """
    recall, precision, confusion = (
        result[key] for key in ("acc_per_class", "precision_per_class", "confusion")
    )
    classes = list(recall)
    first = [["true", "recall", "precision"]]
    for label in classes:
        shares = (recall[label], precision[label])
        first.append([label, *("-" if s is None else f"{100 * s:.2f} %" for s in shares)])
    matrix = [classes, *([str(n or ".") for n in counts] for counts in confusion)]
    text = table([[*a, *b] for a, b in zip(first, matrix, strict=True)])
    if max(map(len, text.splitlines())) > MAX_WIDTH:
        most = [["most often predicted as"]]
        for i, counts in enumerate(confusion):
            wrong, j = max((count, -j) for j, count in enumerate(counts) if j != i)
            most.append([f"{classes[-j]} ({wrong})" if wrong else ""])
        text = table([[*a, *b] for a, b in zip(first, most, strict=True)])
    return (
        f"{name}\n"
        f"accuracy {100 * result['acc']:.2f} %   macro {100 * result['macro_acc']:.2f} %   "
        f"top-2 {100 * result['top2_acc']:.2f} %\n"
        f"loss (negative log-likelihood) {result['loss']:.4f}   expected calibration error "
        f"{100 * result['ece']:.2f} % ({len(result['calibration_bins'])} bins)\n\n{text}"
    )

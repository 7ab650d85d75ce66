"""Evaluate a checkpoint on test images: loss, accuracy, calibration, confusion matrix."""

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
from simplecnn.config.build import build
from simplecnn.config.schema import ImageFolder, target_of
from simplecnn.console import configure_lightning_logging
from simplecnn.data.image_folder import ImageFolderDataModule, has_test_images
from simplecnn.data.shape import all_loaders, class_names
from simplecnn.errors import InputError, relative_path, reraise
from simplecnn.figures.arrays import write_npz
from simplecnn.figures.inference.reliability import reliability_figure
from simplecnn.figures.raster import encode_png
from simplecnn.figures.style import drawing
from simplecnn.inference.calibration import calibration
from simplecnn.inference.networks import logits
from simplecnn.inference.trained_run import TrainedRun
from simplecnn.run_directory import write_json
from simplecnn.table import table

log = logging.getLogger(__name__)
RESULTS = "evaluation.json"
MAX_WIDTH = 120  # characters of a line of the confusion matrix


def evaluate(run: TrainedRun, *, data: Mapping[str, Any] | None) -> float:
    """Evaluate the network of a run, log the result and add it to the run's evaluation.json.

    Also writes a reliability diagram to images/. `data` is the configuration of another data set,
    None for that of the run. Returns the accuracy.
    """
    configure_lightning_logging()
    test_data = TestData(run, data)
    result = measure(run.network, test_data)
    name = f"{run.checkpoint.stem} on {result['num_images']:,} test images of {test_data.name}"
    log.info("%s\n", _table(name, result))
    # A run that is resumed later replaces the checkpoint: the epoch tells what was evaluated.
    checkpoint = {"checkpoint": run.checkpoint.name, "epoch": run.epoch}
    add_result(run.path, name, {**checkpoint, **result})
    diagram = draw_reliability(run.path, name, result)
    files = f"{relative_path(run.path / RESULTS)} and {relative_path(diagram)}"
    log.info("added to %s", files)
    return result["acc"]


class TestData:
    """The test images and class names of a run's data, or of `other` data.

    run: the data module state of its checkpoint (which images are in which split) is loaded, as
        Lightning's Trainer does. For `other` data, only if they are an image folder that holds all
        test images of the run: the same folder, moved. Any other image folder is a test set: all
        of its images, or those of its folder test, but none that the run has trained on. Its
        folders are named after classes of the network.
    other: a data configuration. An image folder is decoded with the run's size, color and `fit`.

    Raises InputError if there are no test images, or an image folder has other classes than the
    run.
    """

    __test__ = False  # not a test class, despite its name

    def __init__(self, run: TrainedRun, other: Mapping[str, Any] | None = None) -> None:
        config = run.config["data"]
        data = config if other is None else _decoded_like(run, other)
        state: Any = read_checkpoint(run.checkpoint).get(data["_target_"].rpartition(".")[2])
        is_folder = data["_target_"] == target_of(ImageFolder)
        root, run_root = (Path(d.get("root") or "").expanduser() for d in (data, config))
        is_own = other is None or (is_folder and state and has_test_images(root, state, run_root))
        is_test_set = is_folder and not is_own
        options = {"test_classes": run.class_names} if is_test_set else {}
        self.datamodule = build(data, **options)
        if state and is_own and isinstance(self.datamodule, ImageFolderDataModule):
            self.datamodule.load_state_dict(state)
        name = getattr(self.datamodule, "name", None)  # None in Lightning's base class
        self.name = str(name or type(self.datamodule).__name__)
        if is_test_set:
            self.name = relative_path(root)  # many are named test
        self.datamodule.prepare_data()
        self.datamodule.setup("test")
        if is_test_set and state and (warning := self.datamodule.leave_out(state, run_root)):
            log.warning(warning)
        if config.get("dataset") == "MNIST" and (other or {}).get("dataset") == "MNIST5k":
            log.warning(
                "The digits of MNIST 5k belong to the training set of MNIST: the network was "
                "trained on most of these test images. data=mnist has others."
            )
        loaders = all_loaders(self.datamodule.test_dataloader())
        if len(loaders) > 1:
            log.warning(f"{self.name} has {len(loaders)} test loaders: only the first is used.")
        self.loader: Any = loaders[0] if loaders else ()
        first = next(iter(self.loader), None)
        if first is None:
            raise InputError(f"data: {self.name} has no test images.")
        if not (isinstance(first, list | tuple) and len(first) == 2):
            raise InputError(f"data: a batch of {self.name} is not a pair (images, labels).")

    def tensors(self) -> tuple[Tensor, Tensor]:
        """All images (N, C, H, W) and labels (N,)."""
        batches = list(self.loader)
        return torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches])

    def class_names(self, num_classes: int, labels: Tensor) -> tuple[str, ...]:
        """The names of a network's classes. Raises InputError if `labels` are of more classes."""
        if labels.max() >= num_classes:
            raise InputError(
                f"data: {self.name} has more classes than the network, which has {num_classes}."
            )
        return class_names(self.datamodule, self.loader, num_classes)


def _decoded_like(run: TrainedRun, other: Mapping[str, Any]) -> dict[str, Any]:
    """`other` data; an image folder is decoded to the size, color and `fit` of the run's images."""
    if other["_target_"] != target_of(ImageFolder):
        return dict(other)
    prepare = run.preprocessing
    decoding: dict[str, Any] = {"image_size": prepare.size, "channels": prepare.channels}
    if prepare.fit:
        decoding["fit"] = prepare.fit
    for key, value in decoding.items():
        default = ImageFolder.model_fields[key].default
        if other[key] not in (default, value):
            raise InputError(
                f"data.{key} is {other[key]}, but the network was trained with {value}: leave it "
                f"out."
            )
    return {**other, **decoding}


def measure(network: nn.Module, data: TestData) -> dict[str, Any]:
    """Evaluate a network on the test images; returns the metrics of `summarize`.

    Raises InputError if the data have more classes than the network.
    """
    batches = [(logits(network, x, batch_size=len(x)), labels) for x, labels in data.loader]
    outputs, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return summarize(outputs, labels, data.class_names(outputs.shape[1], labels))


def summarize(logits: Tensor, labels: Tensor, class_names: Sequence[str]) -> dict[str, Any]:
    """Metrics from logits (N, classes) and labels (N,).

    The loss is the mean negative log-likelihood, in nats. Also returns the accuracy, its mean over
    classes, recall and precision per class (None if undefined), counts confusion[true][predicted]
    and the entries of `calibration`.
    """
    confusion = multiclass_confusion_matrix(logits, labels, num_classes=len(class_names))
    num_correct = confusion.diagonal().tolist()
    recall, precision = (
        {name: round(correct / n, 6) if n else None
         for name, correct, n in zip(class_names, num_correct, confusion.sum(axis).tolist(),
                                     strict=True)}
        for axis in (1, 0)
    )  # fmt: skip
    recalls = [value for value in recall.values() if value is not None]
    return {
        "num_images": len(labels),
        "loss": round(float(functional.cross_entropy(logits, labels)), 6),
        "acc": round(sum(num_correct) / len(labels), 6),
        "macro_acc": round(sum(recalls) / len(recalls), 6),
        **calibration(logits, labels),
        "acc_per_class": recall,
        "precision_per_class": precision,
        "confusion": confusion.tolist(),
    }


def add_result(directory: Path, name: str, result: dict[str, Any]) -> None:
    """Add a result to evaluation.json, replacing one of the same name.

    Safe to call from several processes at once.
    """
    path = directory / RESULTS
    with FileLock(directory / f".{RESULTS}.lock", timeout=60):
        results = {}
        if path.is_file():
            with reraise(f"{relative_path(path)} is damaged; delete it"):
                results = dict(json.loads(path.read_text(encoding="utf-8")))
        write_json(path, {**results, name: result})


def draw_reliability(directory: Path, name: str, result: dict[str, Any]) -> Path:
    """Write the reliability diagram of a result and its arrays (.npz); returns the PNG's path."""
    bins = result["calibration_bins"]
    keys = ("num_images", "confidence", "acc")
    arrays = {key: np.array([b[key] for b in bins], float) for key in keys}  # None becomes NaN
    stem = re.sub(r"\W+", "_", name)
    path = directory / "images" / f"reliability_{stem}.png"
    error = f"expected calibration error {100 * result['ece']:.2f} %, {len(bins)} bins"
    with drawing():
        title = f"Reliability diagram: {name}\n{error}"
        png, *_ = encode_png(reliability_figure(*arrays.values(), title=title))
    write_npz(path.with_suffix(".npz"), arrays)
    atomic_write(path, png)
    return path


def _table(name: str, result: dict[str, Any]) -> str:
    """A table of recall and precision per class beside the confusion matrix.

    A matrix that is too wide is replaced by the class that each class is most often mistaken for.
    """
    recall, precision, confusion = (
        result[key] for key in ("acc_per_class", "precision_per_class", "confusion")
    )
    classes = list(recall)
    rows = [["true", "recall", "precision", *classes]]
    for label, counts in zip(classes, confusion, strict=True):
        rates = (recall[label], precision[label])
        percentages = ("-" if rate is None else f"{100 * rate:.2f} %" for rate in rates)
        rows.append([label, *percentages, *map(str, counts)])
    text = table(rows)
    if max(map(len, text.splitlines())) > MAX_WIDTH:
        mistaken_for = ["most often predicted as"]
        for i, counts in enumerate(confusion):
            num_wrong, j = max((count, -j) for j, count in enumerate(counts) if j != i)
            mistaken_for.append(f"{classes[-j]} ({num_wrong})" if num_wrong else "")
        text = table([[*row[:3], name] for row, name in zip(rows, mistaken_for, strict=True)])
    return (
        f"{name}\n"
        f"accuracy {100 * result['acc']:.2f} %   macro {100 * result['macro_acc']:.2f} %   "
        f"top-2 {100 * result['top2_acc']:.2f} %\n"
        f"loss (negative log-likelihood) {result['loss']:.4f}   expected calibration error "
        f"{100 * result['ece']:.2f} % ({len(result['calibration_bins'])} bins)\n\n{text}"
    )

"""A run's checkpoint on test digits: loss, accuracy, per class, and who is taken for whom."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional.classification import multiclass_confusion_matrix

from simplecnn.config.build import build
from simplecnn.console import configure_lightning_logging
from simplecnn.errors import InputError
from simplecnn.inference.export import load_network
from simplecnn.models.activations import evaluation_mode
from simplecnn.models.classifier import Classifier
from simplecnn.run_directory import RunDirectory, short, write_json

log = logging.getLogger(__name__)
RESULTS = "evaluation.json"


def evaluate(folder: RunDirectory, checkpoint: Path, *, data: Mapping[str, Any] | None) -> float:
    """Evaluate a checkpoint of a run, print the result, add it to the run's evaluation.json.

    `data` is the configuration of another data set than the run's own. Returns the accuracy.
    """
    configure_lightning_logging()
    config = folder.data(data)
    datamodule: Any = build(config)
    module = load_classifier(checkpoint)
    datamodule.prepare_data("test")
    datamodule.setup("test")
    result = measure(module, datamodule)
    name = f"{checkpoint.stem} on {result['num_images']:,} test images of {datamodule.name}"
    if config.get("crop") != folder.data().get("crop"):
        name += " with data.crop=[{},{}]".format(*config["crop"])
    _add(folder, name, {"checkpoint": checkpoint.name, **result})
    log.info("%s\n\nadded to %s", _table(name, result), short(folder.path / RESULTS))
    return result["acc"]


def load_classifier(path: Path, device: str = "cpu") -> Classifier:
    """The classifier in a checkpoint. Raises InputError where the file is not one."""
    load_network(path)  # finds what is wrong with it
    try:
        return Classifier.load_from_checkpoint(path, map_location=device, weights_only=True)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{short(path)} is not a checkpoint of simplecnn: {reason}") from None


@torch.no_grad()
def measure(module: Classifier, datamodule: Any) -> dict[str, Any]:
    """Loss and accuracy on the test set, accuracy per class, confusion[true][predicted] counts."""
    logits, labels = [], []
    with evaluation_mode(module.network):
        for images, answers in datamodule.test_dataloader():
            logits.append(module.network(images.to(module.device)))
            labels.append(answers.to(module.device))
    return summarise(torch.cat(logits), torch.cat(labels), datamodule.class_names)


def summarise(logits: Tensor, labels: Tensor, class_names: tuple[str, ...]) -> dict[str, Any]:
    """The same from logits (N, classes) and labels (N,)."""
    confusion = multiclass_confusion_matrix(logits, labels, num_classes=len(class_names))
    counts = confusion.sum(1).tolist()
    right = confusion.diagonal().tolist()
    return {
        "num_images": len(labels),
        "loss": round(float(functional.cross_entropy(logits, labels)), 6),
        "acc": round(sum(right) / len(labels), 6),
        "acc_per_class": {
            name: round(r / n, 6) if n else None
            for name, r, n in zip(class_names, right, counts, strict=True)
        },
        "confusion": confusion.tolist(),
    }


def _add(folder: RunDirectory, name: str, result: dict[str, Any]) -> None:
    """Add to the evaluations there are; only the same one is replaced."""
    path = folder.path / RESULTS
    results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    write_json(path, {**results, name: result})


def _table(name: str, result: dict[str, Any]) -> str:
    classes = list(result["acc_per_class"])
    width = max(4, *(len(c) for c in classes)) + 2
    cell = max(5, len(str(result["num_images"])) + 1)
    lines = [
        name,
        f"loss {result['loss']:.4f}   accuracy {100 * result['acc']:.2f} %",
        "",
        f"{'true':<{width}}{'right':>9}   taken for",
        " " * (width + 12) + "".join(f"{c[: cell - 1]:>{cell}}" for c in classes),
    ]
    for label, row in zip(classes, result["confusion"], strict=True):
        share = result["acc_per_class"][label]
        percent = "-" if share is None else f"{100 * share:.2f} %"
        lines.append(
            f"{label:<{width}}{percent:>9}   " + "".join(f"{n or '.':>{cell}}" for n in row)
        )
    return "\n".join(lines)

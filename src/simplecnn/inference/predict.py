"""Classify the user's image files with a run: a table, a CSV file and a contact sheet."""

import csv
import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from simplecnn.data import files as mnist_files
from simplecnn.data.batches import scale
from simplecnn.errors import InputError, RunError, relative_path, require_packages
from simplecnn.figures.image_sheet import TILE, image_sheet
from simplecnn.figures.inference.prediction import prediction_figure
from simplecnn.figures.raster import short_name
from simplecnn.figures.style import NEW, OLD, drawing
from simplecnn.inference.image_files import STDIN
from simplecnn.inference.trained_run import TrainedRun
from simplecnn.models.activations import feature_maps
from simplecnn.models.simple_cnn import Crop
from simplecnn.table import percent, table

log = logging.getLogger(__name__)

UNSURE = 0.9  # predictions with a lower probability are marked, unless `reject` is set
MAX_ROWS = 40  # of the printed table; the CSV file has all rows
MAX_TILES = 192  # of the contact sheet
COLUMNS = ("file", "class", "probability", "second_class", "second_probability", "decided",
           "preprocessing", "error")  # fmt: skip


# The columns of a file, its preprocessed `image` (C, H, W), and whether the network is `unsure`.
# A file that cannot be read has only `file` and `error`.
Row = dict[str, Any]


def predict(
    run: TrainedRun,
    files: Sequence[str],
    *,
    invert: bool | None = None,
    reject: float | None = None,
    explain: bool = False,
    to: str | None = None,
    data_dir: str | None = None,
) -> Path:
    """Classify image files, log the predictions and write them to a new folder; returns the folder.

    predictions.csv has one row per file, contact_sheet.png shows the images, and with `explain`,
    explained/ has a figure of each prediction.

    invert: swap light and dark; None: decided by the border of each image.
    reject: predictions with a lower probability are undecided. Also logs how many test images of
        the data sets in `data_dir` are decided.

    Raises InputError, and writes nothing, if no file can be read; RunError if the folder cannot be
    written or, after all files, if some of them could not be classified.
    """
    class_names = run.class_names  # loads the network: its errors come before those of the files
    run.warn_of_range()
    if explain:
        require_packages("explain=true", "captum")
    if explain and STDIN in files:
        raise InputError("explain=true does not accept image=-: save the image to a file.")
    threshold = UNSURE if reject is None else reject
    mark = "unsure" if reject is None else "undecided"
    rows = classify(run, files, threshold, invert=invert)
    predicted = [row for row in rows if "error" not in row]
    failed = [row for row in rows if "error" in row]
    if not predicted:
        num_more = len(failed) - MAX_ROWS
        more = [f"and {num_more:,} more"] if num_more > 0 else []
        raise InputError(*(row["error"] for row in failed[:MAX_ROWS]), *more)
    for row in predicted:
        row["decided"] = "no" if reject is not None and row["unsure"] else "yes"
    folder = Path(to or run.path / "predictions" / f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}")
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        mistake = f"{relative_path(folder)} already exists: name another folder with to=…"
        raise InputError(mistake) from None
    except OSError as error:
        mistake = f"{relative_path(folder)} cannot be written: {error.strerror}."
        raise InputError(f"{mistake} Name another folder with to=…") from None
    num_unsure = f"{sum(row['unsure'] for row in predicted):,} {mark}"
    log.info("%s", _table(rows, class_names, mark))
    try:
        with (folder / "predictions.csv").open(
            "w", encoding="utf-8", errors="backslashreplace", newline=""
        ) as file:  # a file name may be any bytes
            writer = csv.DictWriter(file, COLUMNS, restval="", extrasaction="ignore")
            writer.writeheader()
            for row in rows:
                cells = row.items()
                writer.writerow({k: f"{v:.6f}" if isinstance(v, float) else v for k, v in cells})
        with drawing(ink=run.preprocessing.box is not None):
            title = f"{num_unsure} (orange): probability below {threshold:g}"
            _contact_sheet(predicted, title).savefig(folder / "contact_sheet.png")
            if explain:
                (folder / "explained").mkdir()
                width = len(str(len(predicted)))
                progress = tqdm(predicted, desc="explaining", leave=False, disable=None)
                for i, row in enumerate(progress):
                    name = f"{i:0{width}d}_{Path(row['file']).stem[:60]}.png"
                    explained(run, row, invert=invert).savefig(folder / "explained" / name)
    except OSError as error:  # such as a full disk
        shutil.rmtree(folder, ignore_errors=True)
        raise RunError(f"{relative_path(folder)} cannot be written: {error.strerror}.") from None
    log.info("%s: probability below %g", num_unsure, threshold)
    if reject is not None and data_dir:
        for line in _decided_test_images(run, reject, data_dir):
            log.info("%s", line)
    log.info("\nwritten      %s", relative_path(folder))
    if failed:
        count = f"{len(failed):,} of {len(rows):,} files"
        raise RunError(f"{count} could not be classified: see above.")
    return folder


def classify(
    run: TrainedRun, files: Sequence[str], threshold: float, *, invert: bool | None = None
) -> list[Row]:
    """One row per file, `unsure` if the probability of its class is less than `threshold`."""
    rows: list[Row] = []
    for name in tqdm(files, unit="image", leave=False, disable=None):
        try:
            steps = run.preprocessing.read(name, invert=invert)
        except InputError as error:
            rows.append({"file": name, "error": str(error)})
            continue
        image = run.preprocessing.to_input(steps[-1].pixels)
        description = ", ".join(step.description for step in steps)
        rows.append({"file": name, "image": image, "preprocessing": description})
    readable = [row for row in rows if "image" in row]
    if readable:
        images = torch.from_numpy(np.stack([row["image"] for row in readable]))
        for row, prediction in zip(readable, run.predictions(images).rows(), strict=True):
            row |= dict(zip(COLUMNS[1:5], prediction, strict=True))
            row["unsure"] = row["probability"] < threshold
    return rows


def _table(rows: Sequence[Row], names: Sequence[str], mark: str) -> str:
    """A table of all rows, or, if there are many, of some that are unsure and all that failed.

    Followed by the errors and the number of images per class.
    """
    shown = list(rows)
    if len(rows) > MAX_ROWS:
        unsure = [row for row in rows if row.get("unsure")]
        shown = unsure[:MAX_ROWS] + [row for row in rows if "error" in row]
    cells = [["file", "class", "probability", "second", "probability", "", "image"]]
    for row in shown:
        if "error" in row:
            cells.append([row["file"], "-", "", "", "", "", "not classified"])
            continue
        cells.append([
            row["file"],
            row["class"], percent(row["probability"]),
            row["second_class"], percent(row["second_probability"]),
            mark if row["unsure"] else "",
            row["preprocessing"],
        ])  # fmt: skip
    lines = [table(cells)] if shown else []
    if len(shown) < len(rows):
        lines.append(
            f"Shown: {len(shown)} of {len(rows):,} images, those that are {mark} or failed. All "
            f"are in predictions.csv."
        )
    lines += [row["error"] for row in shown if "error" in row]
    counts = Counter(row["class"] for row in rows if "class" in row)
    by_class = "   ".join(f"{name}: {counts[name]:,}" for name in names if counts[name])
    lines.append(f"{_number_of_images(counts.total())} by class   {by_class}")
    return "\n".join(lines)


def _number_of_images(number: int) -> str:
    return f"{number:,} image{'s' * (number != 1)}"


def _contact_sheet(rows: Sequence[Row], title: str) -> Figure:
    """Draw all images, or the `MAX_TILES` images with the lowest probabilities."""
    least_sure = np.argsort([row["probability"] for row in rows], kind="stable")[:MAX_TILES]
    shown = [rows[i] for i in sorted(least_sure)]
    which = "" if len(shown) == len(rows) else f", the {len(shown)} least sure are shown"
    captions = [
        f"{short_name(row['class'])}{' ?' * row['unsure']}: {percent(row['probability'])}"
        f"\n{short_name(Path(row['file']).name, TILE)}"
        for row in shown
    ]
    images = np.stack([row["image"] for row in shown])
    every = -(-images.shape[-1] // TILE)  # pixels of large images are left out
    return image_sheet(
        images[:, :, ::every, ::every],
        captions,
        [NEW if row["unsure"] else OLD for row in shown],
        title=f"{_number_of_images(len(rows))}{which}; {title}",
    )


def explained(run: TrainedRun, row: Row, *, invert: bool | None = None) -> Figure:
    """Draw one prediction: preprocessing steps, probabilities, feature maps and attribution."""
    steps = run.preprocessing.read(row["file"], invert=invert)
    panels = [(step.description, step.pixels) for step in steps]
    image = torch.from_numpy(row["image"])[None]
    for layer in run.network.children():
        if isinstance(layer, Crop):
            description = f"pixels {layer.first} to {layer.last},\nenlarged by the network"
            panels.append((description, layer(image)[0, 0].numpy()))
    maps, logits = feature_maps(run.network, image)
    return prediction_figure(
        panels,
        run.class_names,
        logits.softmax(1)[0].numpy(),
        {layer: values[0].numpy() for layer, values in maps.items()},
        attribution(run.network, image, int(logits.argmax())),
        title=f"{Path(row['file']).name}: class {row['class']}, "
        f"probability {percent(row['probability'])}",
    )


def attribution(network: nn.Module, image: Tensor, target: int) -> NDArray[np.float32]:
    """Attribution (H, W) of each pixel of an image (1, C, H, W) to the logit of class `target`.

    Integrated gradients from a black image (Sundararajan, Taly and Yan, ICML 2017), with Captum.
    """
    from captum.attr import IntegratedGradients

    with torch.enable_grad():
        values = IntegratedGradients(network).attribute(image, target=target, n_steps=32)
    return values[0].sum(0).detach().numpy().astype(np.float32)


def _decided_test_images(run: TrainedRun, reject: float, data_dir: str) -> Iterator[str]:
    """Yield how many test images of each available data set the run decides, its own set first."""
    if run.preprocessing.size != 28:
        return
    run_dataset = str(run.config["data"].get("dataset")).removesuffix("5k")
    for name in dict.fromkeys((run_dataset, "MNIST", "KMNIST", "FashionMNIST")):
        is_known = name in mnist_files.MIRRORS
        if not is_known or mnist_files.missing_files(data_dir, dataset=name, parts=["test"]):
            continue
        images, labels = mnist_files.read(data_dir, dataset=name, part="test")
        tensor = scale(torch.from_numpy(images.copy())[:, None])
        predictions = run.predictions(tensor.expand(-1, run.preprocessing.channels, -1, -1))
        decided = predictions.confidences >= reject
        count = f"{decided.sum():,} of {len(labels):,} test images of {name} are"
        count += f" decided at {reject:g}"
        if name != run_dataset:
            yield f"{count}, though none belongs to a class of this network"
        elif decided.any():
            accuracy = float((predictions.ranks[decided, 0] == labels[decided]).mean())
            yield f"{count}, {percent(accuracy, digits=2)} of them correctly"
        else:
            yield count

"""What is on a person's own images: a table, a CSV file and a contact sheet of a run's answers."""

import csv
import importlib.util
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
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
from simplecnn.errors import InputError, RunError, short
from simplecnn.figures.inference.contact_sheet import contact_sheet_figure
from simplecnn.figures.inference.prediction import prediction_figure
from simplecnn.figures.raster import short_name
from simplecnn.figures.style import drawing
from simplecnn.inference.image_files import STDIN
from simplecnn.inference.trained_run import TrainedRun
from simplecnn.models.activations import feature_maps
from simplecnn.models.simple_cnn import Crop
from simplecnn.table import percent, table

log = logging.getLogger(__name__)

UNSURE = 0.9  # probability below which an answer is marked, where `reject` says nothing
MAX_ROWS = 40  # of the table on the screen; the CSV file has all
MAX_TILES = 192  # of the contact sheet
COLUMNS = ("file", "class", "probability", "second_class", "second_probability", "decided",
           "preprocessing", "error")  # fmt: skip


# Of a file, by column; beside them the `image` (C, H, W) that the network sees, and whether it is
# `unsure` of it. A file that cannot be read has only its name and its error.
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
    """Classify image files, print the answers and write them into a new folder, which it gives.

    predictions.csv has a row a file, contact_sheet.png the images; with `explain`, explained/ has
    a picture of each prediction. Answers below the probability `reject` are not decided; how many
    images of other data sets in `data_dir` are decided nevertheless is printed.

    Raises InputError where no file can be read: nothing is written then. Raises RunError where the
    folder cannot be written, and, at the end, where some files could not be read.
    """
    if explain and importlib.util.find_spec("captum") is None:
        raise InputError(
            "explain=true needs what a plain installation leaves out. Type uv sync --extra "
            "explain, or pip install 'simplecnn[explain]'."
        )
    if explain and STDIN in files:
        raise InputError("explain=true reads an image twice: write that of image=- into a file.")
    threshold = UNSURE if reject is None else reject
    word = "unsure" if reject is None else "undecided"
    rows = classify(run, files, threshold, invert=invert)
    good = [row for row in rows if "error" not in row]
    bad = [row for row in rows if "error" in row]
    if not good:
        raise InputError(*(row["error"] for row in bad))
    for row in good:
        row["decided"] = "no" if reject is not None and row["unsure"] else "yes"
    folder = Path(to or run.path / "predictions" / time.strftime("%Y-%m-%d_%H-%M-%S"))
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        mistake = f"{short(folder)} exists already: name another folder with to=…"
        raise InputError(mistake) from None
    except OSError as error:
        mistake = f"{short(folder)} cannot be written: {error.strerror}."
        raise InputError(f"{mistake} Name another folder with to=…") from None
    num_unsure = f"{sum(row['unsure'] for row in good):,} {word}"
    try:
        with (folder / "predictions.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="", extrasaction="ignore")
            writer.writeheader()
            for row in rows:
                cells = row.items()
                writer.writerow({k: f"{v:.6f}" if isinstance(v, float) else v for k, v in cells})
        with drawing(ink=run.preprocessing.box is not None):
            title = f"{num_unsure} (orange): below {threshold:g}"
            _contact_sheet(good, title).savefig(folder / "contact_sheet.png")
            if explain:
                (folder / "explained").mkdir()
                for i, row in enumerate(tqdm(good, desc="explaining", leave=False, disable=None)):
                    name = f"{i:0{len(str(len(good)))}d}_{Path(row['file']).stem[:60]}.png"
                    explained(run, row, invert=invert).savefig(folder / "explained" / name)
    except OSError as error:  # a full disk, say
        raise RunError(f"{short(folder)} cannot be written: {error.strerror}.") from None
    log.info("%s", _table(rows, run.class_names, word))
    log.info("%s: below %g", num_unsure, threshold)
    if reject is not None and data_dir:
        for line in _decided_elsewhere(run, reject, data_dir):
            log.info("%s", line)
    log.info("\nwritten      %s", short(folder))
    if bad:
        raise RunError(f"{len(bad):,} of {len(rows):,} files could not be read: see above.")
    return folder


def classify(
    run: TrainedRun, files: Sequence[str], threshold: float, *, invert: bool | None = None
) -> list[Row]:
    """A row for each file; the network is unsure of what is less probable than `threshold`."""
    rows: list[Row] = []
    for name in tqdm(files, unit="image", leave=False, disable=None):
        try:
            steps = run.preprocessing.read(name, invert=invert)
        except InputError as error:
            rows.append({"file": name, "error": str(error)})
            continue
        image, what = run.preprocessing.planes(steps[-1].pixels), [step.what for step in steps]
        rows.append({"file": name, "image": image, "preprocessing": ", ".join(what)})
    good = [row for row in rows if "image" in row]
    if good:
        images = torch.from_numpy(np.stack([row["image"] for row in good]))
        for row, answer in zip(good, run.predictions(images).rows(), strict=True):
            row |= dict(zip(COLUMNS[1:5], answer, strict=True))
            row["unsure"] = row["probability"] < threshold
    return rows


def _table(rows: Sequence[Row], names: Sequence[str], word: str) -> str:
    """All rows where they are few; else those that are unsure or bad, and a count of the rest."""
    shown = list(rows)
    if len(rows) > MAX_ROWS:
        shown = [row for row in rows if row.get("unsure", True)][:MAX_ROWS]
    cells = [["file", "class", "probability", "second", "probability", "", "image"]]
    for row in shown:
        if "error" in row:
            cells.append([row["file"], "-", "", "", "", "", "not read"])
            continue
        shares = (percent(row[key]) for key in ("probability", "second_probability"))
        first, second = zip((row["class"], row["second_class"]), shares, strict=True)
        mark = word if row["unsure"] else ""
        cells.append([row["file"], *first, *second, mark, row["preprocessing"]])
    lines = [table(cells)] if shown else []
    lines += [row["error"] for row in shown if "error" in row]
    counts = Counter(row["class"] for row in rows if "class" in row)
    by_class = "   ".join(f"{name}: {counts[name]:,}" for name in names if counts[name])
    lines.append(f"{_number_of_images(counts.total())}   {by_class}")
    return "\n".join(lines)


def _number_of_images(number: int) -> str:
    return f"{number:,} image{'s' * (number != 1)}"


def _contact_sheet(rows: Sequence[Row], title: str) -> Figure:
    """All images, or those that the network is least sure of."""
    least_sure = np.argsort([row["probability"] for row in rows], kind="stable")[:MAX_TILES]
    shown = [rows[i] for i in sorted(least_sure)]
    which = "" if len(shown) == len(rows) else f", the {len(shown)} least sure are shown"
    labels = [
        f"{short_name(row['class'])}{' ?' * row['unsure']}\n{percent(row['probability'], digits=0)}"
        for row in shown
    ]
    return contact_sheet_figure(
        np.stack([row["image"] for row in shown]),
        labels,
        np.array([row["unsure"] for row in shown]),
        title=f"{_number_of_images(len(rows))}{which}; {title}",
    )


def explained(run: TrainedRun, row: Row, *, invert: bool | None = None) -> Figure:
    """The picture of one prediction."""
    steps = run.preprocessing.read(row["file"], invert=invert)
    drawn = [(step.what, step.pixels) for step in steps]
    image = torch.from_numpy(row["image"])[None]
    for layer in run.network.children():
        if isinstance(layer, Crop):
            what = f"pixels {layer.first} to {layer.last},\nenlarged by the network"
            drawn.append((what, layer(image)[0, 0].numpy()))
    maps, logits = feature_maps(run.network, image)
    return prediction_figure(
        drawn,
        run.class_names,
        logits.softmax(1)[0].numpy(),
        {layer: values[0].numpy() for layer, values in maps.items()},
        attribution(run.network, image, int(logits.argmax())),
        title=f"{Path(row['file']).name}: {row['class']}, {percent(row['probability'])}",
    )


def attribution(network: nn.Module, image: Tensor, target: int) -> NDArray[np.float32]:
    """(H, W) what each pixel of an image (1, C, H, W) adds to the logit of a class.

    Integrated gradients from a black image (Sundararajan, Taly and Yan, ICML 2017), by Captum.
    """
    from captum.attr import IntegratedGradients

    with torch.enable_grad():
        values = IntegratedGradients(network).attribute(image, target=target, n_steps=32)
    return values[0].sum(0).detach().numpy().astype(np.float32)


def _decided_elsewhere(run: TrainedRun, reject: float, data_dir: str) -> Iterator[str]:
    """How many test images of each data set at hand the network decides, its own ones first."""
    if run.preprocessing.size != 28:
        return
    own = str(run.config["data"].get("dataset")).removesuffix("5k")
    for name in dict.fromkeys((own, "MNIST", "KMNIST", "FashionMNIST")):
        is_known = name in mnist_files.MIRRORS
        if not is_known or mnist_files.missing(data_dir, dataset=name, parts=["test"]):
            continue
        images, labels = mnist_files.read(data_dir, dataset=name, part="test")
        tensor = scale(torch.from_numpy(images.copy())[:, None])
        guess = run.predictions(tensor.expand(-1, run.preprocessing.channels, -1, -1))
        decided = guess.confidences >= reject
        count = f"{decided.sum():,} of {len(labels):,} test images of {name} are decided"
        if name == own:
            right = float((guess.ranks[decided, 0] == labels[decided]).mean())
            yield f"{count} at {reject:g}, {percent(right, digits=2)} of them correctly"
        else:
            yield f"{count} at {reject:g}, though none belongs to a class of this network"

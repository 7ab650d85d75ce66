"""What is on a person's own images: a table, a CSV file and a contact sheet of a run's answers."""

import csv
import importlib.util
import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
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
from simplecnn.figures.style import drawing
from simplecnn.inference.image_files import STDIN
from simplecnn.inference.preprocessing import Pixels
from simplecnn.inference.trained_run import TrainedRun, percent
from simplecnn.models.activations import feature_maps
from simplecnn.models.simple_cnn import Crop
from simplecnn.table import table

log = logging.getLogger(__name__)

UNSURE = 0.9  # probability below which an answer is marked, where `reject` says nothing
MAX_ROWS = 40  # of the table on the screen; the CSV file has all
MAX_TILES = 192  # of the contact sheet
COLUMNS = ("file", "class", "probability", "second_class", "second_probability", "decided",
           "preprocessing", "error")  # fmt: skip


Row = dict[str, Any]  # of a file, by column; one that cannot be read has only its name and error


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

    Raises InputError where no file can be read: nothing is written then. Raises RunError, at the
    end, where some cannot.
    """
    if explain and importlib.util.find_spec("captum") is None:
        raise InputError(
            "explain=true needs what a plain installation leaves out. Type uv sync --extra "
            "explain, or pip install 'simplecnn[explain]'."
        )
    if explain and STDIN in files:
        raise InputError("explain=true reads an image twice: write that of image=- into a file.")
    images, rows = classify(run, files, invert=invert)
    bad = [row for row in rows if "error" in row]
    if not images:
        raise InputError(*(row["error"] for row in bad))
    threshold = UNSURE if reject is None else reject
    word = "unsure" if reject is None else "undecided"
    unsure = {row["file"] for row in rows if row.get("probability", 1) < threshold}
    for row in rows:
        if "error" not in row:
            row["decided"] = "no" if reject is not None and row["file"] in unsure else "yes"
    folder = Path(to or run.path / "predictions" / time.strftime("%Y-%m-%d_%H-%M-%S"))
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        mistake = f"{short(folder)} exists already: name another folder with to=…"
        raise InputError(mistake) from None
    except OSError as error:
        mistake = f"{short(folder)} cannot be written: {error.strerror}."
        raise InputError(f"{mistake} Name another folder with to=…") from None
    with (folder / "predictions.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.6f}" if isinstance(v, float) else v for k, v in row.items()})
    good = [row for row in rows if "error" not in row]
    with drawing(ink=run.preprocessing.box is not None):
        title = f"{len(unsure):,} {word} (orange): below {threshold:g}"
        _contact_sheet(good, images, unsure, title).savefig(folder / "contact_sheet.png")
        if explain:
            (folder / "explained").mkdir()
            for i, row in enumerate(tqdm(good, desc="explaining", leave=False, disable=None)):
                name = f"{i:0{len(str(len(good)))}d}_{Path(row['file']).stem[:60]}.png"
                picture = explained(run, row["file"], images[row["file"]], invert=invert)
                picture.savefig(folder / "explained" / name)
    log.info("%s", _table(rows, run.class_names, unsure, word))
    if unsure:
        log.info("%s %s: below %g", f"{len(unsure):,}", word, threshold)
    if reject is not None and data_dir:
        for line in _decided_elsewhere(run, reject, data_dir):
            log.info("%s", line)
    log.info("\nwritten      %s", short(folder))
    if bad:
        raise RunError(f"{len(bad):,} of {len(rows):,} files could not be read: see above.")
    return folder


def classify(
    run: TrainedRun, files: Sequence[str], *, invert: bool | None = None
) -> tuple[dict[str, Pixels], list[Row]]:
    """What the network sees of each file that can be read, (C, H, W), and a row for each file."""
    images, rows = {}, []
    for name in tqdm(files, unit="image", leave=False, disable=None):
        try:
            steps = run.preprocessing.read(name, invert=invert)
        except InputError as error:
            rows.append({"file": name, "error": str(error)})
            continue
        images[name] = run.preprocessing.planes(steps[-1].pixels)
        rows.append({"file": name, "preprocessing": ", ".join(step.what for step in steps)})
    if images:
        guesses = run.predictions(torch.from_numpy(np.stack([*images.values()]))).rows()
        for row in rows:
            if "error" not in row:
                row |= dict(zip(COLUMNS[1:5], next(guesses), strict=True))
    return images, rows


def _table(rows: Sequence[Row], names: Sequence[str], unsure: Set[str], word: str) -> str:
    """All rows where they are few; else those that are unsure or bad, and a count of the rest."""
    shown = list(rows)
    if len(rows) > MAX_ROWS:
        shown = [row for row in rows if "error" in row or row["file"] in unsure][:MAX_ROWS]
    cells = [["file", "class", "probability", "then", "", "", "image"]]
    for row in shown:
        if "error" in row:
            cells.append([row["file"], "-", "", "", "", "", "not read"])
            continue
        cells.append([
            row["file"], row["class"], percent(row["probability"]), row["second_class"],
            percent(row["second_probability"]), word if row["file"] in unsure else "",
            row["preprocessing"],
        ])  # fmt: skip
    lines = [table(cells)] if shown else []
    lines += [row["error"] for row in shown if "error" in row]
    counts = Counter(row["class"] for row in rows if "class" in row)
    by_class = "   ".join(f"{name}: {counts[name]:,}" for name in names if counts[name])
    lines.append(f"{_number_of_images(counts.total())}   {by_class}")
    return "\n".join(lines)


def _number_of_images(number: int) -> str:
    return f"{number:,} image{'s' * (number != 1)}"


def _contact_sheet(
    rows: Sequence[Row], images: Mapping[str, Pixels], unsure: Set[str], title: str
) -> Figure:
    """All images, or those that the network is least sure of."""
    least_sure = np.argsort([row["probability"] for row in rows], kind="stable")[:MAX_TILES]
    shown = [rows[i] for i in sorted(least_sure)]
    which = "" if len(shown) == len(rows) else f", the {len(shown)} least sure are shown"
    labels = [f"{row['class']}{' ?' * (row['file'] in unsure)}\n"
              f"{percent(row['probability'], digits=0)}" for row in shown]  # fmt: skip
    return contact_sheet_figure(
        np.stack([images[row["file"]] for row in shown]),
        labels,
        np.array([row["file"] in unsure for row in shown]),
        title=f"{_number_of_images(len(rows))}{which}; {title}",
    )


def explained(run: TrainedRun, name: str, seen: Pixels, *, invert: bool | None = None) -> Figure:
    """The picture of one prediction: of the file `name`, of which the network sees `seen`."""
    drawn = [(step.what, step.pixels) for step in run.preprocessing.read(name, invert=invert)]
    image = torch.from_numpy(seen)[None]
    for layer in run.network.children():
        if isinstance(layer, Crop):
            what = f"pixels {layer.first} to {layer.last},\nenlarged by the network"
            drawn.append((what, layer(image)[0, 0].numpy()))
    maps, logits = feature_maps(run.network, image)
    shares, best = logits.softmax(1)[0].numpy(), int(logits.argmax())
    return prediction_figure(
        drawn,
        run.class_names,
        shares,
        {layer: values[0].numpy() for layer, values in maps.items()},
        attribution(run.network, image, best),
        title=f"{Path(name).name}: {run.class_names[best]}, {percent(shares[best])}",
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

"""What is on a person's own images: a table, a CSV file and a contact sheet of a run's answers."""

import csv
import importlib.util
import io
import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

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
from simplecnn.inference.image_files import STDIN, read_image
from simplecnn.inference.preprocessing import Pixels
from simplecnn.inference.trained_run import Predictions, TrainedRun, percent
from simplecnn.models.activations import feature_maps
from simplecnn.models.simple_cnn import Crop
from simplecnn.table import table

log = logging.getLogger(__name__)

UNSURE = 0.9  # probability below which an answer is marked, where `reject` says nothing
MAX_ROWS = 40  # of the table on the screen; the CSV file has all
MAX_TILES = 192  # of the contact sheet
TOGETHER = 250  # images that are held, and classified, together
COLUMNS = ("file", "class", "probability", "second_class", "second_probability", "decided",
           "preprocessing", "error")  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One file: what was done to it, what the network sees and answers, or what is wrong."""

    file: str
    what: str = ""
    error: str = ""
    image: Pixels | None = None  # (C, H, W)
    shares: NDArray[np.float32] | None = None  # (classes,)


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
    rows = list(classify(run, files, invert=invert))
    bad = [row for row in rows if row.error]
    if len(bad) == len(rows):
        raise InputError(*(row.error for row in bad))
    threshold = UNSURE if reject is None else reject
    target = Path(to or run.path / "predictions" / time.strftime("%Y-%m-%d_%H-%M-%S"))
    is_drawing = run.preprocessing.box is not None
    with new_folder(target) as folder, drawing(ink=is_drawing):
        (folder / "predictions.csv").write_text(
            _csv(rows, run.class_names, reject), encoding="utf-8", newline=""
        )
        sheet = _contact_sheet(rows, run.class_names, threshold, rejects=reject is not None)
        sheet.savefig(folder / "contact_sheet.png")
        if explain:
            (folder / "explained").mkdir()
            good = [row for row in rows if not row.error]
            for i, row in enumerate(tqdm(good, desc="explaining", leave=False, disable=None)):
                name = f"{i:0{len(str(len(good)))}d}_{Path(row.file).stem[:60]}.png"
                explained(run, row, invert=invert).savefig(folder / "explained" / name)
    log.info("%s", _table(rows, run.class_names, threshold, rejects=reject is not None))
    if reject is not None and data_dir:
        for line in _decided_elsewhere(run, reject, data_dir):
            log.info("%s", line)
    log.info("\nwritten      %s", short(target))
    if bad:
        raise RunError(f"{len(bad):,} of {len(rows):,} files could not be read: see above.")
    return target


def classify(run: TrainedRun, files: Sequence[str], *, invert: bool | None = None) -> Iterator[Row]:
    """A row for each file, in their order; a bar shows on a terminal how far it is."""
    with tqdm(total=len(files), unit="image", leave=False, disable=None) as bar:
        for start in range(0, len(files), TOGETHER):
            rows = []
            for name in files[start : start + TOGETHER]:
                rows.append(_read(run, name, invert))
                bar.update()
            images = [row.image for row in rows if row.image is not None]
            shares = iter(run.probabilities(torch.from_numpy(np.stack(images))) if images else ())
            yield from (row if row.error else replace(row, shares=next(shares)) for row in rows)


def _read(run: TrainedRun, name: str, invert: bool | None) -> Row:
    try:
        image = read_image(name, color=run.preprocessing.color)
        steps = run.preprocessing.steps(image, invert=invert)
    except InputError as error:
        return Row(name, error=str(error).replace("image:", f"image={name}:"))
    what = ", ".join(step.what for step in steps)
    return Row(name, what, image=run.preprocessing.planes(steps[-1].pixels))


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder that gets its name when the block ends well, else vanishes. Raises InputError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    if path.exists():
        raise InputError(f"{short(path)} exists already: name another folder with to=…")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        yield temporary
        temporary.rename(path)
    except OSError as error:
        raise InputError(
            f"{short(path)} cannot be written: {error.strerror}. Name another folder with to=…"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _csv(rows: Sequence[Row], names: Sequence[str], reject: float | None) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for row in rows:
        if row.shares is None:
            writer.writerow([row.file, "", "", "", "", "", "", row.error])
            continue
        first, second = np.argsort(-row.shares, kind="stable")[:2]
        decided = "no" if reject is not None and row.shares[first] < reject else "yes"
        shares = (f"{row.shares[i]:.6f}" for i in (first, second))
        one, two = shares
        writer.writerow([row.file, names[first], one, names[second], two, decided, row.what, ""])
    return text.getvalue()


def _table(rows: Sequence[Row], names: Sequence[str], threshold: float, *, rejects: bool) -> str:
    """All rows where they are few; else those that are unsure or bad, and a count of the rest."""
    word = "undecided" if rejects else "unsure"
    unsure = {row.file for row in rows if row.shares is not None and row.shares.max() < threshold}
    shown = list(rows)
    if len(rows) > MAX_ROWS:
        shown = [row for row in rows if row.error or row.file in unsure][:MAX_ROWS]
    cells = [["file", "class", "probability", "then", "", "", "image"]]
    for row in shown:
        if row.shares is None:
            cells.append([row.file, "-", "", "", "", "", "not read"])
            continue
        first, second = np.argsort(-row.shares, kind="stable")[:2]
        cells.append([
            row.file, names[first], percent(row.shares[first]), names[second],
            percent(row.shares[second]), word if row.file in unsure else "", row.what,
        ])  # fmt: skip
    good = [row.shares for row in rows if row.shares is not None]
    counts = Counter(names[int(shares.argmax())] for shares in good)
    summary = "   ".join(f"{name}: {counts[name]:,}" for name in names if counts[name])
    lines = [table(cells)] if len(cells) > 1 else []
    lines += [row.error for row in shown if row.error]
    lines.append(f"{len(good):,} image{'s' * (len(good) != 1)}   {summary}")
    if unsure:
        lines.append(f"{len(unsure):,} {word}: below {threshold:g}")
    return "\n".join(lines)


def _contact_sheet(
    rows: Sequence[Row], names: Sequence[str], threshold: float, *, rejects: bool
) -> Figure:
    """All images, or those that the network is least sure of."""
    good = [row for row in rows if row.shares is not None and row.image is not None]
    best = np.array([row.shares.max() for row in good])  # type: ignore[union-attr]
    chosen = np.sort(np.argsort(best, kind="stable")[:MAX_TILES])
    unsure = best < threshold
    word = "not decided" if rejects else "unsure"
    which = "" if len(chosen) == len(good) else f", the {len(chosen)} least sure are shown"
    images_of = f"{len(good):,} image{'s' * (len(good) != 1)}{which}"
    title = f"{images_of}; {unsure.sum():,} {word} (orange): below {threshold:g}"
    images, labels = [], []
    for row in (good[i] for i in chosen):
        assert row.image is not None and row.shares is not None
        images.append(row.image)
        name = names[int(row.shares.argmax())]
        labels.append(f"{name}{' ?' if row.shares.max() < threshold else ''}\n"
                      f"{percent(row.shares.max(), digits=0)}")  # fmt: skip
    return contact_sheet_figure(np.stack(images), labels, unsure[chosen], title=title)


def explained(run: TrainedRun, row: Row, *, invert: bool | None = None) -> Figure:
    """The picture of one prediction."""
    assert row.image is not None and row.shares is not None
    steps = run.preprocessing.steps(
        read_image(row.file, color=run.preprocessing.color), invert=invert
    )
    image = torch.from_numpy(row.image)[None]
    drawn = [(step.what, step.pixels) for step in steps]
    for layer in run.network.children():
        if isinstance(layer, Crop):
            drawn.append((f"pixels {layer.first} to {layer.last},\nenlarged by the network",
                          layer(image)[0, 0].numpy()))  # fmt: skip
    maps, _ = feature_maps(run.network, image)
    best = int(row.shares.argmax())
    name = run.class_names[best]
    return prediction_figure(
        drawn,
        run.class_names,
        row.shares,
        {layer: values[0].numpy() for layer, values in maps.items()},
        attribution(run.network, image, best),
        title=f"{Path(row.file).name}: {name}, {percent(row.shares[best])}",
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
    own = str(run.config["data"].get("dataset")).removesuffix("5k")
    shape = (run.preprocessing.channels, run.preprocessing.size)
    for name in dict.fromkeys((own, "MNIST", "KMNIST", "FashionMNIST")):
        if shape[1] != 28 or name not in mnist_files.MIRRORS:
            continue
        if mnist_files.missing(data_dir, dataset=name, parts=["test"]):
            continue
        images, labels = mnist_files.read(data_dir, dataset=name, part="test")
        tensor = scale(torch.from_numpy(images.copy())[:, None]).expand(-1, shape[0], -1, -1)
        guess = Predictions(run.probabilities(tensor), run.class_names)
        decided = guess.confidences >= reject
        line = (
            f"{decided.sum():,} of {len(labels):,} test images of {name} are decided at {reject:g}"
        )
        if name == own:
            right = float((guess.ranks[decided, 0] == labels[decided]).mean())
            yield f"{line}, {percent(right, digits=2)} of them correctly"
        else:
            yield f"{line}, though none belongs to a class of this network"

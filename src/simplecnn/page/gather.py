"""What a page shows of one run or of two: read from their directories, as plain JSON."""

import base64
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule
from torch import Tensor, nn

from simplecnn.checkpoint_file import read_checkpoint
from simplecnn.config.build import build, first_line
from simplecnn.config.composition import compose_config
from simplecnn.config.mistakes import checked_parts
from simplecnn.convolution.kernels import best_matches
from simplecnn.errors import InputError, short
from simplecnn.figures.style import COUNT, POSITIVE, SIGNED
from simplecnn.inference.model_card import flat
from simplecnn.inference.networks import load_network, network_config
from simplecnn.inference.preprocessing import Preprocessing
from simplecnn.models.activations import convolutions
from simplecnn.page.images import MAX_BYTES, MAX_CLASSIFIED, MAX_SHOWN, Images, choose, read_images
from simplecnn.page.network import encode, network_data, numbers
from simplecnn.run_directory import RunDirectory

log = logging.getLogger(__name__)
MAX_POINTS = 1_000  # of a curve
MAX_HISTORY = 150_000  # weights of the filter history
MAX_PICTURES = 700_000  # bytes of all pictures
MAX_ANSWERS = 12  # classes whose probabilities are written
# Pictures whose subject the page shows in a better way.
SHOWN = ("curves", "health", "mistakes_", "confusion_", "filter_history_")
PALETTES = {"signed": SIGNED, "positive": matplotlib.colormaps[POSITIVE], "count": COUNT}
NO_CHECKPOINT = "This run wrote no checkpoint: there is no network to compute with."
Data = dict[str, Any]


def gather(
    runs: Sequence[RunDirectory],
    *,
    checkpoint: str | None = None,
    datamodule: LightningDataModule | None = None,
    own_images: Sequence[str] = (),
) -> Data:
    """Everything on the page of one run, or of two that are compared on the first one's images.

    checkpoint: best, last or a file; None: the best, or the last where none was chosen.
    datamodule: that of the run; None: it is built from the configuration.
    own_images: files that are put among the images, as `predict` reads them. Raises InputError.
    """
    parts = [_Part(run, checkpoint) for run in runs]
    names = runs[0].record.get("class_names")
    for run in runs[1:]:
        if names and run.record.get("class_names") not in (None, names):
            raise InputError(
                f"{short(run.path)} has other classes than {short(runs[0].path)}: two runs are "
                f"compared on the same images."
            )
    number = len(names or ()) or next((n for part in parts if (n := part.num_classes())), None)
    try:
        images = read_images(datamodule or _datamodule(runs[0]), number)
    except Exception as error:  # of someone's data module, or of files that are not here
        log.info("The page shows no images: %s", first_line(error))
        images = None
    preprocessing = parts[0].preprocessing
    shape = images.pixels.shape[1:] if images else parts[0].shape
    shown = [part.data(shape, "AB"[i]) for i, part in enumerate(parts)]
    return {
        "runs": shown,
        "images": _images(parts, images, own_images),
        "classes": images.classes if images else names or [str(i) for i in range(number or 10)],
        "shape": list(shape),
        "box": preprocessing.box,
        "fit": preprocessing.fit,
        "palettes": {
            name: encode((colors(np.linspace(0, 1, 256))[:, :3] * 255).round().astype(np.uint8))
            for name, colors in PALETTES.items()
        },
    }


def _datamodule(run: RunDirectory) -> LightningDataModule:
    """The data module of a run, set up from files that are here: a page downloads nothing."""
    module: LightningDataModule = build(checked_parts(run.config(), short(run.path))["data"])
    if hasattr(module, "download"):
        module.download = False
    module.setup("fit")
    return module


class _Part:
    """One run of a page, and the network in one of its checkpoints, if it has any."""

    def __init__(self, run: RunDirectory, checkpoint: str | None) -> None:
        self.run, self.config = run, run.config()
        self.network: nn.Module | None = None
        self.checkpoint: str | None = None
        self.kept: dict[str, Tensor] = {}  # the answers of the callback Mistakes
        network: Mapping[str, Any] = {}  # its configuration
        if checkpoint is not None or any(run.path.glob("checkpoints/*.ckpt")):
            path = run.checkpoint(checkpoint) if checkpoint else run.any_checkpoint()
            content = read_checkpoint(path)
            self.network, network = load_network(path), network_config(content, path) or {}
            kept = content.get("callbacks", {}).get("Mistakes", {}).get("answers", {})
            # Not of weights before these: a checkpoint may follow an epoch without validation. Runs
            # of earlier versions kept other things.
            if int(kept.get("step", -1)) == int(content["global_step"]):
                self.kept = kept
            # LastCheckpoint writes between two epochs, ModelCheckpoint within one.
            epoch = int(content["epoch"]) + (path.name == "best.ckpt")
            self.checkpoint = f"{path.name}, after epoch {epoch}"
        self.preprocessing = Preprocessing.of(self.config.get("data") or {}, network)
        self.shape = (self.preprocessing.channels, *2 * [self.preprocessing.size])

    def num_classes(self, shape: Sequence[int] | None = None) -> int | None:
        """How many classes the network tells apart; None where it does not take such images."""
        try:
            return int(self.network(torch.zeros(1, *(shape or self.shape))).shape[1])  # type: ignore[misc]
        except Exception:  # of someone's network, or there is none
            return None

    def data(self, shape: Sequence[int], letter: str) -> Data:
        """What is shown of this run beside images of a shape."""
        record, run, folder = self.run.record, self.run, self.run.path / "images"
        entries = ("status", "error", "ended", "command", "seed", "metrics", "seconds",
                   "num_epochs", "num_parameters", "device")  # fmt: skip
        if self.network is None:
            network: Data = {"sentence": NO_CHECKPOINT}
        elif self.shape != tuple(shape) and self.num_classes(shape) is None:
            sizes = [" x ".join(map(str, sides)) for sides in (self.shape, shape)]
            network = {"sentence": f"{letter} takes {sizes[0]} images, these are {sizes[1]}."}
        else:
            network = network_data(self.network, shape)
        return {
            **{key: record.get(key) for key in entries},
            "name": run.path.name,
            "path": short(run.path),
            "title": self.config.get("name") or run.path.name,
            "config": list(config_rows(self.config)),
            "checkpoint": self.checkpoint,
            "curves": _curves(folder),
            "health": _health(folder, self.network),
            "filters": _filters(folder, self.network),
            "network": network,
            "pictures": list(_pictures(folder, is_chain="layers" in network)),
        }

    def predicted(self, images: Images) -> NDArray[np.int64] | None:
        """The class of the first M images, by the answers in the checkpoint, else computed."""
        kept = self.kept
        if kept and len(kept["wrong"]) >= len(images.labels):
            classes, wrong = (
                kept[key].numpy()[: len(images.labels)] for key in ("predictions", "wrong")
            )
            of_these = ((classes != images.labels) == wrong).all()
            if of_these and classes.max(initial=0) < len(images.classes):
                return classes.astype(np.int64)
        answers = self.answers(images, images.pixels[:MAX_CLASSIFIED])
        return None if answers is None else answers.argmax(1)

    def answers(self, images: Images, pixels: NDArray[np.uint8]) -> NDArray[Any] | None:
        """Probabilities (N, classes); None from a network of other images or other classes."""
        if self.network is None or self.num_classes(pixels.shape[1:]) != len(images.classes):
            return None
        with torch.no_grad():
            parts = images.tensor(pixels).split(250)
            return torch.cat([self.network(part).float().softmax(1) for part in parts]).numpy()


def _images(parts: Sequence[_Part], images: Images | None, files: Sequence[str]) -> Data | None:
    if images is None:
        if files:
            raise InputError("image: the data of this run give no images to put it among.")
        return None
    channels, height, width = images.pixels.shape[1:]
    if files and height != width:
        raise InputError("image: this run's images are no squares, as a file is made one.")
    prepare = replace(parts[0].preprocessing, channels=channels, size=height)
    own = [prepare.planes(prepare.read(file)[-1].pixels) for file in files]
    predicted = [part.predicted(images) for part in parts]
    known = [p for p in predicted if p is not None]
    num_shown = min(MAX_SHOWN, MAX_BYTES // (channels * height * width) + 1)
    places = choose(images, known, num_shown)
    num_probes = min(len(np.unique(images.labels)), 20)
    items: list[Data] = [{"kind": "own", "name": Path(file).name} for file in files]
    for i, place in enumerate(places):
        kind = "probe" if i < num_probes else "example"
        classes = [None if p is None or place >= len(p) else int(p[place]) for p in predicted]
        items.append({"kind": kind, "label": int(images.labels[place]), "predicted": classes})
    pixels = np.stack([*(images.encoded(torch.from_numpy(image)) for image in own),
                       *images.pixels[places]])  # fmt: skip
    for run, part in enumerate(parts):
        answers = part.answers(images, pixels)
        for item, shares in zip(items, [] if answers is None else answers, strict=False):
            best = np.argsort(-shares, kind="stable")[:MAX_ANSWERS]
            pairs = [[int(c), round(float(shares[c]), 4)] for c in best]
            item.setdefault("answers", [None] * len(parts))[run] = pairs
            if item["kind"] != "own":
                item["predicted"][run] = pairs[0][0]
    n = len(images.classes)
    counts = [
        None if p is None else np.bincount(images.labels[: len(p)] * n + p, minlength=n * n)
        for p in predicted
    ]
    return {
        "split": {"val": "validation", "test": "test", "train": "training"}[images.split],
        "low": images.low,
        "high": images.high,
        "pixels": encode(pixels),
        "items": items,
        "number": min(map(len, known), default=0),
        "confusion": [None if c is None else c.reshape(n, n).tolist() for c in counts],
    }


# ------------------------------------------------------------------------------ of a run's files


@cache
def _defaults() -> dict[str, str]:
    """What a run is without a word typed; empty where it cannot be composed."""
    try:
        return dict(flat(compose_config("train")))
    except Exception:
        return {}


def config_rows(config: Mapping[str, Any]) -> Iterator[tuple[str, str, str | None]]:
    """Key, value, and the default where it is another ("" where there is none); those first."""
    defaults = _defaults()
    rows = []
    for name, value in flat(config):
        # Folders of one machine say nothing about a run.
        if not name.startswith("paths.") and not name.endswith(("dirpath", "_dir")):
            same = not defaults or defaults.get(name) == value
            rows.append((name, value, None if same else defaults.get(name, "")))
    yield from sorted(rows, key=lambda row: row[2] is None)


def _arrays(path: Path) -> dict[str, NDArray]:
    """What an .npz file holds; empty where there is none."""
    if not path.is_file():
        return {}
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def _curves(folder: Path) -> Data | None:
    """Points by epoch of every metric, and of single steps in between."""
    epochs, steps = _arrays(folder / "curves_epochs.npz"), _arrays(folder / "curves_steps.npz")
    if not epochs or not len(epochs["step"]):
        return None
    per_epoch = max(1.0, float(epochs["step"][-1] / max(1, epochs["epoch"][-1])))
    metrics = {
        name: _points(epochs["epoch"], values)
        for name, values in epochs.items()
        if name not in ("step", "epoch", "seconds")
    }
    within = {n: _points(steps["step"] / per_epoch, steps[n]) for n in ("loss", "lr") if n in steps}
    return {"epochs": metrics, "steps": within, "steps_per_epoch": per_epoch}


def _points(x: NDArray, y: NDArray) -> list[list[float]]:
    """Pairs of finite numbers, thinned to MAX_POINTS."""
    known = np.flatnonzero(np.isfinite(y))
    if len(known) > MAX_POINTS:
        known = known[np.linspace(0, len(known) - 1, MAX_POINTS).astype(int)]
    return [
        [round(float(a), 4), float(f"{b:.5g}")] for a, b in zip(x[known], y[known], strict=True)
    ]


def _health(folder: Path, network: nn.Module | None) -> Data | None:
    """Points by step of what was measured of each layer."""
    activity = _arrays(folder / "health_activity.npz")
    gradients = _arrays(folder / "health_gradients.npz")
    if not gradients or network is None:
        return None
    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    names = [name for name, module in network.named_modules() if isinstance(module, kinds)]
    quantities: Data = {}
    for source in (activity, gradients):
        for quantity, values in source.items():
            if values.ndim == 2 and values.shape[1] == len(names):
                quantities[quantity] = [_points(source["step"], column) for column in values.T]
    return {"layers": names, "quantities": quantities} if quantities else None


def _filters(folder: Path, network: nn.Module | None) -> Data | None:
    """The first convolution at every moment that was kept, else as it is now."""
    first = next(iter(convolutions(network).items()), None) if network else None
    paths = sorted(folder.glob("filter_history_*.npz"))
    paths.sort(key=lambda path: first is None or path.stem != f"filter_history_{first[0]}")
    if paths:
        layer, arrays = paths[0].stem.removeprefix("filter_history_"), _arrays(paths[0])
        weights = arrays["weights"]
        ends = zip(arrays["step"], arrays["epoch"], strict=True)
        moments = [_moment(int(step), int(epoch)) for step, epoch in ends]
    elif first is not None:
        layer, weights, moments = first[0], first[1].weight.float().numpy()[None], ["at the end"]
    else:
        return None
    max_moments = max(2, MAX_HISTORY // max(1, weights[0].size))
    if len(weights) > max_moments:
        kept = np.unique(np.linspace(0, len(weights) - 1, max_moments).astype(int))
        weights, moments = weights[kept], [moments[i] for i in kept]
    matches = [[m and [m.name, round(m.cosine, 2)] for m in best_matches(w)] for w in weights]
    return {
        "layer": layer,
        **numbers(weights, is_short=True),
        "moments": moments,
        "matches": matches,
    }


def _moment(step: int, epoch: int) -> str:
    if step == 0:
        return "before the first step"
    return f"after step {step:,}" if epoch < 0 else f"after epoch {epoch}, step {step:,}"


def _pictures(folder: Path, *, is_chain: bool) -> Iterator[Data]:
    """The newest of each picture, as bytes as long as they fit; what the page draws left out."""
    newest: dict[str, Path] = {}
    for path in sorted(folder.glob("*.png")):
        newest[path.stem.partition("_epoch=")[0]] = path
    num_left = MAX_PICTURES
    for name, path in newest.items():
        if name.startswith((*SHOWN, *(("maps_",) if is_chain else ()))):
            continue
        content = path.read_bytes()
        num_left -= len(content)
        width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
        source = base64.b64encode(content).decode() if num_left >= 0 else None
        yield {"name": path.stem, "width": width, "height": height, "png": source}

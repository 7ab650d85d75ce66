"""What a page shows of one run or of two: read from their directories, as plain JSON."""

import base64
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule
from torch import nn

from simplecnn.checkpoint_file import read_checkpoint
from simplecnn.config.build import build
from simplecnn.config.composition import compose_config
from simplecnn.config.mistakes import checked_parts
from simplecnn.convolution.kernels import best_matches
from simplecnn.errors import InputError, short
from simplecnn.figures.style import COUNT, POSITIVE, SIGNED
from simplecnn.inference.image_files import read_image
from simplecnn.inference.networks import load_network, network_config
from simplecnn.inference.preprocessing import Preprocessing
from simplecnn.page.images import (
    MAX_BYTES,
    MAX_CLASSIFIED,
    MAX_SHOWN,
    Images,
    choose,
    probabilities,
    read_images,
)
from simplecnn.page.network import NoChain, chain
from simplecnn.run_directory import RunDirectory

log = logging.getLogger(__name__)
MAX_WEIGHTS = 5_000_000  # bytes of float32: a network with more is left out
MAX_FLOAT32 = 1_000_000  # bytes: weights of more are rounded to float16
MAX_POINTS = 1_000  # of a curve
MAX_HISTORY = 150_000  # weights of the filter history
MAX_PICTURES = 700_000  # bytes of all pictures
MAX_ANSWERS = 12  # classes whose probabilities are written, where the page cannot compute them
# Pictures whose subject the page shows in a better way.
SHOWN = ("curves", "health", "mistakes_", "confusion_", "filter_history_")
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
    preprocessing = parts[0].preprocessing
    names = runs[0].record.get("class_names")
    number = len(names or ()) or next((p.num_classes for p in parts if p.num_classes), None)
    try:
        module = datamodule or _datamodule(runs[0])
        images = read_images(module, number) if module else None
    except Exception as error:  # of someone's data module, or of files that are not here
        log.info("The page shows no images: %s", str(error).splitlines()[0])
        images = None
    size = preprocessing.size
    shape = images.pixels.shape[1:] if images else (preprocessing.channels, size, size)
    shown = [part.data(shape, "AB"[i]) for i, part in enumerate(parts)]
    data = {
        "runs": shown,
        "images": _images(parts, [run["network"] for run in shown], images, own_images),
        "classes": images.classes if images else names or [str(i) for i in range(number or 10)],
        "shape": list(shape),
        "box": preprocessing.box,
        "fit": preprocessing.fit,
        "palettes": {name: _encode(_palette(name)) for name in ("signed", "positive", "count")},
    }
    return data


def _datamodule(run: RunDirectory) -> LightningDataModule:
    """The data module of a run, set up from files that are here: a page downloads nothing."""
    module: LightningDataModule = build(checked_parts(run.config(), short(run.path))["data"])
    if hasattr(module, "download"):
        module.download = False
    module.setup("fit")
    return module


class _Part:
    """One run of a page."""

    def __init__(self, run: RunDirectory, checkpoint: str | None) -> None:
        self.run = run
        self.config = run.config()
        self.path: Path | None = None
        self.network: nn.Module | None = None
        self.step = -1  # of the checkpoint
        self.epoch = 0
        network: Mapping[str, Any] = {}  # its configuration
        if checkpoint is not None:
            self.path = run.checkpoint(checkpoint)
        elif any((run.path / "checkpoints").glob("*.ckpt")):
            self.path = run.any_checkpoint()
        if self.path is not None:
            content = read_checkpoint(self.path)
            self.step, self.epoch = int(content["global_step"]), int(content["epoch"])
            self.network = load_network(self.path)
            network = network_config(content, self.path) or {}
        self.preprocessing = Preprocessing.of(self.config.get("data") or {}, network)

    @property
    def num_classes(self) -> int | None:
        """The width of the network's last layer."""
        layers = [m for m in self.network.modules() if isinstance(m, nn.Linear | nn.Conv2d)] if (
            self.network
        ) else []  # fmt: skip
        return int(layers[-1].weight.shape[0]) if layers else None

    def data(self, shape: Sequence[int], letter: str) -> Data:
        """What is shown of this run beside images of a shape."""
        record, run = self.run.record, self.run
        entries = ("status", "error", "ended", "command", "seed", "metrics", "seconds",
                   "num_epochs", "num_parameters", "device")  # fmt: skip
        network: Data = {"sentence": NO_CHECKPOINT}
        if self.network is not None:
            network = network_data(self.network, shape)
            own = (self.preprocessing.channels, *2 * [self.preprocessing.size])
            if own != tuple(shape) and not _takes(self.network, shape):
                sizes = [" x ".join(map(str, sides)) for sides in (own, shape)]
                network = {"sentence": f"{letter} takes {sizes[0]} images, these are {sizes[1]}."}
        # LastCheckpoint writes between two epochs, ModelCheckpoint within one.
        epoch = self.epoch + (self.path is not None and self.path.name == "best.ckpt")
        return {
            **{key: record.get(key) for key in entries},
            "name": run.path.name,
            "path": short(run.path),
            "title": self.config.get("name") or run.path.name,
            "config": list(config_rows(self.config)),
            "checkpoint": f"{self.path.name}, after epoch {epoch}" if self.path else None,
            "curves": _curves(run.path / "images"),
            "health": _health(run.path / "images", self.network),
            "filters": _filters(run.path / "images", self.network),
            "network": network,
            "pictures": list(_pictures(run.path / "images", is_chain="layers" in network)),
        }

    def predicted(self, images: Images) -> NDArray[np.int64] | None:
        """The class of the first M images, by the answers that the run kept, else computed."""
        for path in sorted((self.run.path / "images").glob("mistakes_*_history.npz")):
            with np.load(path) as file:
                at = np.flatnonzero(file["step"] == self.step)
                if len(at) and file["predictions"].shape[1] >= len(images.labels):
                    classes = file["predictions"][at[0]][: len(images.labels)]
                    wrong = file["wrong"][at[0]][: len(images.labels)]
                    of_these = ((classes != images.labels) == (wrong > 0)).all()
                    if of_these and classes.max(initial=0) < len(images.classes):
                        return classes.astype(np.int64)
        answers = self.answers(images, images.pixels[:MAX_CLASSIFIED])
        return None if answers is None else answers.argmax(1)

    def answers(self, images: Images, pixels: NDArray[np.uint8]) -> NDArray[Any] | None:
        """Probabilities (N, classes); None from a network of other images or other classes."""
        if self.network is None:
            return None
        try:
            answers = probabilities(self.network, images.tensor(pixels))
        except Exception:  # of someone's network
            return None
        return answers if answers.shape[1] == len(images.classes) else None


def _takes(network: nn.Module, shape: Sequence[int]) -> bool:
    try:
        network(torch.zeros(1, *shape))
    except Exception:  # of someone's network
        return False
    return True


def network_data(network: nn.Module, shape: Sequence[int]) -> Data:
    """A network of images (C, H, W) as JavaScript reads it, or a sentence on why it cannot."""
    try:
        layers = chain(network, tuple(shape))  # type: ignore[arg-type]
    except NoChain as error:
        return {"sentence": str(error)}
    arrays = [array for layer in layers for array in layer.weights.values()]
    if not all(np.isfinite(array).all() for array in arrays):
        return {"sentence": "Some weights are not finite numbers: there is nothing to compute."}
    num_bytes = sum(array.nbytes for array in arrays)
    if num_bytes > MAX_WEIGHTS:
        return {
            "sentence": f"The weights are {num_bytes / 1e6:.1f} MB: more than "
            f"{MAX_WEIGHTS // 10**6} MB are left out, so that the page stays small."
        }
    offset, described = 0, []
    for layer in layers:
        weights = {}
        for name, array in layer.weights.items():
            weights[name] = {"shape": list(array.shape), "offset": offset}
            offset += array.size
        described.append(
            {"name": layer.name, **layer.settings, "shape": list(layer.shape), "weights": weights}
        )
    flat = np.concatenate([a.ravel() for a in arrays]) if arrays else np.zeros(0)
    flat = flat.astype(np.float32) if num_bytes <= MAX_FLOAT32 else _rounded(flat)
    return {"layers": described, "dtype": str(flat.dtype), "weights": _encode(flat)}


def _rounded(weights: NDArray) -> NDArray:
    """Weights as float16, or as float32 where one is too large for that."""
    largest = np.abs(weights[np.isfinite(weights)]).max(initial=0)
    return weights.astype(np.float16 if largest < np.finfo(np.float16).max else np.float32)


def _images(
    parts: Sequence[_Part], networks: Sequence[Data], images: Images | None, files: Sequence[str]
) -> Data | None:
    if images is None:
        if files:
            raise InputError("image: the data of this run give no images to put it among.")
        return None
    own = [_own(file, images, parts[0].config) for file in files]
    predicted = [part.predicted(images) for part in parts]
    shape = images.pixels.shape[1:]
    shown = min(MAX_SHOWN, MAX_BYTES // int(np.prod(shape)) + 1)
    places = choose(images, [p for p in predicted if p is not None], shown)
    num_probes = min(len(np.unique(images.labels)), 20)
    items: list[Data] = [{"kind": "own", "name": Path(file).name} for file in files]
    for i, place in enumerate(places):
        known = [None if p is None or place >= len(p) else int(p[place]) for p in predicted]
        items.append({"kind": "probe" if i < num_probes else "example", "place": place,
                      "label": int(images.labels[place]), "predicted": known})  # fmt: skip
    pixels = np.stack([*own, *images.pixels[places]])
    for run, (part, network) in enumerate(zip(parts, networks, strict=True)):
        answers = part.answers(images, pixels)
        for item, row in zip(items, [] if answers is None else answers, strict=False):
            if item["kind"] != "own":
                item["predicted"][run] = int(row.argmax())
                item.setdefault("confidence", [None] * len(parts))[run] = round(float(row.max()), 4)
            if "layers" not in network:  # else the page computes them
                best = np.argsort(-row, kind="stable")[:MAX_ANSWERS]
                few = [[int(c), round(float(row[c]), 4)] for c in best]
                item.setdefault("answers", [None] * len(parts))[run] = few
    number = min((len(p) for p in predicted if p is not None), default=0)
    n = len(images.classes)
    counts = [
        None if p is None else np.bincount(images.labels[: len(p)] * n + p, minlength=n * n)
        for p in predicted
    ]
    return {
        "split": {"val": "validation", "test": "test", "train": "training"}[images.split],
        "low": images.low,
        "high": images.high,
        "pixels": _encode(pixels),
        "items": items,
        "number": number,
        "confusion": [None if c is None else c.reshape(n, n).tolist() for c in counts],
    }


def _own(file: str, images: Images, config: Mapping[str, Any]) -> NDArray[np.uint8]:
    """A person's own image as bytes (C, H, W), as `predict` prepares it. Raises InputError."""
    channels, height, width = images.pixels.shape[1:]
    if height != width:
        raise InputError(f"image={file}: this run's images are no squares, as a file is made one.")
    shape = {"in_channels": channels, "image_size": height}
    preprocessing = Preprocessing.of(config["data"], shape)
    try:
        pixels = preprocessing.array(read_image(file, color=preprocessing.color))
    except InputError as error:
        raise InputError(str(error).replace("image:", f"image={file}:")) from None
    return images.encoded(torch.from_numpy(pixels))


# ------------------------------------------------------------------------------ of a run's files


@cache
def _defaults() -> dict[str, Any]:
    """What a run is without a word typed; empty where it cannot be composed."""
    try:
        return dict(_flat(compose_config("train")))
    except Exception:
        return {}


def config_rows(config: Mapping[str, Any]) -> Iterator[tuple[str, str, str | None]]:
    """Key, value, and the default where it is another ("" where there is none); those first."""
    defaults = _defaults()
    rows = []
    for name, value in _flat(config):
        # Folders of one machine say nothing about a run.
        if not name.startswith("paths.") and not name.endswith(("dirpath", "_dir")):
            same = not defaults or defaults.get(name) == value
            rows.append((name, value, None if same else defaults.get(name, "")))
    yield from sorted(rows, key=lambda row: row[2] is None)


def _flat(config: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(config, Mapping) and config:
        for key, value in config.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, config if isinstance(config, str) else json.dumps(config, default=str)


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
    first = next(
        ((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d))
        if network is not None
        else iter(()),
        None,
    )
    paths = sorted(folder.glob("filter_history_*.npz"))
    path = next((p for p in paths if first and p.stem == f"filter_history_{first[0]}"), None)
    path = path or next(iter(paths), None)
    if path is not None:
        arrays = _arrays(path)
        layer, weights = path.stem.removeprefix("filter_history_"), arrays["weights"]
        steps, epochs = arrays["step"], arrays["epoch"]
    elif first is not None:
        layer, weights = first[0], first[1].weight.detach().float().numpy()[None]
        steps, epochs = np.array([0]), np.array([-1])
    else:
        return None
    max_moments = max(2, MAX_HISTORY // max(1, weights[0].size))
    if len(weights) > max_moments:
        kept = np.unique(np.linspace(0, len(weights) - 1, max_moments).astype(int))
        weights, steps, epochs = weights[kept], steps[kept], epochs[kept]
    matches = [[m and [m.name, round(m.cosine, 2)] for m in best_matches(w)] for w in weights]
    weights = _rounded(weights)
    return {
        "layer": layer,
        "shape": list(weights.shape),
        "dtype": str(weights.dtype),
        "weights": _encode(weights),
        "moments": [_moment(int(s), int(e), path) for s, e in zip(steps, epochs, strict=True)],
        "matches": matches,
    }


def _moment(step: int, epoch: int, path: Path | None) -> str:
    if path is None:
        return "at the end"
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


def _palette(name: str) -> NDArray[np.uint8]:
    """256 colors as bytes (256, 3)."""
    import matplotlib

    colors = {"signed": SIGNED, "positive": matplotlib.colormaps[POSITIVE], "count": COUNT}[name]
    return (colors(np.linspace(0, 1, 256))[:, :3] * 255).round().astype(np.uint8)


def _encode(array: NDArray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()

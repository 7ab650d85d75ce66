"""Data of a report page, as plain JSON, read from the directories of one or two runs."""

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
from simplecnn.config.build import build
from simplecnn.config.composition import compose_config
from simplecnn.config.validation import checked_parts
from simplecnn.convolution.kernels import best_matches
from simplecnn.errors import InputError, first_line, relative_path
from simplecnn.figures.arrays import read_npz
from simplecnn.figures.curves import epochs_at
from simplecnn.figures.style import COUNT, POSITIVE, SIGNED
from simplecnn.inference.model_card import flat
from simplecnn.inference.networks import logits
from simplecnn.inference.preprocessing import Preprocessing
from simplecnn.inference.trained_run import TrainedRun
from simplecnn.models.activations import convolutions
from simplecnn.models.activity import measured_layers
from simplecnn.page.images import MAX_BYTES, MAX_CLASSIFIED, MAX_SHOWN, Images, choose, read_images
from simplecnn.page.network import encode, encode_weights, network_data
from simplecnn.run_directory import RunDirectory, name_and_step

log = logging.getLogger(__name__)
MAX_POINTS = 1_000  # of a curve
MAX_HISTORY = 150_000  # weights of the filter history
MAX_PICTURES = 700_000  # bytes of all pictures
MAX_ANSWERS = 12  # classes with a probability, per image
# Prefixes of pictures that interactive sections of the page replace.
REPLACED = ("curves", "health", "mistakes_", "confusion_", "filter_history_")
PALETTES = {"signed": SIGNED, "positive": matplotlib.colormaps[POSITIVE], "count": COUNT}
NO_CHECKPOINT = "This run wrote no checkpoint: there are no weights to compute with."
Data = dict[str, Any]


def gather(
    runs: Sequence[RunDirectory],
    *,
    checkpoint: str | None = None,
    datamodule: LightningDataModule | None = None,
    own_images: Sequence[str] = (),
) -> Data:
    """Collect the data of the page of one run, or of two compared on the first one's images.

    Args:
        checkpoint: best, last or a file; by default the best, or the last if there is no best one.
        datamodule: that of the first run; by default built from its configuration.
        own_images: image files to show in addition, read as by `predict`.

    Raises:
        InputError: the runs have different classes, or an image file cannot be used.
    """
    loaded_runs = [_LoadedRun(run, checkpoint) for run in runs]
    names = runs[0].record.get("class_names")
    for run in runs[1:]:
        if names and run.record.get("class_names") not in (None, names):
            raise InputError(
                f"{relative_path(run.path)} has other classes than {relative_path(runs[0].path)}: "
                f"two runs are compared on the same images."
            )
    from_networks = filter(None, (run.num_classes() for run in loaded_runs))
    num_classes = len(names or ()) or next(from_networks, None)
    try:
        datamodule = datamodule or _datamodule(runs[0], loaded_runs[0].path)
        images = read_images(datamodule, num_classes)
    except Exception as error:  # raised by a custom data module, or because files are missing
        log.info("The page shows no images: %s", first_line(error))
        images = None
    preprocessing = loaded_runs[0].preprocessing
    shape = images.pixels.shape[1:] if images else loaded_runs[0].shape
    classes = list(images.classes if images else names or map(str, range(num_classes or 10)))
    # A network may have more outputs than the data has classes: their names are their indices.
    num_outputs = max(run.num_classes(shape) or 0 for run in loaded_runs)
    classes += map(str, range(len(classes), num_outputs))
    data = [run.data(shape, "AB"[i]) for i, run in enumerate(loaded_runs)]
    distinct = len({run["title"] for run in data}) == len(data)
    return {
        "title": " and ".join(str(run["title" if distinct else "name"]) for run in data),
        "runs": data,
        "images": _images(loaded_runs, images, own_images),
        "classes": classes,
        "shape": list(shape),
        "box": preprocessing.box,
        "fit": preprocessing.fit,
        "palettes": {
            name: encode((colors(np.linspace(0, 1, 256))[:, :3] * 255).round().astype(np.uint8))
            for name, colors in PALETTES.items()
        },
    }


def _datamodule(run: RunDirectory, checkpoint: Path | None = None) -> LightningDataModule:
    """Build and set up the data module of a run, without downloading anything.

    checkpoint: its file; it may record which images are in which split.
    """
    module: LightningDataModule = build(
        checked_parts(run.config(), relative_path(run.path))["data"]
    )
    if hasattr(module, "download"):
        module.download = False
    state = read_checkpoint(checkpoint).get(type(module).__qualname__) if checkpoint else None
    if state:
        module.load_state_dict(state)
    module.setup("fit")
    return module


class _LoadedRun:
    """A run, and the network of one of its checkpoints if it has any."""

    def __init__(self, run: RunDirectory, checkpoint: str | None) -> None:
        self.run, self.config = run, run.config()
        self.network: nn.Module | None = None
        self.path: Path | None = None
        self.checkpoint: str | None = None
        self.validation: dict[str, Tensor] = {}  # predictions stored by the callback Mistakes
        self.preprocessing = Preprocessing.from_config(self.config["data"], {})
        if checkpoint is not None or any(run.path.glob("checkpoints/*.ckpt")):
            path = self.path = run.checkpoint(checkpoint)
            trained = TrainedRun(run, path)
            self.network, self.preprocessing = trained.network, trained.preprocessing
            content = read_checkpoint(path)
            stored = content.get("callbacks", {}).get("Mistakes", {}).get("answers", {})
            # Ignore predictions of earlier weights, from before an epoch without validation.
            # Earlier versions stored a state without a step.
            if int(stored.get("step", -1)) == int(content["global_step"]):
                self.validation = stored
            self.checkpoint = f"{path.name}, after epoch {trained.epoch}"
        self.shape = self.preprocessing.shape

    def num_classes(self, shape: Sequence[int] | None = None) -> int | None:
        """Return the number of classes; None if the network does not accept such images."""
        try:
            return logits(self.network, torch.zeros(1, *(shape or self.shape))).shape[1]  # type: ignore[arg-type]
        except Exception:  # raised by a custom network, or there is no network
            return None

    def data(self, shape: Sequence[int], letter: str) -> Data:
        """Return the data of this run for a page with images of this shape."""
        record, run, folder = self.run.record, self.run, self.run.path / "images"
        entries = ("status", "error", "ended", "command", "seed", "metrics", "seconds",
                   "num_epochs", "best", "num_parameters", "device")  # fmt: skip
        if self.network is None:
            network: Data = {"sentence": NO_CHECKPOINT}
        elif self.shape != tuple(shape) and self.num_classes(shape) is None:
            sizes = [" x ".join(map(str, sides)) for sides in (self.shape, shape)]
            network = {"sentence": f"{letter} expects {sizes[0]} images, these are {sizes[1]}."}
        else:
            network = network_data(self.network, shape)
        return {
            **{key: record.get(key) for key in entries},
            "name": run.path.name,
            "path": relative_path(run.path),
            "title": self.config.get("name") or run.path.name,
            "config": list(config_rows(self.config)),
            "checkpoint": self.checkpoint,
            "curves": _curves(folder),
            "health": _health(folder, self.network),
            "filters": _filters(folder, self.network),
            "network": network,
            "pictures": list(_pictures(folder, is_chain="layers" in network)),
        }

    def predictions(self, images: Images) -> NDArray[np.int64] | None:
        """Return the predicted classes of the first M images, from the checkpoint or computed."""
        stored, num_images = self.validation, len(images.labels)
        if stored and len(stored["wrong"]) >= num_images:
            classes, wrong = (stored[key].numpy()[:num_images] for key in ("predictions", "wrong"))
            is_same_data = ((classes != images.labels) == wrong).all()
            if is_same_data and classes.max(initial=0) < len(images.classes):
                return classes.astype(np.int64)
        probabilities = self.probabilities(images, images.pixels[:MAX_CLASSIFIED])
        return None if probabilities is None else probabilities.argmax(1)

    def probabilities(self, images: Images, pixels: NDArray[np.uint8]) -> NDArray[Any] | None:
        """Return probabilities (N, classes); None if the network is for other images or classes."""
        if self.network is None or self.num_classes(pixels.shape[1:]) != len(images.classes):
            return None
        outputs = logits(self.network, images.tensor(pixels), batch_size=250)
        return outputs.float().softmax(1).numpy()


def _images(runs: Sequence[_LoadedRun], images: Images | None, files: Sequence[str]) -> Data | None:
    if images is None:
        if files:
            raise InputError("image: cannot be shown, because the data of this run has no images.")
        return None
    channels, height, width = images.pixels.shape[1:]
    prepare = replace(runs[0].preprocessing, channels=channels, size=height, width=width)
    own = [prepare.to_input(prepare.read(file)[-1].pixels) for file in files]
    predictions = [run.predictions(images) for run in runs]
    known = [p for p in predictions if p is not None]
    num_shown = min(MAX_SHOWN, MAX_BYTES // (channels * height * width) + 1)
    indices = choose(images, known, num_shown)
    num_probes = min(len(np.unique(images.labels)), 20)
    items: list[Data] = [{"kind": "own", "name": Path(file).name} for file in files]
    for i, index in enumerate(indices):
        kind = "probe" if i < num_probes else "example"
        classes = [None if p is None or index >= len(p) else int(p[index]) for p in predictions]
        items.append({"kind": kind, "label": int(images.labels[index]), "predicted": classes})
    pixels = np.stack([*(images.encoded(torch.from_numpy(image)) for image in own),
                       *images.pixels[indices]])  # fmt: skip
    for i, run in enumerate(runs):
        probabilities = run.probabilities(images, pixels)
        if probabilities is None:
            continue
        for item, values in zip(items, probabilities, strict=True):
            best = np.argsort(-values, kind="stable")[:MAX_ANSWERS]
            pairs = [[int(c), round(float(values[c]), 4)] for c in best]
            item.setdefault("answers", [None] * len(runs))[i] = pairs
            if item["kind"] != "own":
                item["predicted"][i] = pairs[0][0]
    n = len(images.classes)
    counts = [
        None if p is None else np.bincount(images.labels[: len(p)] * n + p, minlength=n * n)
        for p in predictions
    ]
    return {
        "is_common": all(_source(run) == _source(runs[0]) for run in runs),
        "split": {"val": "validation", "test": "test", "train": "training"}[images.split],
        "low": images.low,
        "high": images.high,
        "pixels": encode(pixels),
        "items": items,
        "number": min(map(len, known), default=0),
        "confusion": [None if c is None else c.reshape(n, n).tolist() for c in counts],
    }


def _source(run: _LoadedRun) -> Data:
    """What decides which images a run is trained on."""
    keys = ("_target_", "dataset", "root", "split_seed", "val_size", "val_fraction")
    return {key: run.config["data"].get(key) for key in keys}


@cache
def _defaults() -> dict[str, str]:
    """Return the configuration without overrides, by key; empty if it cannot be composed."""
    try:
        return dict(flat(compose_config("train")))
    except Exception:
        return {}


def config_rows(config: Mapping[str, Any]) -> Iterator[tuple[str, str, str | None]]:
    """Yield (key, value, default), keys that differ from their default first.

    The default is None if it equals the value, "" if there is no default.
    """
    defaults = _defaults()
    rows = []
    for name, value in flat(config):
        # Paths depend on the machine.
        if not name.startswith("paths.") and not name.endswith(("dirpath", "_dir")):
            is_default = not defaults or defaults.get(name) == value
            rows.append((name, value, None if is_default else defaults.get(name, "")))
    yield from sorted(rows, key=lambda row: row[2] is None)


def _curves(folder: Path) -> Data | None:
    """Return the curves of all metrics by epoch, and of single training steps."""
    epochs, steps = read_npz(folder / "curves_epochs.npz"), read_npz(folder / "curves_steps.npz")
    if not epochs or not len(epochs["step"]):
        return None
    ends, numbers = epochs["step"], epochs["epoch"]
    first = ends[0] / max(1, numbers[0])
    lengths = np.diff(ends) / np.maximum(1, np.diff(numbers))
    # Of a run that continues from a checkpoint, the earlier epochs may have had another length.
    known = [*lengths] if numbers[0] > 1 and len(lengths) else [first, *lengths]
    per_epoch = max(1.0, float(max(known)))
    times = epochs_at(ends, ends, numbers, per_epoch)
    metrics = {
        name: _points(times, values)
        for name, values in epochs.items()
        if name not in ("step", "epoch", "seconds")
    }
    within = {
        name: _points(epochs_at(steps["step"], ends, numbers, per_epoch), steps[name])
        for name in ("loss", "lr")
        if name in steps
    }
    return {
        "epochs": metrics,
        "steps": within,
        "steps_per_epoch": per_epoch,
        "step_offset": float(ends[0] - times[0] * per_epoch),  # 0 for a run from the start
    }


def _points(x: NDArray, y: NDArray) -> list[list[float]]:
    """Return pairs (x, y) of the finite values, at most MAX_POINTS, evenly spaced."""
    kept = np.flatnonzero(np.isfinite(y))
    if len(kept) > MAX_POINTS:
        kept = kept[np.linspace(0, len(kept) - 1, MAX_POINTS).astype(int)]
    return [[round(float(a), 4), float(f"{b:.5g}")] for a, b in zip(x[kept], y[kept], strict=True)]


def _health(folder: Path, network: nn.Module | None) -> Data | None:
    """Return the curves by step of all quantities of each layer."""
    activity = read_npz(folder / "health_activity.npz")
    gradients = read_npz(folder / "health_gradients.npz")
    if not gradients or network is None:
        return None
    names = list(measured_layers(network))
    quantities: Data = {}
    for source in (activity, gradients):
        for quantity, values in source.items():
            if values.ndim == 2 and values.shape[1] == len(names):
                quantities[quantity] = [_points(source["step"], column) for column in values.T]
    return {"layers": names, "quantities": quantities} if quantities else None


def _filters(folder: Path, network: nn.Module | None) -> Data | None:
    """Return the first convolution's weights at all snapshots, or else in the checkpoint."""
    first = next(iter(convolutions(network).items()), None) if network else None
    paths = sorted(folder.glob("filter_history_*.npz"))
    paths.sort(key=lambda path: first is None or path.stem != f"filter_history_{first[0]}")
    if paths and (arrays := read_npz(paths[0])):
        layer, weights = paths[0].stem.removeprefix("filter_history_"), arrays["weights"]
        times = zip(arrays["step"], arrays["epoch"], strict=True)
        snapshots = [_snapshot_name(int(step), int(epoch)) for step, epoch in times]
    elif first is not None:
        layer, weights, snapshots = first[0], first[1].weight.float().numpy()[None], ["at the end"]
    else:
        return None
    max_snapshots = max(2, MAX_HISTORY // max(1, weights[0].size))
    if len(weights) > max_snapshots:
        kept = np.unique(np.linspace(0, len(weights) - 1, max_snapshots).astype(int))
        weights, snapshots = weights[kept], [snapshots[i] for i in kept]
    matches = [[m and [m.name, round(m.cosine, 2)] for m in best_matches(w)] for w in weights]
    return {
        "layer": layer,
        **encode_weights(weights, as_float16=True),
        "snapshots": snapshots,
        "matches": matches,
    }


def _snapshot_name(step: int, epoch: int) -> str:
    if step == 0:
        return "before the first step"
    return f"after step {step:,}" if epoch < 0 else f"after epoch {epoch}, step {step:,}"


def _pictures(folder: Path, *, is_chain: bool) -> Iterator[Data]:
    """Yield the newest version of each picture, except those that the page draws itself.

    The bytes are None for pictures that exceed MAX_PICTURES in total.
    """
    newest: dict[str, Path] = {}
    for path in sorted(folder.glob("*.png"), key=name_and_step):
        newest[name_and_step(path)[0]] = path
    num_left = MAX_PICTURES
    for name, path in newest.items():
        if name.startswith((*REPLACED, *(("maps_",) if is_chain else ()))):
            continue
        content = path.read_bytes()
        num_left -= len(content)
        width, height = (int.from_bytes(content[i : i + 4], "big") for i in (16, 20))
        source = base64.b64encode(content).decode() if num_left >= 0 else None
        yield {"name": path.stem, "width": width, "height": height, "png": source}

"""A trained run in Python: its network, its configuration, its metrics, and what can be asked."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from simplecnn.checkpoint_file import read_checkpoint
from simplecnn.config.mistakes import checked_parts
from simplecnn.data.files import CLASS_NAMES
from simplecnn.data.images import pixels_from_pil
from simplecnn.errors import InputError, short
from simplecnn.inference.evaluate import logits_of
from simplecnn.inference.image_files import find_images, image_from_array, read_image
from simplecnn.inference.networks import load_network, network_config
from simplecnn.inference.preprocessing import Pixels, Preprocessing
from simplecnn.models.activations import feature_maps
from simplecnn.run_directory import RunDirectory
from simplecnn.table import percent, table

BATCH = 500  # images at once


@dataclass(frozen=True)
class Predictions:
    """What a network takes N images for: probabilities (N, classes), and the classes' names.

    >>> from simplecnn.inference.trained_run import Predictions
    >>> import numpy as np
    >>> guess = Predictions(np.array([[0.2, 0.7, 0.1]]), ("cat", "dog", "cow"))
    >>> guess.classes, guess.confidences, guess.seconds
    (['dog'], array([0.7]), ['cat'])
    """

    probabilities: NDArray[np.float32]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.probabilities)

    @property
    def ranks(self) -> NDArray[np.int64]:
        """(N, classes) the numbers of the classes, the likeliest first."""
        return np.argsort(-self.probabilities, axis=1, kind="stable")

    @property
    def classes(self) -> list[str]:
        """The likeliest class of each image."""
        return [self.class_names[i] for i in self.ranks[:, 0]]

    @property
    def seconds(self) -> list[str]:
        """The second likeliest."""
        return [self.class_names[i] for i in self.ranks[:, 1]]

    @property
    def confidences(self) -> NDArray[np.float32]:
        """(N,) the probability of the likeliest class."""
        return self.probabilities.max(axis=1)

    def rows(self) -> Iterator[tuple[str, float, str, float]]:
        """Of each image the likeliest class, its probability, the second likeliest, and its."""
        for (first, second, *_), shares in zip(self.ranks, self.probabilities, strict=True):
            one, two = float(shares[first]), float(shares[second])
            yield self.class_names[first], one, self.class_names[second], two

    def __str__(self) -> str:
        rows = [
            [str(i), name, percent(share), second, percent(second_share)]
            for i, (name, share, second, second_share) in enumerate(self.rows())
        ]
        return table([["", "class", "probability", "second", "probability"], *rows])


class TrainedRun:
    """A run and the network in one of its checkpoints, in evaluation mode on the CPU.

    path: the run's directory. config: its configuration, plain dicts and lists.
    network: the torch module. class_names: one for each of its outputs.
    metrics: those of run.json, by name (`test/acc`). record: all of run.json.
    preprocessing: how an image becomes what the network takes.

    Raises InputError where the directory is no run, or holds no such checkpoint.
    """

    def __init__(self, directory: RunDirectory, checkpoint: Path) -> None:
        self.directory = directory
        self.path = directory.path
        self.checkpoint = checkpoint
        self.config = directory.config()
        self.record: dict[str, Any] = directory.record
        self.network: nn.Module = load_network(checkpoint)
        self.network_config = network_config(read_checkpoint(checkpoint), checkpoint) or {}
        self.preprocessing = Preprocessing.of(self.config["data"], self.network_config)
        self.class_names = self._class_names()

    def __repr__(self) -> str:
        accuracy = self.metrics.get("test/acc")
        result = "" if accuracy is None else f", test accuracy {percent(accuracy, digits=2)}"
        return f"<run {short(self.path)}, {self.checkpoint.name}{result}>"

    @property
    def metrics(self) -> dict[str, float]:
        return dict(self.record.get("metrics") or {})

    @property
    def figures(self) -> dict[str, Path]:
        """The pictures of the run by name, of each the newest: `filters_conv1`, `curves`, …"""
        files = sorted((self.path / "images").glob("*.png"))
        return {re.sub(r"_epoch=.*", "", path.stem): path for path in files}

    def predict(self, images: Any, *, invert: bool | None = None) -> Predictions:
        """What the network takes images for; they may be of any size, gray or in color.

        images: a Pillow image, a file's name, an array or tensor, or a list of those. Arrays are
            (H, W), (H, W, C) or (C, H, W) for one image, (N, H, W) or (N, C, H, W) for several;
            integers count to the largest of their type, floats to 1.
        invert: swap light and dark; None: where the border of a drawing is light.

        Raises InputError where an image cannot be read, or shows nothing.
        """
        return self.predictions(self.prepare(images, invert=invert))

    def feature_maps(self, images: Any, *, invert: bool | None = None) -> dict[str, NDArray]:
        """The output (N, channels, H, W) of every convolution after its non-linearity, by name.

        `images` as for `predict`.
        """
        maps, _ = feature_maps(self.network, self.prepare(images, invert=invert))
        return {name: values.numpy() for name, values in maps.items()}

    def prepare(self, images: Any, *, invert: bool | None = None) -> Tensor:
        """Images as for `predict` as what the network takes: float32 (N, C, H, W), 0 to 1."""
        prepared = [self.preprocessing.array(image, invert=invert) for image in self._read(images)]
        if not prepared:
            raise InputError("images: there is none.")
        return torch.from_numpy(np.stack(prepared))

    def predictions(self, images: Tensor) -> Predictions:
        """What the network takes prepared images (N, C, H, W) for."""
        return Predictions(self._logits(images).softmax(1).numpy(), self.class_names)

    @torch.no_grad()
    def _logits(self, images: Tensor) -> Tensor:
        return torch.cat([logits_of(self.network, part) for part in images.split(BATCH)])

    def _read(self, images: Any) -> list[Pixels]:
        color, channels = self.preprocessing.color, self.preprocessing.channels
        if isinstance(images, list | tuple):
            return [pixels for image in images for pixels in self._read(image)]
        if isinstance(images, str | Path):
            return [read_image(name, color=color) for name in find_images([str(images)])]
        if isinstance(images, Tensor):
            images = images.detach().cpu().numpy()
        try:
            if isinstance(images, Image.Image):
                return [(pixels_from_pil(images, color=color) / 255).astype(np.float32)]
            if isinstance(images, np.ndarray):
                # (3, H, W) is one image where the network sees colors.
                is_several = images.ndim == 4 or (
                    images.ndim == 3
                    and images.shape[2] not in (1, 3)
                    and images.shape[0] not in (1, channels)
                )
                arrays = images if is_several else [images]
                return [image_from_array(array, color=color) for array in arrays]
        except ValueError as error:
            raise InputError(f"images: {error}.") from None
        raise InputError(
            f"images is of type {type(images).__name__}: give Pillow images, arrays, tensors, "
            f"names of files, or a list of them."
        )

    def _class_names(self) -> tuple[str, ...]:
        """Of run.json, of the data set, or numbers: as many as the network tells apart."""
        size = self.preprocessing.size
        blank = torch.zeros(1, self.preprocessing.channels, size, size)
        number = self._logits(blank).shape[1]
        dataset = str(self.config["data"].get("dataset"))
        for names in (self.record.get("class_names"), CLASS_NAMES.get(dataset)):
            if names and len(names) == number:
                return tuple(map(str, names))
        return tuple(map(str, range(number)))


def load_run(path: str | Path, checkpoint: str | None = None) -> TrainedRun:
    """The run in the directory `path`, with its checkpoint `best`, `last` or a file.

    None: the best, or the last of a run without one. Raises InputError.
    """
    directory = RunDirectory.open(path)
    path = directory.checkpoint(checkpoint) if checkpoint else directory.any_checkpoint()
    checked_parts(directory.config(), short(directory.path))
    return TrainedRun(directory, path)

"""The Python interface of a trained run: network, configuration, metrics, predictions."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from simplecnn.checkpoint_file import read_checkpoint
from simplecnn.data.files import CLASS_NAMES
from simplecnn.data.images import pixels_from_pil
from simplecnn.errors import InputError, relative_path, reraise
from simplecnn.inference.image_files import find_images, image_from_array, read_image
from simplecnn.inference.networks import load_network, logits, network_config
from simplecnn.inference.preprocessing import Pixels, Preprocessing
from simplecnn.models.activations import feature_maps
from simplecnn.run_directory import RunDirectory, name_and_step
from simplecnn.table import percent, table

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Predictions:
    """The predictions of a network for N images: probabilities (N, classes) and class names.

    >>> from simplecnn.inference.trained_run import Predictions
    >>> import numpy as np
    >>> predictions = Predictions(np.array([[0.2, 0.7, 0.1]]), ("cat", "dog", "cow"))
    >>> predictions.classes, predictions.confidences, predictions.second_classes
    (['dog'], array([0.7]), ['cat'])
    """

    probabilities: NDArray[np.float32]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.probabilities)

    @property
    def ranks(self) -> NDArray[np.int64]:
        """Class indices (N, classes), sorted by descending probability."""
        return np.argsort(-self.probabilities, axis=1, kind="stable")

    @property
    def classes(self) -> list[str]:
        """The most probable class of each image."""
        return [self.class_names[i] for i in self.ranks[:, 0]]

    @property
    def second_classes(self) -> list[str]:
        """The second most probable class of each image."""
        return [self.class_names[i] for i in self.ranks[:, 1]]

    @property
    def confidences(self) -> NDArray[np.float32]:
        """The probability (N,) of the most probable class."""
        return self.probabilities.max(axis=1)

    def rows(self) -> Iterator[tuple[str, float, str, float]]:
        """Yield, for each image, the two most probable classes, each with its probability."""
        for (first, second, *_), row in zip(self.ranks, self.probabilities, strict=True):
            yield (
                self.class_names[first], float(row[first]),
                self.class_names[second], float(row[second]),
            )  # fmt: skip

    def __str__(self) -> str:
        rows = [
            [str(i), first, percent(probability), second, percent(second_probability)]
            for i, (first, probability, second, second_probability) in enumerate(self.rows())
        ]
        return table([["", "class", "probability", "second", "probability"], *rows])


class TrainedRun:
    """A run with the network of one of its checkpoints, in evaluation mode on the CPU.

    path: the directory of the run.
    checkpoint: the file of the checkpoint.
    name: both, for messages and records.
    config: the configuration of the run, as plain dicts and lists.
    network: the torch module, loaded when it is first used.
    class_names: one name per output of the network.
    metrics: the metrics in run.json, by name (`test/acc`).
    record: the content of run.json.
    preprocessing: converts images to the network's input.

    The first use of the network, or of what depends on it, raises InputError if the checkpoint
    cannot be loaded.
    """

    def __init__(self, directory: RunDirectory, checkpoint: Path) -> None:
        self._directory = directory
        self.path = directory.path
        self.checkpoint = checkpoint
        self.config = directory.config()
        self.record: dict[str, Any] = directory.record

    def __repr__(self) -> str:
        accuracy = self.checkpoint_metrics.get("test/acc")
        result = "" if accuracy is None else f", test accuracy {percent(accuracy, digits=2)}"
        return f"<run {self.name}{result}>"

    @property
    def name(self) -> str:
        return f"{relative_path(self.path)}, {self.checkpoint.name}"

    @cached_property
    def network(self) -> nn.Module:
        return load_network(self.checkpoint)

    @cached_property
    def epoch(self) -> int:
        """The epoch, from 1, after which the checkpoint was saved."""
        # LastCheckpoint saves between two epochs, ModelCheckpoint within one.
        is_within = self.checkpoint.name != "last.ckpt"
        return int(read_checkpoint(self.checkpoint)["epoch"]) + is_within

    @cached_property
    def network_config(self) -> dict[str, Any]:
        return network_config(read_checkpoint(self.checkpoint), self.checkpoint) or {}

    @cached_property
    def preprocessing(self) -> Preprocessing:
        image_shape = self.record.get("image_shape") or ()
        return Preprocessing.from_config(self.config["data"], self.network_config, image_shape)

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names from run.json, else of the data set, else indices; one per output of the network.

        Names whose number differs from the number of outputs are skipped.
        """
        blank = torch.zeros(1, *self.preprocessing.shape, dtype=torch.float32)
        num_classes = logits(self.network, blank).shape[1]
        dataset = str(self.config["data"].get("dataset"))
        for names in (self.record.get("class_names"), CLASS_NAMES.get(dataset)):
            if isinstance(names, list | tuple) and len(names) == num_classes:
                return tuple(map(str, names))
        return tuple(map(str, range(num_classes)))

    @property
    def metrics(self) -> dict[str, float]:
        return dict(self.record.get("metrics") or {})

    @property
    def checkpoint_metrics(self) -> dict[str, float]:
        """The recorded metrics of this checkpoint; those of the test only if it was tested."""
        return self._directory.metrics_of(self.checkpoint)

    @property
    def figures(self) -> dict[str, Path]:
        """The newest figure file of each name: `filters_conv1`, `curves`, …"""
        files = sorted((self.path / "images").glob("*.png"), key=name_and_step)
        return {name_and_step(path)[0]: path for path in files}

    def predict(self, images: Any, *, invert: bool | None = None) -> Predictions:
        """Classify images of any size, gray or in color.

        images: a Pillow image, a file name, an array, a tensor, or a list of those. Arrays are
            (H, W), (H, W, C) or (C, H, W) for one image, (N, H, W) or (N, C, H, W) for several;
            see `image_from_array` for their range of values.
        invert: swap light and dark; None: if the border of a drawing is light.

        Raises InputError if an image cannot be read or is blank.
        """
        self.warn_of_range()
        return self.predictions(self.prepare(images, invert=invert))

    def warn_of_range(self) -> None:
        """Warn if the training images were not scaled to 0 to 1, as images for prediction are."""
        match self.record.get("image_range"):
            case [int() | float() as low, int() | float() as high] if low < -0.01 or high > 1.01:
                log.warning(
                    f"The network was trained on images with values from {low:.3g} to {high:.3g}, "
                    f"but images are scaled to 0 to 1 for prediction. Return such images from the "
                    f"data module, and make the normalization the first layer of the network."
                )

    def feature_maps(self, images: Any, *, invert: bool | None = None) -> dict[str, NDArray]:
        """The output (N, channels, H, W) of each convolution after its non-linearity, by name.

        `images` as for `predict`.
        """
        maps, _ = feature_maps(self.network, self.prepare(images, invert=invert))
        return {name: values.numpy() for name, values in maps.items()}

    def prepare(self, images: Any, *, invert: bool | None = None) -> Tensor:
        """Preprocess images, as for `predict`, to the network's input: (N, C, H, W), 0 to 1."""
        prepared = [self.preprocessing.array(image, invert=invert) for image in self._read(images)]
        if not prepared:
            raise InputError("images is empty.")
        return torch.from_numpy(np.stack(prepared))

    def predictions(self, images: Tensor) -> Predictions:
        """Classify images (N, C, H, W) that are already preprocessed."""
        return Predictions(
            logits(self.network, images).float().softmax(1).numpy(), self.class_names
        )

    def _read(self, images: Any) -> list[Pixels]:
        color, channels = self.preprocessing.color, self.preprocessing.channels
        if isinstance(images, list | tuple):
            return [pixels for image in images for pixels in self._read(image)]
        if isinstance(images, str | Path):
            return [read_image(name, color=color) for name in find_images([str(images)])]
        if isinstance(images, Tensor):
            with reraise("images: this tensor cannot be read"):  # such as one on the meta device
                images = images.detach().cpu()
                is_bfloat16 = images.dtype == torch.bfloat16  # a type that NumPy lacks
                images = (images.float() if is_bfloat16 else images).numpy()
        try:
            if isinstance(images, Image.Image):
                return [(pixels_from_pil(images, color=color) / 255).astype(np.float32)]
            if isinstance(images, np.ndarray):
                # (3, H, W) is one image for a network with three input channels, else three images.
                is_batch = images.ndim == 4 or (
                    images.ndim == 3
                    and images.shape[2] > 4  # else (H, W, C), of which 2 or 4 are an error
                    and images.shape[0] not in (1, channels)
                )
                arrays = images if is_batch else [images]
                return [image_from_array(array, color=color) for array in arrays]
        except ValueError as error:
            raise InputError(f"images: {error}.") from None
        raise InputError(
            f"images is of type {type(images).__name__}: pass Pillow images, arrays, tensors, "
            f"file names, or a list of them."
        )

"""Preprocess an image for a network, step by step. Does not import torch."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import center_of_mass, find_objects

from simplecnn.data.images import MAX_SIDE, Fit, fit_pixels
from simplecnn.errors import InputError
from simplecnn.inference.image_files import read_image

Pixels = NDArray[np.float32]
BOXES = {"MNIST": 20, "MNIST5k": 20, "FashionMNIST": 28, "KMNIST": 28}  # by data set, pixels
INK = 0.2  # a pixel belongs to the drawing if its value is above this fraction of the maximum
MIN_CONTRAST = 0.02


class Step(NamedTuple):
    """A preprocessing step and the resulting image (H, W) or (H, W, 3), 0 to 1."""

    description: str
    pixels: Pixels


@dataclass(frozen=True)
class Preprocessing:
    """Converts images of any size to the input of a network: (channels, size, width), 0 to 1.

    size: height in pixels, and width unless `width` is given.
    box: side in pixels of the square that a drawing is fitted into, light on black, its center of
        mass in the middle of the image, as in MNIST (LeCun, Cortes and Burges, "The MNIST database
        of handwritten digits"). None: images are only resized.
    fit: how images are made square, see `images.fit_pixels`; None: by resizing.
    """

    channels: int = 1
    size: int = 28
    box: int | None = 20
    fit: Fit | None = None
    width: int | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of the input."""
        return self.channels, self.size, self.width or self.size

    @property
    def color(self) -> bool:
        """Whether images keep their colors."""
        return self.channels == 3 and self.box is None

    @classmethod
    def from_config(
        cls,
        data: Mapping[str, Any],
        network: Mapping[str, Any],
        image_shape: Sequence[int] = (),
    ) -> "Preprocessing":
        """The preprocessing of a run, from the configurations of its data and of its network.

        The network's `in_channels` and `image_size` take precedence over the recorded shape of the
        training images (C, H, W), if it is valid, and that over the data's configuration.
        """
        is_valid = (
            isinstance(image_shape, list | tuple)
            and len(image_shape) == 3
            and all(type(n) is int and 1 <= n <= MAX_SIDE for n in image_shape)
        )
        num_channels, height, width = image_shape if is_valid else (None, None, None)
        is_mnist = data.get("_target_") == "simplecnn.data.mnist.MNISTDataModule"
        box = BOXES.get(data.get("dataset", "MNIST")) if is_mnist else None
        return cls(
            channels=network.get("in_channels") or num_channels or data.get("channels") or 1,
            size=network.get("image_size") or height or data.get("image_size") or 28,
            box=box,
            fit=data.get("fit"),
            width=None if width == height or network.get("image_size") else width,
        )

    def steps(self, image: Pixels, *, invert: bool | None = None) -> list[Step]:
        """Preprocess an image (H, W), or (H, W, 3) if `color`; the last step has the final size.

        invert: swap light and dark; None: if `box` is set and the border is light.

        Raises InputError for an image of a single color, or without a drawing.
        """
        if np.ptp(image, axis=(0, 1)).max() < MIN_CONTRAST:  # no channel varies
            raise InputError("image: it is blank, all of its pixels have the same color.")
        in_gray = "" if self.color else " in gray"
        steps = [Step(f"{image.shape[1]} x {image.shape[0]} pixels{in_gray}", image)]
        if invert is None and self.box is not None:
            invert = _background(image) > (image.min() + image.max()) / 2
        if invert:
            image = 1 - image
            steps.append(Step("inverted", image))
        if image.shape[:2] == self.shape[1:]:
            return steps
        return steps + (self._fitted(image) if self.box is None else self._centered(image))

    def read(self, name: str, *, invert: bool | None = None) -> list[Step]:
        """Read and preprocess an image file. Raises InputError that names the file."""
        try:
            return self.steps(read_image(name, color=self.color), invert=invert)
        except InputError as error:
            reason = re.sub("^image:", lambda _: f"image={name}:", str(error))
            raise InputError(reason) from None

    def array(self, image: Pixels, *, invert: bool | None = None) -> Pixels:
        """Preprocess an image; returns the network's input (channels, H, W)."""
        return self.to_input(self.steps(image, invert=invert)[-1].pixels)

    def to_input(self, pixels: Pixels) -> Pixels:
        """Convert the pixels of the last step to the network's input (channels, H, W)."""
        channels_last = pixels if pixels.ndim == 3 else pixels[:, :, None]
        shape = (self.channels, *pixels.shape[:2])
        return np.broadcast_to(np.moveaxis(channels_last, 2, 0), shape).astype(np.float32)

    def record(self) -> dict[str, Any]:
        """The fields and a description of the input, for metadata."""
        description = f"float32 (N, {', '.join(map(str, self.shape))}), 0 to 1"
        if self.box:
            description += (
                f", light drawing on black, fitted into {self.box} x {self.box}, center of mass in "
                f"the middle"
            )
        return {**asdict(self), "width": self.shape[2], "input": description}

    def _fitted(self, image: Pixels) -> list[Step]:
        """Fit a photograph to the input."""
        if self.fit is None:
            _, height, width = self.shape
            return [Step(f"resized to {width} x {height}", _resize(image, height, width))]
        square = fit_pixels((255 * image).round().astype(np.uint8), self.size, self.fit)
        verbs = {"pad": "fitted into", "crop": "center-cropped to", "stretch": "stretched to"}
        description = f"{verbs[self.fit]} {self.size} x {self.size}"
        return [Step(description, (square / 255).astype(np.float32))]

    def _centered(self, image: Pixels) -> list[Step]:
        """Fit a light drawing into the box, its center of mass in the middle, as in the data set.

        A drawing that already fills the box and is centered is only resized.
        """
        assert self.box is not None
        middle = self.size / 2  # 14, not 13.5: the center of mass of 99.5 % of the MNIST digits
        paper = _background(image)
        ink = np.clip((image - paper) / max(image.max() - paper, 1e-6), 0, 1)
        if not ink.any():
            raise InputError("image: nothing is lighter than its border. Leave out invert.")
        resized = _resize(ink, self.size, self.size)
        fills_box = abs(max(_cropped(resized).shape) - self.box) <= 1
        from_middle = np.subtract(center_of_mass(resized), middle)
        if fills_box and (np.abs(from_middle) <= 1).all():
            return [Step(f"resized to {self.size} x {self.size}", resized)]
        ink = _cropped(ink)
        steps = [Step(f"cropped to {ink.shape[1]} x {ink.shape[0]}, background removed", ink)]
        scale = self.box / max(ink.shape)
        height, width = (max(1, round(side * scale)) for side in ink.shape)
        ink = _resize(ink, height, width)
        margin = self.size - np.array(ink.shape)
        corner = np.rint(np.subtract(middle, center_of_mass(ink))).astype(int)
        top, left = np.clip(corner, 0, margin)
        digit = np.zeros((self.size, self.size), np.float32)
        digit[top : top + height, left : left + width] = ink / ink.max()
        return [*steps, Step(f"fitted into {self.box} x {self.box}, centered", digit)]


def _background(image: Pixels) -> float:
    """The median of the border pixels."""
    return float(np.median(np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])))


def _cropped(ink: Pixels) -> Pixels:
    """The part of an image within the bounding box of its ink."""
    (box,) = find_objects((ink > INK * ink.max()).astype(int))
    return ink[box]


def _resize(image: Pixels, height: int, width: int) -> Pixels:
    """Resize each channel: by area averaging to downscale, bilinear to upscale."""
    shrinks = height * width < image.shape[0] * image.shape[1]
    method = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
    channels = np.moveaxis(image[:, :, None] if image.ndim == 2 else image, 2, 0)
    resized = [np.asarray(Image.fromarray(c).resize((width, height), method)) for c in channels]
    return resized[0] if image.ndim == 2 else np.stack(resized, axis=2)

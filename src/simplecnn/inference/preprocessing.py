"""What is done to an image before a network sees it, step by step. No torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from simplecnn.data.images import Fit, fit_pixels
from simplecnn.errors import InputError

Pixels = NDArray[np.float32]
BOXES = {"MNIST": 20, "MNIST5k": 20, "FashionMNIST": 28, "KMNIST": 28}  # by data set, pixels
INK = 0.2  # share of the darkest ink above which a pixel belongs to the drawing
MIN_CONTRAST = 0.02


class Step(NamedTuple):
    """What was done, in words, and the image that came out: (H, W) or (H, W, 3), 0 to 1."""

    what: str
    pixels: Pixels


@dataclass(frozen=True)
class Preprocessing:
    """How an image of any size becomes what a network takes: (channels, size, size), 0 to 1.

    box: the data set shows a light drawing on black, fitted into a square of so many pixels, its
        center of mass in the middle; an image is brought to that. None: it is only resized.
    fit: how a folder of images was made square (`images.fit_pixels`); None: by resizing.
    """

    channels: int = 1
    size: int = 28
    box: int | None = 20
    fit: Fit | None = None

    @property
    def color(self) -> bool:
        """Whether the colors of an image matter."""
        return self.channels == 3 and self.box is None

    @classmethod
    def of(cls, data: Mapping[str, Any], network: Mapping[str, Any]) -> "Preprocessing":
        """From the configurations of a run's data and of its network, which says it if it can."""
        box = BOXES.get(str(data.get("dataset", "MNIST")))
        if data.get("_target_") != "simplecnn.data.mnist.MNISTDataModule":
            box = None
        return cls(
            channels=network.get("in_channels") or data.get("channels") or 1,
            size=network.get("image_size") or data.get("image_size") or 28,
            box=box,
            fit=data.get("fit"),
        )

    def steps(self, image: Pixels, *, invert: bool | None = None) -> list[Step]:
        """From a gray image (H, W), or (H, W, 3) where `color`, to (size, size) or (size, size, 3).

        `invert` swaps light and dark; None: where the data are light on black and the border is the
        lighter part. Raises InputError for an image of one color.
        """
        first = Step(f"{image.shape[1]} x {image.shape[0]} pixels", image)
        if np.ptp(image, axis=(0, 1)).max() < MIN_CONTRAST:  # of a channel
            raise InputError("image: there is nothing to see in it, all of it has one color.")
        if self.box is None:
            steps = [first, Step("inverted", 1 - image)] if invert else [first]
            last = steps[-1].pixels
            if last.shape[:2] == (self.size, self.size):
                return steps
            if self.fit is None:
                return [*steps, Step(f"resized to {self.size} x {self.size}", self._resized(last))]
            square = fit_pixels((255 * last).round().astype(np.uint8), self.size, self.fit)
            words = {"pad": "fitted into", "crop": "cut to a square,", "stretch": "stretched to"}
            what = f"{words[self.fit]} {self.size} x {self.size}"
            return [*steps, Step(what, (square / 255).astype(np.float32))]
        if invert is None:
            invert = bool(_background(image) > (image.min() + image.max()) / 2)
        steps = [first, Step("inverted", 1 - image)] if invert else [first]
        ink = steps[-1].pixels
        if ink.shape == (self.size, self.size):
            return steps
        paper = _background(ink)
        ink = np.clip((ink - paper) / max(ink.max() - paper, 1e-6), 0, 1)
        resized = self._resized(ink)
        if self._is_laid_out(resized):
            return [*steps, Step(f"resized to {self.size} x {self.size}", resized)]
        top, bottom, left, right = _extent(ink)
        ink = ink[top:bottom, left:right]
        steps.append(Step(f"cut out {ink.shape[1]} x {ink.shape[0]}", ink))
        return [*steps, Step(f"fitted into {self.box} x {self.box}, centered", self._placed(ink))]

    def array(self, image: Pixels, *, invert: bool | None = None) -> Pixels:
        """The image (channels, size, size) that comes out."""
        return self.planes(self.steps(image, invert=invert)[-1].pixels)

    def planes(self, pixels: Pixels) -> Pixels:
        """The last step's pixels as (channels, size, size)."""
        channels_last = pixels if pixels.ndim == 3 else pixels[:, :, None]
        shape = (self.channels, *pixels.shape[:2])
        return np.broadcast_to(np.moveaxis(channels_last, 2, 0), shape).astype(np.float32)

    def record(self) -> dict[str, Any]:
        """For metadata: the fields, and what they mean."""
        drawing = "light drawing on black, " if self.box else ""
        fit = (
            f"fitted into {self.box} x {self.box}, center of mass in the middle" if self.box else ""
        )
        words = f"float32 (N, {self.channels}, {self.size}, {self.size}), 0 to 1, {drawing}{fit}"
        return {**asdict(self), "input": words.rstrip(", ")}

    def _resized(self, image: Pixels) -> Pixels:
        return _resize(image, self.size, self.size)

    def _is_laid_out(self, digit: Pixels) -> bool:
        """Whether a drawing (size, size) fills its box and lies in the middle already."""
        top, bottom, left, right = _extent(digit)
        fills = abs(max(bottom - top, right - left) - (self.box or 0)) <= 1
        away = np.abs(_center(digit) - self.size / 2)
        return fills and bool((away <= 1).all())

    def _placed(self, ink: Pixels) -> Pixels:
        """The ink fitted into the box, its center of mass in the middle of the image."""
        box = self.box or self.size
        scale = box / max(ink.shape)
        height, width = (max(1, round(side * scale)) for side in ink.shape)
        ink = _resize(ink, height, width)
        ink = ink / ink.max()
        space = self.size - np.array(ink.shape)
        middle = self.size / 2  # pixel 14, not 13.5, is where it lies in 99.5 % of MNIST
        top, left = np.clip(np.rint(middle - _center(ink)).astype(int), 0, space)
        digit = np.zeros((self.size, self.size), np.float32)
        digit[top : top + height, left : left + width] = ink
        return digit


def like_mnist(gray: Pixels, *, invert: bool | None = None) -> Pixels:
    """A drawing or photograph (H, W), 0 to 1, as a digit of MNIST: (28, 28), white on black.

    The digit is cut out, fitted into 20 x 20 pixels and put with its center of mass in the middle
    (LeCun, Cortes and Burges, "The MNIST database of handwritten digits"). An image of 28 x 28
    pixels is taken to be so already, and one that is so when it is resized to that is resized.
    `invert` swaps black and white; None: where the border is the lighter part. Raises InputError
    for an image of one color.
    """
    return Preprocessing().steps(gray, invert=invert)[-1].pixels.astype(np.float32)


def _background(image: Pixels) -> float:
    """The median of the border."""
    return float(np.median(np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])))


def _extent(ink: Pixels) -> tuple[int, int, int, int]:
    """First and last row, first and last column with ink, the last ones not included."""
    inked = ink > INK * ink.max()
    rows, columns = np.flatnonzero(inked.any(1)), np.flatnonzero(inked.any(0))
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


def _center(ink: Pixels) -> NDArray[np.float64]:
    """Row and column of the center of mass."""
    total = ink.sum()
    rows, columns = ink.sum(1) @ np.arange(len(ink)), ink.sum(0) @ np.arange(ink.shape[1])
    return np.array([rows / total, columns / total], np.float64)


def _resize(image: Pixels, height: int, width: int) -> Pixels:
    """Each channel by areas where it shrinks, bilinear where it grows."""
    shrinks = height * width < image.shape[0] * image.shape[1]
    method = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
    channels = np.moveaxis(image[:, :, None] if image.ndim == 2 else image, 2, 0)
    resized = [np.asarray(Image.fromarray(c).resize((width, height), method)) for c in channels]
    return resized[0] if image.ndim == 2 else np.stack(resized, axis=2)

"""Small random changes of training images, made on whole batches. Torch and NumPy only."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


class RandomAffine:
    """Turns, resizes, slants and moves each image a little, anew in each epoch.

    Each is drawn evenly from minus to plus its argument: `degrees` of rotation, `scale` as a share
    (0.1: from 0.9 to 1.1 times the size), `shear` as a share (0.1: a pixel sideways every ten
    pixels), `shift` in pixels along both axes. What comes in from outside is black.
    """

    def __init__(
        self, degrees: float = 0.0, scale: float = 0.0, shear: float = 0.0, shift: float = 0.0
    ) -> None:
        for name, value in [("degrees", degrees), ("shear", shear), ("shift", shift)]:
            if value < 0:
                raise ValueError(f"{name} is {value}: it must be 0 or more.")
        if not 0 <= scale < 1:
            raise ValueError(f"scale is {scale}: it must be from 0 up to, not including, 1.")
        self.degrees = degrees
        self.scale = scale
        self.shear = shear
        self.shift = shift

    def draw(self, num_images: int, image_size: int, rng: np.random.Generator) -> Tensor:
        """Maps from output to input coordinates (N, 2, 3), both from -1 to 1, for each image."""
        angle, scale, shear, *shift = rng.uniform(-1, 1, (5, num_images)).astype(np.float32)
        angle = math.radians(self.degrees) * angle
        cos, sin = np.cos(angle), np.sin(angle)
        slant = self.shear * shear
        size = 1 / (1 + self.scale * scale)
        right, down = (2 * self.shift / image_size * part for part in shift)
        # A rotation after a slant, at a size.
        rows = [size * cos, size * (cos * slant - sin), right]
        rows += [size * sin, size * (sin * slant + cos), down]
        return torch.from_numpy(np.stack(rows, axis=1).reshape(num_images, 2, 3))

    def __call__(self, images: Tensor, maps: Tensor) -> Tensor:
        """Float images (N, C, H, W) seen through their maps (N, 2, 3), by linear interpolation."""
        grid = functional.affine_grid(maps, list(images.shape), align_corners=False)
        return functional.grid_sample(images, grid, align_corners=False)

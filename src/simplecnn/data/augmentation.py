"""Random augmentation of training images, a batch at a time. Imports PyTorch and NumPy only."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

NUM_LINES = 5  # control points of RandomElastic along each axis


@dataclass(eq=False)
class RandomAffine:
    """Rotate, scale, shear and translate each image at random, differently in each epoch.

    Each parameter is drawn uniformly between minus and plus its argument. Pixels from outside the
    image are black.

    Args:
        degrees: rotation, in degrees.
        scale: relative change of size; 0.1 for factors from 0.9 to 1.1.
        shear: horizontal displacement per vertical pixel; 0.1 for one pixel in ten.
        shift: translation along both axes, in pixels.
    """

    degrees: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    shift: float = 0.0

    def draw(self, num_images: int, image_size: int, rng: np.random.Generator) -> Tensor:
        """Draw the parameters of each image's transform, as `__call__` takes them.

        Here: affine matrices (N, 2, 3) from output to input coordinates, both in [-1, 1].
        """
        angle, scale, shear, *shift = rng.uniform(-1, 1, (5, num_images)).astype(np.float32)
        angle = math.radians(self.degrees) * angle
        cos, sin = np.cos(angle), np.sin(angle)
        slant = self.shear * shear
        size = 1 / (1 + self.scale * scale)
        right, down = (2 * self.shift / image_size * part for part in shift)
        # The matrix is size * rotation @ shear.
        rows = [size * cos, size * (cos * slant - sin), right]
        rows += [size * sin, size * (sin * slant + cos), down]
        return torch.from_numpy(np.stack(rows, axis=1).reshape(num_images, 2, 3))

    def __call__(self, images: Tensor, params: Tensor) -> Tensor:
        """Transform float images (N, C, H, W) by bilinear interpolation."""
        num_images, _, height, width = images.shape
        # One matrix product for the batch; affine_grid does one per image, 10 times as slow.
        grid = params.flatten(0, 1) @ self.basis(height, width).to(params.device)
        grid = grid.view(num_images, 2, height, width).permute(0, 2, 3, 1)
        return functional.grid_sample(images, grid, align_corners=False)

    def basis(self, height: int, width: int) -> Tensor:
        """Return the basis functions (K, H * W) whose coefficients are the parameters (N, 2, K).

        Here: x, y and 1 at each pixel.
        """
        identity = functional.affine_grid(torch.eye(2, 3)[None], [1, 1, height, width], False)
        return torch.cat([identity.view(-1, 2).T, torch.ones(1, height * width)])


@dataclass(eq=False)
class RandomFlip(RandomAffine):
    """RandomAffine, and mirror images left to right with probability `flip`."""

    flip: float = 0.5

    def draw(self, num_images: int, image_size: int, rng: np.random.Generator) -> Tensor:
        params = super().draw(num_images, image_size, rng)
        is_flipped = torch.from_numpy(rng.random(num_images) < self.flip)
        params[is_flipped, :, 0] *= -1  # x is sampled at -x
        return params


@dataclass(eq=False)
class RandomColor(RandomFlip):
    """RandomFlip, and jitter the colors of each image.

    `brightness`, `contrast` and `saturation` are relative changes: 0.2 for factors from 0.8 to 1.2.
    Contrast is relative to the mean of the image, saturation to the gray value of each pixel.
    """

    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2

    def draw(self, num_images: int, image_size: int, rng: np.random.Generator) -> Tensor:
        """Draw affine matrices, followed by the three factors in both rows (N, 2, 3 + 3)."""
        params = super().draw(num_images, image_size, rng)
        color = self.brightness, self.contrast, self.saturation
        factors = 1 + rng.uniform(-1, 1, (num_images, 1, 3)) * color
        return torch.cat([params, torch.from_numpy(factors).float().expand(-1, 2, 3)], dim=2)

    def __call__(self, images: Tensor, params: Tensor) -> Tensor:
        images = super().__call__(images, params[:, :, :3].contiguous())
        brightness, contrast, saturation = params[:, 0, 3:].T.view(3, -1, 1, 1, 1)
        images = images * brightness
        mean = images.mean((1, 2, 3), keepdim=True)
        images = torch.lerp(mean, images, contrast)
        gray = images.mean(1, keepdim=True)
        return torch.lerp(gray, images, saturation).clamp(0, 1)


@dataclass(eq=False)
class RandomElastic(RandomAffine):
    """RandomAffine, and deform each image elastically, as handwriting varies.

    A grid of 5 x 5 control points is displaced along both axes by normally distributed pixels with
    standard deviation `bend`; displacements between them are interpolated. After Simard,
    Steinkraus and Platt, "Best Practices for Convolutional Neural Networks", ICDAR 2003.
    """

    bend: float = 0.0

    def draw(self, num_images: int, image_size: int, rng: np.random.Generator) -> Tensor:
        """Draw affine matrices, followed by the displacements (N, 2, 3 + 25)."""
        params = super().draw(num_images, image_size, rng)
        displacements = rng.standard_normal((num_images, 2, NUM_LINES**2), dtype=np.float32)
        displacements *= 2 * self.bend / image_size
        return torch.cat([params, torch.from_numpy(displacements)], dim=2)

    def basis(self, height: int, width: int) -> Tensor:
        control_points = torch.eye(NUM_LINES**2).view(-1, 1, NUM_LINES, NUM_LINES)
        weights = functional.interpolate(
            control_points, (height, width), mode="bicubic", align_corners=True
        )
        return torch.cat([super().basis(height, width), weights.flatten(1)])

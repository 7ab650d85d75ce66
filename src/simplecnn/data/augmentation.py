"""Small random changes of training images, made on whole batches. Torch and NumPy only."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

NUM_LINES = 5  # along each axis, of the net that RandomElastic bends


class RandomAffine:
    """Turns, resizes, slants and moves each image a little, anew in each epoch.

    Each is drawn evenly from minus to plus its argument: `degrees` of rotation, `scale` as a share
    (0.1: from 0.9 to 1.1 times the size), `shear` as a share (0.1: a pixel sideways every ten
    pixels), `shift` in pixels along both axes. What comes in from outside is black.
    """

    def __init__(
        self, degrees: float = 0.0, scale: float = 0.0, shear: float = 0.0, shift: float = 0.0
    ) -> None:
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
        """Float images (N, C, H, W) seen through their maps, by linear interpolation."""
        num_images, _, height, width = images.shape
        # One matrix product for the batch: affine_grid makes one an image, 10 times as slow.
        grid = maps.flatten(0, 1) @ self.surfaces(height, width).to(maps.device)
        grid = grid.view(num_images, 2, height, width).permute(0, 2, 3, 1)
        return functional.grid_sample(images, grid, align_corners=False)

    def surfaces(self, height: int, width: int) -> Tensor:
        """What the columns of a map are factors of, at each pixel (K, H * W): x, y and 1."""
        still = functional.affine_grid(torch.eye(2, 3)[None], [1, 1, height, width], False)
        return torch.cat([still.view(-1, 2).T, torch.ones(1, height * width)])


class RandomFlip(RandomAffine):
    """The same, and a share `flip` of the images mirrored, left for right."""

    def __init__(self, *, flip: float = 0.5, **affine: float) -> None:
        super().__init__(**affine)
        self.flip = flip

    def draw(self, num_images: int, image_size: int, rng: np.random.Generator) -> Tensor:
        maps = super().draw(num_images, image_size, rng)
        mirrored = torch.from_numpy(rng.random(num_images) < self.flip)
        maps[mirrored, :, 0] *= -1  # the pixel x to the right is read x to the left
        return maps


class RandomColor(RandomFlip):
    """The same, and the colors of each image changed a little.

    `brightness`, `contrast` and `saturation` are shares: 0.2 for factors from 0.8 to 1.2. Contrast
    is about the mean of the image, saturation about the gray of each pixel.
    """

    def __init__(
        self,
        *,
        brightness: float = 0.2,
        contrast: float = 0.2,
        saturation: float = 0.2,
        **flip_and_affine: float,
    ) -> None:
        super().__init__(**flip_and_affine)
        self.color = brightness, contrast, saturation

    def draw(self, num_images: int, image_size: int, rng: np.random.Generator) -> Tensor:
        """Affine maps, and beside them the three factors, twice (N, 2, 3 + 3)."""
        maps = super().draw(num_images, image_size, rng)
        factors = 1 + rng.uniform(-1, 1, (num_images, 1, 3)) * self.color
        return torch.cat([maps, torch.from_numpy(factors).float().expand(-1, 2, 3)], dim=2)

    def __call__(self, images: Tensor, maps: Tensor) -> Tensor:
        images = super().__call__(images, maps[:, :, :3].contiguous())
        brightness, contrast, saturation = maps[:, 0, 3:].T.view(3, -1, 1, 1, 1)
        images = images * brightness
        mean = images.mean((1, 2, 3), keepdim=True)
        images = torch.lerp(mean, images, contrast)
        gray = images.mean(1, keepdim=True)
        return torch.lerp(gray, images, saturation).clamp(0, 1)


class RandomElastic(RandomAffine):
    """The same as RandomAffine, and each image bent a little, as handwriting differs by hand.

    The crossings of a net of 5 x 5 lines move along both axes, by normally distributed pixels with
    `bend` as their standard deviation, and what lies between follows smoothly. After Simard,
    Steinkraus and Platt, "Best Practices for Convolutional Neural Networks", ICDAR 2003.
    """

    def __init__(self, *, bend: float = 0.0, **affine: float) -> None:
        super().__init__(**affine)
        self.bend = bend

    def draw(self, num_images: int, image_size: int, rng: np.random.Generator) -> Tensor:
        """Affine maps, and how far the crossings move (N, 2, 3 + 25)."""
        maps = super().draw(num_images, image_size, rng)
        moves = rng.standard_normal((num_images, 2, NUM_LINES**2), dtype=np.float32)
        moves *= 2 * self.bend / image_size
        return torch.cat([maps, torch.from_numpy(moves)], dim=2)

    def surfaces(self, height: int, width: int) -> Tensor:
        crossings = torch.eye(NUM_LINES**2).view(-1, 1, NUM_LINES, NUM_LINES)
        between = functional.interpolate(
            crossings, (height, width), mode="bicubic", align_corners=True
        )
        return torch.cat([super().surfaces(height, width), between.flatten(1)])

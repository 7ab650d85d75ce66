"""Random augmentation: what each transform does, and that it depends on seed and epoch alone."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from simplecnn.data.augmentation import (
    NUM_LINES,
    RandomAffine,
    RandomColor,
    RandomElastic,
    RandomFlip,
)
from simplecnn.data.batches import Batches
from simplecnn.data.mnist import MNISTDataModule


def draw(augmentation: RandomAffine, num_images: int = 2000) -> np.ndarray:
    return augmentation.draw(num_images, 28, np.random.default_rng(0)).numpy()


def test_the_identity_changes_nothing(ten_digits):
    images = torch.from_numpy(ten_digits[0])
    affine = RandomAffine()
    identity = torch.from_numpy(draw(affine, 10))
    torch.testing.assert_close(affine(images, identity), images, rtol=0, atol=1e-5)


def test_a_shift_by_whole_pixels_translates_the_digit_and_fills_with_black(ten_digits):
    images = torch.from_numpy(ten_digits[0])
    params = torch.eye(2, 3).repeat(10, 1, 1)
    params[:, 0, 2] = 2 * 3 / 28  # samples three pixels to the right
    shifted = RandomAffine(shift=3)(images, params)
    torch.testing.assert_close(shifted[..., :-3], images[..., 3:], rtol=0, atol=1e-5)
    assert torch.all(shifted[..., -3:].abs() < 1e-5)


def test_a_rotation_by_90_degrees_is_rot90(ten_digits):
    images = torch.from_numpy(ten_digits[0])
    params = torch.tensor([[0.0, -1, 0], [1, 0, 0]]).repeat(10, 1, 1)
    rotated = RandomAffine(degrees=90)(images, params)
    torch.testing.assert_close(rotated, torch.rot90(images, 1, (2, 3)), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "measure", "limit"),
    [
        # measures the angle, scale, shear and shift of each affine matrix
        ({"degrees": 10}, lambda m: np.rad2deg(np.arctan2(m[:, 1, 0], m[:, 0, 0])), 10),
        ({"scale": 0.2}, lambda m: 1 / np.sqrt(np.linalg.det(m[:, :, :2])) - 1, 0.2),
        ({"shear": 0.3}, lambda m: m[:, 0, 1], 0.3),
        ({"shift": 2}, lambda m: m[:, 0, 2] * 14, 2),
        ({"shift": 2}, lambda m: m[:, 1, 2] * 14, 2),
    ],
)
def test_each_parameter_is_uniform_up_to_its_limit(arguments, measure, limit):
    values = measure(draw(RandomAffine(**arguments)))
    assert -limit - 1e-4 <= values.min() < -0.98 * limit
    assert 0.98 * limit < values.max() <= limit + 1e-4
    assert abs(values.mean()) < 0.05 * limit
    assert values.std() == pytest.approx(limit / np.sqrt(3), rel=0.05)


def test_transforms_equal_those_of_affine_grid(ten_digits):
    images = torch.from_numpy(ten_digits[0])
    affine = RandomAffine(degrees=30, scale=0.3, shear=0.3, shift=4)
    params = affine.draw(10, 28, np.random.default_rng(1))
    grid = torch.nn.functional.affine_grid(params, list(images.shape), align_corners=False)
    expected = torch.nn.functional.grid_sample(images, grid, align_corners=False)
    torch.testing.assert_close(affine(images, params), expected, rtol=0, atol=1e-4)


def test_equal_displacements_translate_the_digit(ten_digits):
    images = torch.from_numpy(ten_digits[0])
    params = torch.cat([torch.eye(2, 3), torch.zeros(2, NUM_LINES**2)], dim=1).repeat(10, 1, 1)
    params[:, 1, 3:] = 2 * 2 / 28  # samples two pixels further down
    shifted = RandomElastic()(images, params)
    torch.testing.assert_close(shifted[:, :, :-2], images[:, :, 2:], rtol=0, atol=1e-4)


def test_one_control_point_deforms_only_its_neighborhood():
    ramp = torch.arange(28.0).repeat(28, 1)[None, None]  # the value of a pixel is its column
    identity = torch.cat([torch.eye(2, 3), torch.zeros(2, NUM_LINES**2)], dim=1)[None]
    displaced = identity.clone()
    displaced[0, 0, 3 + 2 * NUM_LINES + 2] = 2 / 28  # the central point, by one pixel
    elastic = RandomElastic(bend=1)
    change = (elastic(ramp, displaced) - elastic(ramp, identity))[0, 0]
    assert change[13:15, 13:15].min() > 0.9 and change.abs().max() <= 1.001
    assert change[:, :1].abs().max() < 0.01 and change[:1].abs().max() < 0.01


def test_displacements_have_the_standard_deviation_bend():
    params = RandomElastic(shift=2, bend=0.5).draw(2000, 28, np.random.default_rng(0))
    assert params.shape == (2000, 2, 3 + NUM_LINES**2)
    pixels = params[..., 3:] * 14
    assert abs(pixels.mean()) < 0.01 and pixels.std() == pytest.approx(0.5, rel=0.02)
    affine = RandomAffine(shift=2).draw(2000, 28, np.random.default_rng(0))
    assert torch.equal(params[..., :3], affine)


def epoch_images(loader: Batches, epoch: int) -> torch.Tensor:
    """Return the images of an epoch, sorted by their labels."""
    loader.set_epoch(epoch)
    images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    return images[labels.argsort()]


def test_augmentation_depends_on_seed_and_epoch_not_on_batches(bundled):
    images, labels = torch.from_numpy(bundled[0][::10, None].copy()), torch.arange(500)
    affine = RandomAffine(degrees=10, scale=0.1, shear=0.1, shift=2)

    def loader(**options):
        defaults = {"batch_size": 64, "shuffle_seed": 1, "augmentation": affine}
        return Batches(images, labels, **defaults | options)

    first = epoch_images(loader(), 0)
    assert first.shape == (500, 1, 28, 28) and 0 <= first.min() and first.max() <= 1 + 1e-6
    plain = images / 255
    assert (first - plain).abs().mean(dim=(1, 2, 3)).min() > 1e-3  # every image differs
    assert first.mean() == pytest.approx(plain.mean().item(), rel=0.05)
    torch.testing.assert_close(first, epoch_images(loader(batch_size=37), 0), rtol=0, atol=1e-6)
    assert torch.equal(first, epoch_images(loader(), 0))
    assert not torch.equal(first, epoch_images(loader(), 1))
    assert not torch.equal(first, epoch_images(loader(shuffle_seed=2), 0))

    shares = [loader(rank=rank, world_size=2) for rank in (0, 1)]
    by_label = {}
    for share in shares:
        for batch, batch_labels in share:
            by_label |= dict(zip(batch_labels.tolist(), batch, strict=True))
    combined = torch.stack([by_label[i] for i in range(500)])
    torch.testing.assert_close(combined, first, rtol=0, atol=1e-6)


def test_the_last_epochs_may_be_without_augmentation():
    datamodule = MNISTDataModule(
        dataset="MNIST5k", augmentation=RandomAffine(degrees=45), clean_epochs=2
    )
    datamodule.setup()

    def is_plain(epoch: int) -> bool:
        loader = datamodule.train_dataloader()
        loader.set_epoch(epoch)
        values = 255 * next(iter(loader))[0]
        return torch.allclose(values, values.round(), rtol=0, atol=1e-3)

    assert not any(is_plain(epoch) for epoch in range(5))  # the last epoch is unknown
    trainer = SimpleNamespace(max_epochs=5, overfit_batches=0, global_rank=0, world_size=1)
    datamodule.trainer = trainer
    assert [is_plain(epoch) for epoch in range(5)] == [False, False, False, True, True]
    trainer.max_epochs = -1  # unlimited
    assert not is_plain(4)


def test_evaluation_images_are_not_augmented(bundled):
    images, labels = torch.from_numpy(bundled[0][:100, None]), torch.arange(100)
    loader = Batches(images, labels, batch_size=50, augmentation=RandomAffine(degrees=45))
    assert torch.equal(torch.cat([batch for batch, _ in loader]), images / 255)


def test_a_flip_mirrors_images_with_its_probability(ten_digits):
    images = torch.from_numpy(ten_digits[0]).repeat(200, 1, 1, 1)
    flip = RandomFlip(flip=0.25)
    pairs = list(zip(flip(images, torch.from_numpy(draw(flip))), images, strict=True))
    mirrored = [torch.allclose(output, image.flip(-1), atol=1e-5) for output, image in pairs]
    unchanged = [torch.allclose(output, image, atol=1e-5) for output, image in pairs]
    assert all(a != b for a, b in zip(mirrored, unchanged, strict=True))
    assert np.mean(mirrored) == pytest.approx(0.25, abs=0.04)


@pytest.mark.parametrize(
    ("name", "measure"),
    [
        ("brightness", lambda x: x.mean((1, 2, 3))),
        ("contrast", lambda x: x.amax((1, 2, 3)) - x.amin((1, 2, 3))),
        ("saturation", lambda x: (x.amax(1) - x.amin(1)).mean((1, 2))),
    ],
)
def test_color_factors_are_uniform_up_to_their_limit(name, measure):
    image = torch.tensor([[0.3, 0.5], [0.4, 0.5], [0.5, 0.5]])[:, None, :].expand(3, 2, 2)
    disabled = dict.fromkeys({"brightness", "contrast", "saturation", "flip"} - {name}, 0.0)
    color = RandomColor(**disabled, **{name: 0.3})
    images = image.expand(2000, -1, -1, -1)
    factors = measure(color(images, torch.from_numpy(draw(color)))) / measure(images)
    assert 0.7 - 1e-3 <= factors.min() < 0.72 and 1.28 < factors.max() <= 1.3 + 1e-3


def test_colors_stay_between_black_and_white():
    color = RandomColor(brightness=1.0, contrast=1.0, saturation=1.0)
    output = color(torch.rand(500, 3, 4, 4), torch.from_numpy(draw(color, 500)))
    assert output.min() >= 0 and output.max() <= 1

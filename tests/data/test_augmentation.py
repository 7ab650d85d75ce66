"""Small random changes of the training images."""

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


def maps(affine: RandomAffine, num_images: int = 2000) -> np.ndarray:
    return affine.draw(num_images, 28, np.random.default_rng(0)).numpy()


def test_no_change_changes_nothing(ten_digits):
    images = torch.from_numpy(ten_digits[0])
    affine = RandomAffine()
    still = torch.from_numpy(maps(affine, 10))
    torch.testing.assert_close(affine(images, still), images, rtol=0, atol=1e-5)


def test_a_shift_by_whole_pixels_moves_the_digit_and_brings_in_black(ten_digits):
    images = torch.from_numpy(ten_digits[0])
    moved = torch.eye(2, 3).repeat(10, 1, 1)
    moved[:, 0, 2] = 2 * 3 / 28  # looks three pixels to the right
    found = RandomAffine(shift=3)(images, moved)
    torch.testing.assert_close(found[..., :-3], images[..., 3:], rtol=0, atol=1e-5)
    assert torch.all(found[..., -3:].abs() < 1e-5)


def test_a_quarter_turn_is_a_quarter_turn(ten_digits):
    images = torch.from_numpy(ten_digits[0])
    turned = torch.tensor([[0.0, -1, 0], [1, 0, 0]]).repeat(10, 1, 1)
    found = RandomAffine(degrees=90)(images, turned)
    torch.testing.assert_close(found, torch.rot90(images, 1, (2, 3)), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "measure", "limit"),
    [
        # the angle, the size, the slant and the shift that each map stands for
        ({"degrees": 10}, lambda m: np.rad2deg(np.arctan2(m[:, 1, 0], m[:, 0, 0])), 10),
        ({"scale": 0.2}, lambda m: 1 / np.sqrt(np.linalg.det(m[:, :, :2])) - 1, 0.2),
        ({"shear": 0.3}, lambda m: m[:, 0, 1], 0.3),
        ({"shift": 2}, lambda m: m[:, 0, 2] * 14, 2),
        ({"shift": 2}, lambda m: m[:, 1, 2] * 14, 2),
    ],
)
def test_each_change_is_drawn_evenly_up_to_its_limit(arguments, measure, limit):
    values = measure(maps(RandomAffine(**arguments)))
    assert -limit - 1e-4 <= values.min() < -0.98 * limit
    assert 0.98 * limit < values.max() <= limit + 1e-4
    assert abs(values.mean()) < 0.05 * limit
    assert values.std() == pytest.approx(limit / np.sqrt(3), rel=0.05)


def test_maps_look_where_torch_s_own_affine_grid_looks(ten_digits):
    images = torch.from_numpy(ten_digits[0])
    affine = RandomAffine(degrees=30, scale=0.3, shear=0.3, shift=4)
    drawn = affine.draw(10, 28, np.random.default_rng(1))
    grid = torch.nn.functional.affine_grid(drawn, list(images.shape), align_corners=False)
    expected = torch.nn.functional.grid_sample(images, grid, align_corners=False)
    torch.testing.assert_close(affine(images, drawn), expected, rtol=0, atol=1e-4)


def test_a_net_that_moves_as_a_whole_moves_the_digit(ten_digits):
    images = torch.from_numpy(ten_digits[0])
    moved = torch.cat([torch.eye(2, 3), torch.zeros(2, NUM_LINES**2)], dim=1).repeat(10, 1, 1)
    moved[:, 1, 3:] = 2 * 2 / 28  # looks two pixels further down
    found = RandomElastic()(images, moved)
    torch.testing.assert_close(found[:, :, :-2], images[:, :, 2:], rtol=0, atol=1e-4)


def test_one_crossing_moves_what_is_near_it_and_nothing_else():
    row = torch.arange(28.0).repeat(28, 1)  # brightness: the column
    still = torch.cat([torch.eye(2, 3), torch.zeros(2, NUM_LINES**2)], dim=1)[None]
    moved = still.clone()
    moved[0, 0, 3 + 2 * NUM_LINES + 2] = 2 / 28  # the one in the middle, a pixel
    elastic = RandomElastic(bend=1)
    change = (elastic(row[None, None], moved) - elastic(row[None, None], still))[0, 0]
    assert change[13:15, 13:15].min() > 0.9 and change.abs().max() <= 1.001
    assert change[:, :1].abs().max() < 0.01 and change[:1].abs().max() < 0.01


def test_crossings_move_as_far_as_bend_says():
    drawn = RandomElastic(shift=2, bend=0.5).draw(2000, 28, np.random.default_rng(0))
    assert drawn.shape == (2000, 2, 3 + NUM_LINES**2)
    pixels = drawn[..., 3:] * 14
    assert abs(pixels.mean()) < 0.01 and pixels.std() == pytest.approx(0.5, rel=0.02)
    same = RandomAffine(shift=2).draw(2000, 28, np.random.default_rng(0))
    assert torch.equal(drawn[..., :3], same)


def epoch_images(loader: Batches, epoch: int) -> torch.Tensor:
    """The images of an epoch in the order of their labels, which count them."""
    loader.set_epoch(epoch)
    images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    return images[labels.argsort()]


def test_an_epoch_is_made_from_seed_and_epoch_whatever_the_batches(bundled):
    images, labels = torch.from_numpy(bundled[0][::10, None].copy()), torch.arange(500)
    affine = RandomAffine(degrees=10, scale=0.1, shear=0.1, shift=2)

    def loader(**changes):
        words = {"batch_size": 64, "shuffle_seed": 1, "augmentation": affine} | changes
        return Batches(images, labels, **words)

    first = epoch_images(loader(), 0)
    assert first.shape == (500, 1, 28, 28) and 0 <= first.min() and first.max() <= 1 + 1e-6
    plain = images / 255
    assert (first - plain).abs().mean(dim=(1, 2, 3)).min() > 1e-3  # each was changed
    assert first.mean() == pytest.approx(plain.mean().item(), rel=0.05)
    torch.testing.assert_close(first, epoch_images(loader(batch_size=37), 0), rtol=0, atol=1e-6)
    assert torch.equal(first, epoch_images(loader(), 0))
    assert not torch.equal(first, epoch_images(loader(), 1))
    assert not torch.equal(first, epoch_images(loader(shuffle_seed=2), 0))

    shares = [loader(rank=rank, world_size=2) for rank in (0, 1)]
    seen = {}
    for share in shares:
        for batch, numbers in share:
            seen |= dict(zip(numbers.tolist(), batch, strict=True))
    both = torch.stack([seen[i] for i in range(500)])
    torch.testing.assert_close(both, first, rtol=0, atol=1e-6)


def test_the_last_epochs_may_see_the_images_as_they_are():
    datamodule = MNISTDataModule(
        dataset="MNIST5k", augmentation=RandomAffine(degrees=45), clean_epochs=2
    )
    datamodule.setup()

    def is_plain(epoch: int) -> bool:
        loader = datamodule.train_dataloader()
        loader.set_epoch(epoch)
        values = 255 * next(iter(loader))[0]
        return torch.allclose(values, values.round(), rtol=0, atol=1e-3)

    assert not any(is_plain(epoch) for epoch in range(5))  # nobody knows which are the last
    trainer = SimpleNamespace(max_epochs=5, overfit_batches=0, global_rank=0, world_size=1)
    datamodule.trainer = trainer
    assert [is_plain(epoch) for epoch in range(5)] == [False, False, False, True, True]
    trainer.max_epochs = -1  # without an end
    assert not is_plain(4)


def test_images_to_evaluate_are_never_changed(bundled):
    images, labels = torch.from_numpy(bundled[0][:100, None]), torch.arange(100)
    loader = Batches(images, labels, batch_size=50, augmentation=RandomAffine(degrees=45))
    assert torch.equal(torch.cat([batch for batch, _ in loader]), images / 255)


def test_a_flip_mirrors_its_share_of_the_images(ten_digits):
    images = torch.from_numpy(ten_digits[0]).repeat(200, 1, 1, 1)
    flip = RandomFlip(flip=0.25)
    found = flip(images, torch.from_numpy(maps(flip)))
    mirrored = [
        torch.allclose(f, i.flip(-1), atol=1e-5) for f, i in zip(found, images, strict=True)
    ]
    unchanged = [torch.allclose(f, i, atol=1e-5) for f, i in zip(found, images, strict=True)]
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
def test_colors_change_evenly_up_to_their_limit(name, measure):
    image = torch.tensor([[0.3, 0.5], [0.4, 0.5], [0.5, 0.5]])[:, None, :].expand(3, 2, 2)
    others = dict.fromkeys({"brightness", "contrast", "saturation", "flip"} - {name}, 0.0)
    color = RandomColor(**others, **{name: 0.3})
    images = image.expand(2000, -1, -1, -1)
    factors = measure(color(images, torch.from_numpy(maps(color)))) / measure(images)
    assert 0.7 - 1e-3 <= factors.min() < 0.72 and 1.28 < factors.max() <= 1.3 + 1e-3


def test_colors_stay_between_black_and_white():
    color = RandomColor(brightness=1.0, contrast=1.0, saturation=1.0)
    found = color(torch.rand(500, 3, 4, 4), torch.from_numpy(maps(color, 500)))
    assert found.min() >= 0 and found.max() <= 1

"""Batches: every image once per epoch, in an order that depends on seed and epoch alone."""

import hashlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simplecnn.data.augmentation import RandomAffine, RandomElastic
from simplecnn.data.batches import Batches, scale


def numbered(num_images: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one-pixel images, and their indices as labels."""
    labels = torch.arange(num_images)
    return (labels % 256).to(torch.uint8).reshape(-1, 1, 1, 1), labels


def label_lists(batches: Iterator | Batches) -> list[list[int]]:
    return [labels.tolist() for _, labels in batches]


def test_scale_equals_to_tensor():
    from torchvision.transforms.functional import to_tensor

    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    scaled = scale(torch.from_numpy(values))
    assert scaled.dtype == torch.float32
    assert torch.equal(scaled, to_tensor(values[:, :, None])[0])
    assert (scaled.min(), scaled.max()) == (0.0, 1.0)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_holds_images_and_their_labels(channels):
    shape = (100, channels, 28, 28)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator())
    labels = torch.arange(100)
    loader = Batches(images, labels, batch_size=32, shuffle_seed=1)
    assert len(loader) == 4
    sizes = []
    for batch, indices in loader:
        assert (batch.dtype, indices.dtype) == (torch.float32, torch.int64)
        assert batch.shape == (len(indices), channels, 28, 28)
        assert torch.equal(batch, images[indices] / 255)
        batch.mul_(0), indices.mul_(0)  # batches are copies
        sizes.append(len(indices))
    assert sizes == [32, 32, 32, 4]
    assert torch.equal(labels, torch.arange(100))
    assert images.max() > 0


def test_the_order_of_an_epoch_depends_on_seed_and_epoch_alone():
    images, labels = numbered(60_000)
    loader = Batches(images, labels, batch_size=8, shuffle_seed=42)
    assert next(iter(loader))[1].tolist() == [3493, 57546, 8815, 19332, 15566, 22963, 21972, 22093]
    loader.set_epoch(1)
    assert next(iter(loader))[1].tolist() == [9611, 42233, 29064, 48104, 2118, 33589, 48636, 16879]
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    orders = {}
    for seed in (0, 1, 2):
        loader = Batches(images[:100], labels[:100], batch_size=100, shuffle_seed=seed)
        for epoch in (0, 1, 2):
            loader.set_epoch(epoch)
            (orders[seed, epoch],) = label_lists(loader)
            assert sorted(orders[seed, epoch]) == list(range(100))
    assert len({tuple(order) for order in orders.values()}) == 9
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("augmentation", "expected"),
    [
        (None, (51113.65926946746, 112022.08384451893)),
        (
            RandomAffine(degrees=10, scale=0.1, shear=0.1, shift=2),
            (51431.90409253974, 112871.00556580446),
        ),
        (RandomElastic(degrees=10, bend=0.7), (51272.27774576554, 112388.61399609671)),
    ],
    ids=["plain", "affine", "elastic"],
)
def test_batches_of_a_seed_are_those_of_earlier_versions(augmentation, expected, bundled):
    """The order by a checksum, the images by two sums, as rounding depends on the processor."""
    images = torch.from_numpy(bundled[0][::10, None].copy())
    labels = torch.from_numpy(bundled[1][::10].copy())
    loader = Batches(images, labels, batch_size=64, shuffle_seed=5, augmentation=augmentation)
    loader.set_epoch(3)
    total, weighted = 0.0, 0.0
    order = []
    for i, (batch, batch_labels) in enumerate(loader, start=1):
        total += float(batch.double().sum())
        weights = torch.linspace(0, i, batch.numel(), dtype=torch.float64).view_as(batch)
        weighted += float((batch.double() * weights).sum())
        order += batch_labels.tolist()
    assert hashlib.sha256(bytes(order)).hexdigest()[:16] == "ebe5493f8584fe08"
    assert (total, weighted) == pytest.approx(expected, rel=1e-6)


def test_without_a_seed_the_images_keep_their_order():
    loader = Batches(*numbered(7), batch_size=3)
    assert label_lists(loader) == [[0, 1, 2], [3, 4, 5], [6]]
    loader.set_epoch(5)
    assert label_lists(loader) == [[0, 1, 2], [3, 4, 5], [6]]


def test_each_complete_pass_advances_the_epoch():
    loader, expected = (Batches(*numbered(50), batch_size=8, shuffle_seed=3) for _ in range(2))
    for epoch in range(3):
        next(iter(loader))  # an incomplete pass does not count
        expected.set_epoch(epoch)
        assert label_lists(loader) == label_lists(expected)


sizes = st.tuples(st.integers(1, 60), st.integers(1, 20), st.integers(1, 5)).filter(
    lambda size: size[2] <= min(size[0], size[1])
)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(sizes, st.sampled_from([None, 0, 7]), st.integers(0, 3))
def test_processes_share_every_batch(size, seed, epoch):
    num_images, batch_size, world_size = size
    single = Batches(*numbered(num_images), batch_size=batch_size, shuffle_seed=seed)
    shares = [
        Batches(
            *numbered(num_images),
            batch_size=batch_size,
            shuffle_seed=seed,
            rank=rank,
            world_size=world_size,
        )
        for rank in range(world_size)
    ]
    for loader in (single, *shares):
        loader.set_epoch(epoch)
    expected, per_process = label_lists(single), [label_lists(share) for share in shares]
    assert len(expected) == len(single) == -(-num_images // batch_size)
    for share, batches in zip(shares, per_process, strict=True):
        assert len(share) == len(shares[0]) == len(batches)
        assert all(batches)  # no batch is empty
    combined = [sum(parts, []) for parts in zip(*per_process, strict=True)]
    assert sum(combined, []) == sum(expected, [])
    if 0 < num_images % batch_size < world_size and num_images > batch_size:
        expected = expected[:-2] + [expected[-2] + expected[-1]]  # too few images for a batch
    assert combined == expected
    for parts in zip(*per_process, strict=True):
        lengths = [len(part) for part in parts]
        assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize(
    ("keywords", "sentence"),
    [
        ({"batch_size": 0}, "batch_size is 0 and there are 10 images: both must be at least 1"),
        ({"batch_size": 2, "world_size": 3}, "both must be at least 1 for each of 3 processes."),
        ({"batch_size": 20, "world_size": 11}, "both must be at least 1 for each of 11 process"),
    ],
)
def test_invalid_sizes_raise_value_error(keywords, sentence):
    with pytest.raises(ValueError, match=sentence):
        Batches(*numbered(10), **keywords)


def test_different_numbers_of_images_and_labels_raise_value_error():
    with pytest.raises(ValueError, match="There are 10 images but 9 labels."):
        Batches(numbered(10)[0], numbered(9)[1], batch_size=2)

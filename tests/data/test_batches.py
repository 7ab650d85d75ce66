"""Batches and their order: every image once, shared by processes, made from seed and epoch."""

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
    """Images of one pixel, and labels that count them."""
    labels = torch.arange(num_images)
    return (labels % 256).to(torch.uint8).reshape(-1, 1, 1, 1), labels


def label_lists(batches: Iterator | Batches) -> list[list[int]]:
    return [labels.tolist() for _, labels in batches]


def test_pixels_are_those_of_to_tensor():
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
    seen = []
    for batch, chosen in loader:
        assert (batch.dtype, chosen.dtype) == (torch.float32, torch.int64)
        assert batch.shape == (len(chosen), channels, 28, 28)
        assert torch.equal(batch, images[chosen] / 255)
        batch.mul_(0), chosen.mul_(0)  # a batch is the receiver's own
        seen.append(len(chosen))
    assert seen == [32, 32, 32, 4]
    assert torch.equal(labels, torch.arange(100))
    assert images.max() > 0


def test_the_order_of_an_epoch_is_made_from_seed_and_epoch():
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
def test_the_same_seed_gives_the_batches_of_earlier_versions(augmentation, expected, bundled):
    """The order by a checksum; the images by two sums, as processors round differently."""
    images = torch.from_numpy(bundled[0][::10, None].copy())
    labels = torch.from_numpy(bundled[1][::10].copy())
    loader = Batches(images, labels, batch_size=64, shuffle_seed=5, augmentation=augmentation)
    loader.set_epoch(3)
    total, weighted = 0.0, 0.0
    order = []
    for i, (batch, chosen) in enumerate(loader, start=1):
        total += float(batch.double().sum())
        weights = torch.linspace(0, i, batch.numel(), dtype=torch.float64).view_as(batch)
        weighted += float((batch.double() * weights).sum())
        order += chosen.tolist()
    assert hashlib.sha256(bytes(order)).hexdigest()[:16] == "ebe5493f8584fe08"
    assert (total, weighted) == pytest.approx(expected, rel=1e-6)


def test_without_a_seed_the_order_is_that_of_the_images():
    loader = Batches(*numbered(7), batch_size=3)
    assert label_lists(loader) == [[0, 1, 2], [3, 4, 5], [6]]
    loader.set_epoch(5)
    assert label_lists(loader) == [[0, 1, 2], [3, 4, 5], [6]]


def test_each_complete_pass_begins_the_next_epoch():
    loader, named = (Batches(*numbered(50), batch_size=8, shuffle_seed=3) for _ in range(2))
    for epoch in range(3):
        next(iter(loader))  # a pass that is left early does not count
        named.set_epoch(epoch)
        assert label_lists(loader) == label_lists(named)


sizes = st.tuples(st.integers(1, 60), st.integers(1, 20), st.integers(1, 5)).filter(
    lambda size: size[2] <= min(size[0], size[1])
)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(sizes, st.sampled_from([None, 0, 7]), st.integers(0, 3))
def test_processes_share_every_batch(size, seed, epoch):
    num_images, batch_size, world_size = size
    alone = Batches(*numbered(num_images), batch_size=batch_size, shuffle_seed=seed)
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
    for loader in (alone, *shares):
        loader.set_epoch(epoch)
    of_all, of_each = label_lists(alone), [label_lists(share) for share in shares]
    assert len(of_all) == len(alone) == -(-num_images // batch_size)
    for share, batches in zip(shares, of_each, strict=True):
        assert len(share) == len(shares[0]) == len(batches)
        assert all(batches)  # no batch is empty
    together = [sum(parts, []) for parts in zip(*of_each, strict=True)]
    assert sum(together, []) == sum(of_all, [])
    joined = 0 < num_images % batch_size < world_size and num_images > batch_size
    assert together == (of_all[:-2] + [of_all[-2] + of_all[-1]] if joined else of_all)
    for parts in zip(*of_each, strict=True):
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
def test_sizes_that_make_no_sense(keywords, sentence):
    with pytest.raises(ValueError, match=sentence):
        Batches(*numbered(10), **keywords)


def test_images_and_labels_must_match():
    with pytest.raises(ValueError, match="There are 10 images but 9 labels."):
        Batches(numbered(10)[0], numbered(9)[1], batch_size=2)

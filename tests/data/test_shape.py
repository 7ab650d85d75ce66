"""Image shape and number of classes of a custom data module."""

import numpy as np
import pytest
import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Subset, TensorDataset

from simplecnn.data.shape import DataShape, class_names, data_shape, known_class_names
from simplecnn.errors import InputError

IMAGES, LABELS = torch.zeros(4, 3, 6, 8), torch.tensor([0, 1, 4, 2])


class Batches(LightningDataModule):
    def __init__(self, *batches: object) -> None:
        super().__init__()
        self.batches = list(batches)

    def train_dataloader(self) -> list[object]:
        return self.batches


def test_the_shape_is_inferred_from_all_training_batches():
    expected = DataShape(in_channels=3, height=6, width=8, num_classes=6)
    assert data_shape(Batches((IMAGES, LABELS), (IMAGES, LABELS + 1))) == expected


def test_classes_of_the_data_set_of_a_subset():
    dataset = TensorDataset(IMAGES, LABELS)
    dataset.classes = ["a", "b", "c", "d", "e", "f", "g"]
    loader = DataLoader(Subset(Subset(dataset, [0, 1]), [0]), batch_size=1)
    module = Batches()
    module.train_dataloader = lambda: loader
    assert data_shape(module) == DataShape(3, 6, 8, num_classes=7)
    assert known_class_names(module, loader) == tuple("abcdefg")
    assert class_names(module, loader, 7) == tuple("abcdefg")
    assert class_names(module, loader, 2) == ("0", "1")
    assert known_class_names(module, None) is None
    module.class_names = ("x", "y")
    assert class_names(module, loader, 7) == tuple("abcdefg")
    # A wrapper that is no Subset may have other classes than the data set in it.
    wrapper = TensorDataset(IMAGES, LABELS)
    wrapper.dataset, wrapper.classes = dataset, ["even", "odd"]
    assert class_names(None, DataLoader(wrapper), 2) == ("even", "odd")
    wrapper.classes = np.array(["even", "odd"])
    assert known_class_names(None, DataLoader(wrapper)) is None


@pytest.mark.parametrize(
    ("batches", "found"),
    [
        ([(LABELS, IMAGES)], "(a tensor of shape (4,), a tensor of shape (4, 3, 6, 8))"),
        ([{"image": IMAGES}], "dict"),
        ([], "nothing"),
    ],
)
def test_other_batches_are_reported_with_their_shapes(batches, found):
    with pytest.raises(InputError) as caught:
        data_shape(Batches(*batches))
    assert f"labels (N,)) but {found}, so the network cannot be adapted" in str(caught.value)

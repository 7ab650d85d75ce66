"""Calibration, computed by hand on four images and as `evaluate` writes it; the class table."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, IterableDataset

import simplecnn
from simplecnn.errors import InputError
from simplecnn.figures.inference.reliability import reliability_figure
from simplecnn.inference.calibration import calibration
from simplecnn.inference.evaluate import TestData, _table, evaluate, summarize
from simplecnn.inference.trained_run import TrainedRun
from simplecnn.run_directory import RunDirectory


def test_calibration_by_hand():
    probabilities = torch.tensor(
        [[0.7, 0.2, 0.1], [0.72, 0.08, 0.2], [0.5, 0.3, 0.2], [0.1, 0.0, 0.9]]
    )
    logits = (probabilities + 1e-12).log()
    labels = torch.tensor([0, 1, 1, 2])
    result = calibration(logits, labels)
    # bins of width 1/15: 0.5 | 0.7 and 0.72 | 0.9
    ece = (1 * abs(0 - 0.5) + 2 * abs(0.5 - 0.71) + 1 * abs(1 - 0.9)) / 4
    assert result["ece"] == pytest.approx(ece, abs=1e-6)
    assert result["top2_acc"] == 0.75  # the label of the second image is not in its top 2
    filled = {i: b for i, b in enumerate(result["calibration_bins"]) if b["num_images"]}
    assert {i: (b["num_images"], b["confidence"], b["acc"]) for i, b in filled.items()} == {
        7: (1, 0.5, 0.0), 10: (2, 0.71, 0.5), 13: (1, 0.9, 1.0),
    }  # fmt: skip
    assert calibration(logits.bfloat16(), labels)["ece"] == pytest.approx(ece, abs=0.01)
    loss = summarize(logits, labels, ["a", "b", "c"])["loss"]
    assert loss == pytest.approx(-np.log([0.7, 0.08, 0.3, 0.9]).mean(), abs=1e-5)


def test_a_confidence_of_one_is_in_the_last_bin():
    logits = torch.tensor([[200.0, 0.0], [200.0, 0.0], [4.0, 0.0]])  # 1.0 in float32, twice
    result = calibration(logits, torch.tensor([0, 1, 0]))
    last = result["calibration_bins"][-1]
    mean = (2 + 1 / (1 + math.exp(-4))) / 3
    assert (last["num_images"], last["confidence"]) == (3, pytest.approx(mean, abs=1e-6))
    assert result["ece"] == pytest.approx(mean - 2 / 3, abs=1e-6)


def test_evaluate_writes_the_calibration_and_its_diagram(good_run, tmp_path, caplog):
    folder = tmp_path / "run"
    shutil.copytree(good_run, folder)
    directory = RunDirectory.open(folder)
    with caplog.at_level("INFO", "simplecnn"):
        evaluate(TrainedRun(directory, directory.checkpoint("best")), data=None)
    (result,) = json.loads((folder / "evaluation.json").read_text()).values()
    bins = result["calibration_bins"]
    assert len(bins) == 15 and sum(b["num_images"] for b in bins) == 500
    from_bins = sum(b["num_images"] * abs(b["confidence"] - b["acc"]) for b in bins if b["acc"])
    from_bins += sum(b["num_images"] * b["confidence"] for b in bins if b["acc"] == 0)
    assert result["ece"] == pytest.approx(from_bins / 500, abs=1e-5)
    assert result["acc"] < result["top2_acc"] <= 1
    assert f"expected calibration error {100 * result['ece']:.2f} %" in caplog.text
    stem = folder / "images" / "reliability_best_on_500_test_images_of_MNIST_5k"
    with np.load(stem.with_suffix(".npz")) as arrays:
        np.testing.assert_array_equal(arrays["num_images"], [b["num_images"] for b in bins])
    with Image.open(stem.with_suffix(".png")) as picture:
        assert picture.width > 600 and picture.height > 700


class Stream(IterableDataset):
    """A data set without a length."""

    def __init__(self, num_images):
        self.num_images = num_images

    def __iter__(self):
        return ((torch.zeros(1, 28, 28), i) for i in range(self.num_images))


@pytest.mark.parametrize("num_images", [5, 0])
def test_test_data_may_be_an_iterable_data_set(num_images, finished_run, monkeypatch):
    run = simplecnn.load(finished_run)
    module = LightningDataModule()
    module.test_dataloader = lambda: DataLoader(Stream(num_images), batch_size=2)
    monkeypatch.setattr("simplecnn.inference.evaluate.build", lambda config: module)
    if num_images == 0:
        with pytest.raises(InputError, match="data: LightningDataModule has no test images."):
            TestData(run)
        return
    images, labels = TestData(run).tensors()
    assert images.shape == (5, 1, 28, 28) and labels.tolist() == [0, 1, 2, 3, 4]


def test_the_table_has_full_class_names_and_is_at_most_120_characters_wide():
    names = ["airplane", "automobile", "cat"]
    logits = torch.eye(3)[[0, 0, 1, 0, 2]]
    result = summarize(logits, torch.tensor([0, 0, 1, 1, 2]), names)
    lines = _table("a run", result).splitlines()
    assert lines[0] == "a run" and lines[1].startswith("accuracy 80.00 %   macro 83.33 %")
    cells = [line.split() for line in lines[4:]]
    assert cells[0] == ["true", "recall", "precision", *names]
    assert cells[2] == ["automobile", "50.00", "%", "100.00", "%", "1", "1", "0"]
    long_names = [f"{name} of the year {year}" for name in names for year in range(1990, 2000)]
    labels = torch.arange(29)  # no image of the last class
    result = summarize(torch.eye(30)[[*range(28), 3]], labels, long_names)
    lines = _table("a run", result).splitlines()
    assert max(map(len, lines)) <= 120 and "most often predicted as" in lines[4]
    assert lines[-2].split("   ")[-1].strip() == "airplane of the year 1993 (1)"
    assert lines[-1].split() == ["cat", "of", "the", "year", "1999", "-", "-"]


def test_the_reliability_diagram_shows_each_bin():
    accuracies = np.array([np.nan, 0.25, 0.5, 1.0])
    figure = reliability_figure(np.array([0, 4, 10, 100]), np.array([np.nan, 0.3, 0.7, 0.9]),
                                accuracies, title="T")  # fmt: skip
    ax, below = figure.axes
    heights = [bar.get_height() for bar in ax.containers[0]]
    np.testing.assert_array_equal(heights, accuracies)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "at the mean confidence; line: gap to calibrated" in labels
    assert [bar.get_height() for bar in below.containers[0]][1:] == [4, 10, 100]

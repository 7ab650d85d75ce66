"""The figures of misclassified images and of the confusion matrix."""

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from rendered_text import assert_text_fits

from simplecnn.figures.confusion import confusion_figure
from simplecnn.figures.mistakes import mistakes_figure
from simplecnn.figures.style import COUNT, NEW, OLD

DIGITS = [str(i) for i in range(10)]
CLOTHES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker",
           "Bag", "Ankle boot"]  # fmt: skip
LONG = [f"a bird of the northern mountains, in flight, number {i}" for i in range(10)]


def some_mistakes(num_images: int, shape: tuple[int, int, int] = (1, 28, 28)):
    rng = np.random.default_rng(0)
    classes = [rng.permutation(10)[:2] for _ in range(num_images)]
    return {
        "images": rng.random((num_images, *shape)).astype(np.float32),
        "labels": rng.integers(0, 10, num_images),
        "classes": np.array(classes, int).reshape(-1, 2),
        "probabilities": np.tile([0.7, 0.2], (num_images, 1)),
        "new": rng.random(num_images) < 0.5,
    }


def words(figure) -> list[str]:
    return [t.get_text() for t in figure.axes[0].texts]


def test_each_mistake_has_its_classes_and_its_frame():
    mistakes = some_mistakes(3)
    mistakes |= {
        "labels": np.array([9, 8, 7]),
        "classes": np.array([[4, 9], [3, 8], [1, 0]]),
        "probabilities": np.array([[0.998, 0.0018], [0.66, 0.34], [0.9999999, 1e-9]]),
        "new": np.array([True, False, True]),
    }
    figure = mistakes_figure(**mistakes, class_names=DIGITS, title="Three")
    assert words(figure) == [
        "Three",
        "9 → 4: 99.8 %\nthen 9: 0.2 %",
        "8 → 3: 66 %\nthen 8: 34 %",
        "7 → 1: > 99.999 %\nthen 0: < 0.001 %",
    ]
    for image, expected in zip(figure.axes[0].images, mistakes["images"], strict=True):
        np.testing.assert_allclose(image.get_array()[..., 0], 1 - expected[0], rtol=1e-6)
    frames = [frame.get_edgecolor() for frame in figure.axes[0].patches]
    assert frames == [to_rgba(color) for color in (NEW, OLD, NEW)]


@pytest.mark.parametrize(
    ("num_images", "shape", "names"),
    [(40, (1, 28, 28), CLOTHES), (40, (1, 28, 28), LONG), (9, (1, 28, 28), DIGITS),
     (9, (3, 64, 64), DIGITS), (1, (1, 28, 28), DIGITS), (0, (1, 28, 28), DIGITS),
     (3, (1, 200, 90), CLOTHES)],
)  # fmt: skip
def test_all_text_fits_for_any_mistakes(num_images, shape, names):
    figure = mistakes_figure(**some_mistakes(num_images, shape), class_names=names)
    assert_text_fits(figure)
    assert max(figure.canvas.get_width_height()) <= 1600
    assert len(figure.axes[0].images) == num_images


def test_a_color_image_keeps_its_colors():
    mistakes = some_mistakes(1, (3, 64, 64))
    (image,) = mistakes_figure(**mistakes, class_names=DIGITS).axes[0].images
    np.testing.assert_array_equal(image.get_array(), mistakes["images"][0].transpose(1, 2, 0))


def test_confusion_colors_mistakes_and_writes_recall_and_precision():
    counts = np.array([[90, 10, 0], [4, 46, 0], [0, 0, 0]])
    figure = confusion_figure(counts, class_names=["a", "b", "c"], title="Confusion")
    image = figure.axes[0].images[1]
    assert (image.norm.vmin, image.norm.vmax) == (0, 10) and image.cmap is COUNT
    assert COUNT(0.0) == (1.0, 1.0, 1.0, 1.0)  # a count of zero is white
    cells = np.asarray(image.get_array().filled(np.nan))
    step = (cells.shape[0] + 1) // 3
    np.testing.assert_array_equal(cells[::step, ::step], [[0, 10, 0], [4, 0, 0], [0, 0, 0]])
    texts = words(figure)
    assert "14 of 150 images misclassified" in texts[0]
    assert {"90", "10", "4", "46", "90.0 %", "92.0 %", "none"} <= set(texts)  # counts, recall
    assert {"95.7 %", "82.1 %"} <= set(texts)  # precision: 90 of 94, 46 of 56


def test_confusion_of_many_classes_has_no_space_for_names():
    counts = np.random.default_rng(0).integers(0, 9, (101, 101))
    sizes = set()
    for name in ("c", "one class of many, number "):
        names = [f"{name}{i}" for i in range(101)]
        figure = confusion_figure(counts, class_names=names)
        assert_text_fits(figure)
        assert not set(names) & set(words(figure))
        sizes.add(figure.canvas.get_width_height())
        image = figure.axes[0].images[1]
        assert image.get_extent()[0] < 50  # pixels left of the matrix
    assert len(sizes) == 1


@pytest.mark.parametrize(
    "names", [DIGITS, CLOTHES, LONG, [f"class {i}" for i in range(100)], ["x", "y"]]
)
def test_all_text_fits_for_any_confusion(names):
    counts = np.random.default_rng(0).integers(0, 2000, (len(names), len(names)))
    figure = confusion_figure(counts, class_names=names)
    assert_text_fits(figure)
    width, height = figure.canvas.get_width_height()
    assert width <= 2000 and height <= 1750

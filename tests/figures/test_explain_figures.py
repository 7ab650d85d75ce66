"""Arbitrary names of classes, layers and swept values are drawn verbatim and fit."""

import itertools

import numpy as np
import pytest
from matplotlib.text import Text
from rendered_text import NASTY, SPECIES, assert_text_fits, drawn_texts

from simplecnn.figures.explain.attribution import attribution_figure
from simplecnn.figures.explain.channel_cards import Channel, Patch, card_figure, index_figure
from simplecnn.figures.explain.comparison import Panel, Series, comparison_figure
from simplecnn.figures.explain.embedding import embedding_figure
from simplecnn.figures.explain.robustness import corruption_figure
from simplecnn.figures.explain.translation import LayerError, layers_figure
from simplecnn.figures.health import health_figure
from simplecnn.figures.image_sheet import TILE, image_sheet
from simplecnn.figures.inference.prediction import prediction_figure
from simplecnn.figures.raster import (
    MAX_NAME,
    encode_png,
    format_axis_number,
    short_name,
    text_width,
)
from simplecnn.figures.style import drawing

NAMES = [r"dog $\foo$", "$x$", "costs $"]


def formulas(figure) -> set[str]:
    """The texts that matplotlib parses as math."""
    encode_png(figure)  # raises an error for invalid math
    texts = figure.findobj(Text)
    return {t.get_text() for t in texts if "$" in t.get_text() and t.get_parse_math()}


def test_a_dollar_sign_in_a_name_does_not_start_math():
    series = {name: Series(np.array([[0.1], [0.01], [1e-4]])) for name in NAMES}
    panel = Panel("", "%", NAMES, series, logarithmic=True)
    ticks = formulas(comparison_figure([panel], title="$ y $"))
    assert ticks and all(text.startswith(r"$\mathdefault{10^{") for text in ticks)
    points, labels = np.random.default_rng(0).random((6, 2)), np.arange(6) % 3
    for names in (NAMES, ["$", "\\", "{"]):
        figure = embedding_figure(points, labels, labels > 0, class_names=names, title=NAMES[0])
        assert not formulas(figure)
        assert [t.get_text() for t in figure.legends[0].get_texts()][0] == f"0: {names[0]}"


def test_long_titles_fit_above_narrow_panels_and_steps():
    series = {"trained": Series(np.array([[0.1]])), "untrained": Series(np.array([[0.2]]))}
    title = "Channels of the last convolution that detect one class"
    panels = [Panel(title, "%", ["conv1"], series) for _ in range(3)]
    assert_text_fits(comparison_figure(panels, title="all"))
    steps = [(f"cropped to 58 x 68, background removed {i}", np.eye(28)) for i in range(4)]
    figure = prediction_figure(steps, ["a", "b"], np.array([0.9, 0.1]), {}, np.eye(28), title="x")
    titles = [text for text in figure.findobj(Text) if "background" in text.get_text()]
    boxes = sorted((text.get_window_extent() for text in titles), key=lambda box: box.x0)
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes)) and len(boxes) == 4


def test_a_legend_with_two_rows_does_not_cover_the_title():
    series = {f"pool {i}, augmentation none": Series(np.ones((3, 1))) for i in range(6)}
    figure = comparison_figure([Panel("a title", "%", ["a", "b", "c"], series)], title="all")
    encode_png(figure)
    (ax,) = figure.axes
    assert ax.get_legend().get_window_extent().y1 < ax.title.get_window_extent().y0


@pytest.fixture
def fonts():
    with drawing():
        yield


def texts(figure) -> list[str]:
    return [text.get_text() for text in drawn_texts(figure)]


def random_channel(number: int, num_classes: int, *, lost: bool = True) -> Channel:
    rng = np.random.default_rng(number)
    channel = Channel(
        "layer4.0.downsample.0", number, rng.normal(size=(4, 3, 3)), np.arange(9), np.ones(9),
        np.zeros((9, 2)), 100 * rng.random(num_classes) ** 4, np.linspace(0, 1234, 41), np.ones(40),
    )  # fmt: skip
    channel.acc_change, channel.loss_change = -0.01 * lost, 0.01
    channel.acc_change_per_class = -lost * rng.random(num_classes)
    channel.class_means[0], channel.acc_change_per_class[-1] = 100, -1.0 * lost
    return channel


def test_short_names_keep_their_ends_and_fit_the_width(fonts):
    assert [short_name(name) for name in ("x", SPECIES[7])] == ["x", SPECIES[7]]
    assert short_name("abcdefghijklmnopqrstuvwxyz") == "abcdefghijklmn…rstuvwxyz"
    for name in [*NASTY, SPECIES[0]]:
        assert len(short_name(name)) <= MAX_NAME
        narrow = short_name(name, 90)
        assert text_width(narrow) <= 90 and narrow[0] == name[0] and narrow[-1] == name[-1]
    assert [format_axis_number(x) for x in (100, 1234.4, -250, 0.1234)] == [
        "100",
        "1,234",
        "−250",
        "0.123",
    ]


@pytest.mark.parametrize("names", [SPECIES, NASTY], ids=["species", "nasty"])
def test_any_names_fit_on_a_contact_sheet(names, fonts):
    captions = [f"{short_name(name)} ?: 97 %\n{short_name(name, TILE)}" for name in names]
    images = np.ones((len(names), 1, 28, 28))
    figure = image_sheet(images, captions, ["0.8"] * len(names), title="Sheet")
    assert_text_fits(figure)
    assert figure.canvas.get_width_height()[0] <= 1800


@pytest.mark.parametrize("names", [SPECIES, NASTY], ids=["species", "nasty"])
def test_a_prediction_shows_the_most_probable_of_many_classes(names, fonts):
    shares = np.arange(1.0, 1 + len(names)) / sum(range(1 + len(names)))
    image = np.ones((28, 28))
    figure = prediction_figure([("read", image)], names, shares, {}, image, title="page.png")
    assert_text_fits(figure)
    bars = figure.axes[2]
    if names is SPECIES:
        assert bars.get_title() == "the 10 most probable of 60 classes"
        names = SPECIES[:49:-1]
    assert bars.get_xlabel() == "probability"
    assert [t.get_text() for t in bars.get_yticklabels()] == list(map(short_name, names))
    sure = prediction_figure(
        [("read", image)], ["a", "b"], np.array([0.9998, 0.0002]), {}, image, title="a"
    )
    assert [t.get_text() for t in sure.axes[2].texts] == ["> 99.9 %", "0.0 %"]


def test_error_rates_with_intervals_fit_their_cells():
    shape = (2, 6)
    figure = corruption_figure(
        np.ones((*shape, 1, 28, 28)), np.full(shape, 88.8), kinds=["noise", "blur"],
        units=["sigma"] * 2, amounts=[[0.125] * 5] * 2,
        intervals=np.full((2, *shape), 100.0), title="",
    )  # fmt: skip
    figure.canvas.draw()
    right = figure.axes[1]
    cell = right.get_window_extent().width / 6
    assert max(text.get_window_extent().width for text in right.texts) < 0.95 * cell


def test_layers_whose_positions_all_see_the_border_are_marked():
    interior = np.array([0.0, 0.3, np.nan])
    errors = {
        f"stride {jump}": LayerError(jump, np.ones(3), interior, np.ones(3)) for jump in (1, 2, 4)
    }
    figure = layers_figure(errors, title="", num_networks=1)
    marks = [[t.get_text() for t in ax.texts] for ax in figure.axes]
    assert marks == [[], ["every position\nsees the border"], []]
    (title,) = (t for t in texts(figure) if t.startswith("Do feature maps"))
    assert all(len(line) > 15 for line in title.split("\n"))  # no line of a single word


def test_any_names_fit_beside_an_attribution(fonts):
    names = [*NASTY, SPECIES[0]]
    notes = [f"WRONG, > 99.9 %\n{short_name(name)}\n→ {short_name(name)}" for name in names]
    number = len(names)
    figure = attribution_figure(
        [np.ones((1, 28, 28))] * number, notes, [[np.ones((28, 28))] * 6] * number,
        [["50 %"] * 6] * number, titles=["random weights\nocclusion\nexplains 9 %"] * 6,
        title="Which pixels",
    )  # fmt: skip
    assert_text_fits(figure)
    assert set(notes) <= set(texts(figure))


@pytest.mark.parametrize("names", [SPECIES, NASTY, list("0123456789")])
def test_any_names_fit_on_a_channel_card(names, fonts):
    patches = [Patch(np.ones((1, 26, 26)), names[i % len(names)], 123.45) for i in range(9)]
    channel = random_channel(3, len(names))
    figure = card_figure(channel, patches, names, field_size=(26, 26), limit=1.0, title="Channel")
    assert_text_fits(figure)
    drawn = texts(figure)
    assert drawn.count("100") == 2 and "1,234" in drawn  # no powers of ten
    if names is SPECIES:
        assert drawn.count(SPECIES[3]) == 2 and f"{SPECIES[3]}\n123.45" in drawn


@pytest.mark.parametrize("size", [3, 7])
def test_weights_on_color_pixels_are_a_color_image_and_three_named_planes(size, fonts):
    patches = [Patch(np.ones((3, size, size)), "a", 1.0)] * 9
    channel = random_channel(3, 2)
    channel.weights = np.zeros((3, size, size))
    channel.weights[:, 1, 1] = 1.0, -1.0, 0.5
    options = {"class_names": ["a", "b"], "limit": 1.0, "title": "Channel"}
    figure = card_figure(channel, patches, field_size=(size, size), in_color=True, **options)
    planes, color = (np.asarray(image.get_array()) for image in figure.axes[0].images[:2])
    np.testing.assert_allclose(color[1, 1], [1.0, 0.0, 0.75])
    assert (color[0] == 0.5).all()
    zoom = 240 // (2 * size)
    below, beside = size * zoom + zoom // 4 + 20, size * zoom + zoom // 4
    corners = [planes[y + zoom, x + zoom] for y, x in ((0, beside), (below, 0), (below, beside))]
    assert corners == [1.0, -1.0, 0.5]
    names = ["color", "red", "green", "blue"]
    assert [text for text in texts(figure) if text in names] == names
    assert "in color, gray is zero" in texts(figure)
    assert_text_fits(figure)
    figure = card_figure(channel, patches, field_size=(size, size), **options)
    assert not set(names) & set(texts(figure))


@pytest.mark.parametrize("names", [SPECIES, NASTY], ids=["species", "nasty"])
def test_any_names_fit_on_the_index_of_channels(names, fonts):
    channels = [random_channel(i, len(names)) for i in range(20)]
    channels[0].class_means[:] = 0
    figure = index_figure(channels, names, "Which channels matter")
    assert_text_fits(figure)
    assert texts(figure).count("none") == 1  # selectivity of a channel that is never active
    width = figure.axes[0].get_window_extent().width
    assert width > 0.45 * figure.bbox.width  # the matrix takes more space than the names
    figure = index_figure([random_channel(0, len(names), lost=False)], names, "Which matter")
    assert_text_fits(figure)
    assert not figure.axes[0].texts  # no channel costs accuracy


@pytest.mark.parametrize("names", [SPECIES, NASTY, SPECIES[:36], [f"c{i}" for i in range(120)]])
def test_each_of_many_classes_has_its_own_symbol(names, fonts):
    number = len(names)
    points, labels = np.random.default_rng(0).random((2 * number, 2)), np.arange(2 * number)
    figure = embedding_figure(
        points, labels % number, labels > 0, class_names=names, title="Input of the layer fc"
    )
    title, entries = figure._suptitle, [t for x in figure.legends for t in x.get_texts()]
    figure.canvas.draw()
    assert_text_fits(figure, [title, *entries])
    assert figure.axes[0].get_window_extent().width > 850
    symbols = {p.get_label(): p.get_paths()[0] for p in figure.axes[0].collections[:number]}
    assert len({path.vertices.tobytes() for path in symbols.values()}) == number
    if number > 108:
        assert not entries and "index of the true class, 0 to 119" in title.get_text()
    else:
        legend = [text.get_text().partition(": ")[2] for text in entries]
        assert legend == list(map(short_name, names))


def test_long_layer_names_fit_beside_the_health_figure(fonts):
    layers = ["conv1", "layer4.0.downsample.0", "features.denseblock4.denselayer16.conv2"]
    numbers = {"step": np.arange(1, 3), **{name: np.ones((2, 3)) for name in ("norm", "update")}}
    figure = health_figure(layers, numbers, {})
    figure.canvas.draw()
    entries = figure.legends[0].get_texts()
    assert_text_fits(figure, entries)
    assert [text.get_text() for text in entries][:2] == layers[:2]

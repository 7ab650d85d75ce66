"""What people call their classes and their sweeps' values is written as it is."""

import numpy as np
from matplotlib.text import Text

from simplecnn.figures.explain.comparison import Panel, Series, comparison_figure
from simplecnn.figures.explain.embedding import embedding_figure
from simplecnn.figures.raster import encode_png

NAMES = [r"dog $\foo$", "$x$", "costs $"]


def formulas(figure) -> set[str]:
    encode_png(figure)  # raises where a formula cannot be read
    texts = figure.findobj(Text)
    return {t.get_text() for t in texts if "$" in t.get_text() and t.get_parse_math()}


def test_a_dollar_in_a_name_begins_no_formula():
    series = {name: Series(np.array([[0.1], [0.01], [1e-4]])) for name in NAMES}
    panel = Panel("", "%", NAMES, series, logarithmic=True)
    found = formulas(comparison_figure([panel], title="$ y $"))
    assert found and all(text.startswith(r"$\mathdefault{10^{") for text in found)  # of the axis
    points, labels = np.random.default_rng(0).random((6, 2)), np.arange(6) % 3
    for names in (NAMES, ["$", "\\", "{"]):
        figure = embedding_figure(points, labels, labels > 0, class_names=names, title=NAMES[0])
        assert not formulas(figure)
        assert [t.get_text() for t in figure.legends[0].get_texts()][0] == f"0: {names[0]}"


def test_a_legend_of_two_rows_is_below_the_title():
    series = {f"pool {i}, augmentation none": Series(np.ones((3, 1))) for i in range(6)}
    figure = comparison_figure([Panel("a title", "%", ["a", "b", "c"], series)], title="all")
    encode_png(figure)
    (ax,) = figure.axes
    assert ax.get_legend().get_window_extent().y1 < ax.title.get_window_extent().y0

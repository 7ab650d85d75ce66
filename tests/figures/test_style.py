"""What all pictures share: a title that is never cut off, signs that can be told in grey."""

import numpy as np
import pytest

from simplecnn.figures.style import SIGNED, head, mark_negative, new_figure, signed_scale, tile


@pytest.mark.parametrize("width", [3.0, 5.6, 11.0])
@pytest.mark.parametrize("size", [8, 10])
def test_a_long_title_is_broken_where_the_picture_ends(width, size):
    figure = new_figure(width, 4)
    words = "accuracy when the digit moves, consistency: pairs of shifts with ONE ANSWER, 100 % "
    head(figure, "short\n" + 4 * words, size)
    box = figure._suptitle.get_window_extent()
    assert box.x0 > 0 and box.x1 < figure.bbox.width
    lines = figure._suptitle.get_text().split("\n")
    assert lines[0] == "short" and " ".join(lines[1:]) == (4 * words).strip()
    assert box.width > 0.7 * figure.bbox.width  # and not sooner


def test_what_is_below_zero_has_a_white_dot_in_its_middle():
    figure = new_figure(3, 3, fitted=False)
    ax = figure.add_axes((0, 0, 1, 1))
    values = np.array([[-1.0, 1.0], [0.5, -0.05]])
    mark_negative(tile(ax, values, SIGNED, signed_scale(values)))
    ax.set_axis_off()
    figure.canvas.draw()
    cells = np.asarray(figure.canvas.buffer_rgba())[:, :, :3].reshape(2, 225, 2, 225, 3)
    middle, beside = cells[:, 112, :, 112], cells[:, 30, :, 30]
    assert (middle[0, 0] == 255).all() and (beside[0, 0] < 255).any()
    assert np.array_equal(middle[0, 1], beside[0, 1])
    assert np.array_equal(middle[1], beside[1])
    assert ax.get_xlim() == (-0.5, 1.5)  # the tile keeps its size

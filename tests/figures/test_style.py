"""What all pictures share: a title that is never cut off."""

import pytest

from simplecnn.figures.style import head, new_figure


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

"""What a picture looks like on the paper."""

from matplotlib.figure import Figure


def assert_words_fit(figure: Figure) -> None:
    """No text leaves the paper or touches another."""
    width, height = figure.canvas.get_width_height()
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in figure.axes[0].texts]
    for i, box in enumerate(boxes):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])

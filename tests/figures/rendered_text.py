"""Checks of rendered text, and class names that are hard to draw."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.text import Text

SPECIES = [f"species number {i:02d} long" for i in range(60)]
JAPANESE = "\u5317\u306e\u5c71\u306e\u9ce5" * 6
NASTY = [("a bird of the northern mountains, " * 3)[:96], r"$\foo$ costs $x^{2}$",
         "<script>alert('x')</script>", "W" * 30, JAPANESE, "x"]  # fmt: skip


def drawn_texts(figure: Figure) -> list[Text]:
    """Return all text that is drawn: without the ticks of axes that are off."""
    figure.canvas.draw()
    hidden = [text for ax in figure.axes if not ax.axison for text in ax.xaxis.findobj(Text)]
    hidden += [text for ax in figure.axes if not ax.axison for text in ax.yaxis.findobj(Text)]
    texts = [t for t in figure.findobj(Text) if isinstance(t, Text) and t.get_text().strip()]
    return [text for text in texts if text.get_visible() and text not in hidden]


def assert_text_fits(figure: Figure, texts: Sequence[Text] = ()) -> None:
    """Assert that no text exceeds the figure or overlaps another; checks all text or `texts`."""
    width, height = figure.canvas.get_width_height()
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in texts or drawn_texts(figure)]
    for i, box in enumerate(boxes):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])

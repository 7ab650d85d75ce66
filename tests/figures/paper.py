"""What a picture looks like on the paper, and names that people give to classes."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.text import Text

SPECIES = [f"species number {i:02d} long" for i in range(60)]
JAPANESE = "\u5317\u306e\u5c71\u306e\u9ce5" * 6
NASTY = [("a bird of the northern mountains, " * 3)[:96], r"$\foo$ costs $x^{2}$",
         "<script>alert('x')</script>", "W" * 30, JAPANESE, "x"]  # fmt: skip


def drawn_words(figure: Figure) -> list[Text]:
    """All text on the paper: of axes that are off, what ticks say is not drawn."""
    figure.canvas.draw()
    off = [text for ax in figure.axes if not ax.axison for text in ax.xaxis.findobj(Text)]
    off += [text for ax in figure.axes if not ax.axison for text in ax.yaxis.findobj(Text)]
    words = [t for t in figure.findobj(Text) if isinstance(t, Text) and t.get_text().strip()]
    return [text for text in words if text.get_visible() and text not in off]


def assert_words_fit(figure: Figure, words: Sequence[Text] = ()) -> None:
    """No text leaves the paper or touches another: all, or some `words`."""
    width, height = figure.canvas.get_width_height()
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in words or drawn_words(figure)]
    for i, box in enumerate(boxes):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])

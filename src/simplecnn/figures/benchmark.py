"""How long things take, side by side: horizontal bars, a panel a question."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from simplecnn.figures import style
from simplecnn.figures.style import LABEL

HIGHLIGHT, PLAIN = style.COLORS[0], "0.71"  # ours, others
ROW_HEIGHT = 0.3


@dataclass(frozen=True)
class Bars:
    """One panel: its title, and for each bar a name, a length, a note, and whether it is ours."""

    title: str
    rows: Sequence[tuple[str, float, str, bool]]


def benchmark_figure(panels: Sequence[Bars], *, title: str) -> Figure:
    """Panels one above the other; shorter bars are faster. Lengths start at zero."""
    heights = [len(panel.rows) * ROW_HEIGHT + 0.75 for panel in panels]
    figure = style.new_figure(8.6, sum(heights) + 0.5)
    style.head(figure, title)
    figure.set_layout_engine("constrained", h_pad=0.09)
    grid = figure.add_gridspec(len(panels), 1, height_ratios=heights)
    for i, panel in enumerate(panels):
        ax = figure.add_subplot(grid[i, 0])
        names, lengths, notes, ours = zip(*panel.rows, strict=True)
        bars = ax.barh(range(len(names)), lengths, color=[HIGHLIGHT if x else PLAIN for x in ours])
        ax.bar_label(bars, notes, padding=4, fontsize=LABEL)
        style.dress(ax)
        ax.set_title(panel.title, fontsize=LABEL, loc="left")
        ax.set_yticks(range(len(names)), names, fontsize=LABEL)
        ax.invert_yaxis()
        ax.set_xlim(0, 1.35 * max(lengths))
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
    return figure

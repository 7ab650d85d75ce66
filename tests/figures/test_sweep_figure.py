"""The figure of a sweep: labels of many categories."""

import math

import numpy as np
import pytest
from rendered_text import SPECIES

from simplecnn.figures.sweep import sweep_figure


@pytest.mark.parametrize(("number", "labeled"), [(8, 8), (9, 5), (40, 8)])
@pytest.mark.parametrize("num_parameters", [1, 3])
def test_labels_of_many_categories_do_not_overlap(number, labeled, num_parameters):
    values = {f"parameter {i}": SPECIES[:number] for i in range(num_parameters)}
    results = np.linspace(0, 1, number).tolist()
    figure = sweep_figure(values, results, {}, metric="m", curve_metric="m")
    figure.canvas.draw()
    labels = figure.axes[0].get_xticklabels()
    assert [label.get_position()[0] for label in labels] == [
        *range(0, number, math.ceil(number / 8))
    ]
    assert len(labels) == labeled and {label.get_rotation() for label in labels} == {20}
    ends = [label.get_transform().transform(label.get_position())[0] for label in labels]
    distance = np.diff(ends).min() * math.sin(math.radians(20))  # between the lines of text
    assert distance > labels[0].get_fontsize() * figure.dpi / 72
    if num_parameters > 1:  # beside the axes of the parallel coordinates
        beside = [text for text in figure.axes[3].texts if text.get_ha() == "right"]
        heights = [text.get_window_extent() for text in beside[:labeled]]
        assert all(a.y1 <= b.y0 for a, b in zip(heights, heights[1:], strict=False))


def test_labels_of_near_values_do_not_overlap_and_single_trials_are_not_joined():
    results = [0.918, 0.92, 0.1, 0.55]
    search = {
        "dropout": [0.3091, 0.3137, 0.05, 0.2],
        "lr": [0.078, 0.0909, 0.001, 0.01],
        "hidden": [10, 100, 40, 60],
    }
    figure = sweep_figure(search, results, {}, metric="val/acc", curve_metric="val/acc")
    panels, parallel = figure.axes[:3], next(ax for ax in figure.axes if len(ax.texts) > 1)
    heights: dict[float, list[float]] = {}
    for label in parallel.texts:
        x, y = label.xy
        heights.setdefault(x, []).append(y)
    assert len(heights) == 4  # the parameters and the result
    assert all(np.diff(sorted(column)).min() > 0.079 for column in heights.values())
    assert all(len(line.get_xdata()) == 4 and line.get_linestyle() == "None"
               for ax in panels for line in ax.lines)  # fmt: skip

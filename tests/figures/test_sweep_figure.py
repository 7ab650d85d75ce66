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

"""Responses of small kernels to images; cross-correlation compared with convolution."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from simplecnn.convolution import NamedKernel, conv2d
from simplecnn.figures import style
from simplecnn.figures.style import LABEL, NOTE, number

# Unlike digits, drawn as black ink on white: kernels respond to brightness, so 1 is drawn white.
BRIGHTNESS = "gray"
EDGE_NOTE = """Images: black is 0, white is 1.
Response: red is positive, blue with a dot is
negative, white is zero. Magnitude: |response|.
Outside the dashed line, the window of the
kernel overlaps the zero padding."""


def edge_kernel_figure(
    images: Mapping[str, NDArray[Any]], kernels: Mapping[str, NamedKernel]
) -> Figure:
    """Draw each kernel with its response to each image, signed and as magnitude.

    Images are (H, W), from 0 (black) to 1 (white). Responses are cross-correlations with "same"
    zero padding. All responses of a kernel share one color scale; kernels do not, because their
    gains differ.
    """
    weights = style.signed_scale(*(kernel.values for kernel in kernels.values()))
    num_rows, num_images = 1 + len(kernels), len(images)
    figure = style.new_figure(2.0 * (1 + 2 * num_images), 2.15 * num_rows + 0.4)
    grid = figure.add_gridspec(num_rows, 1 + 2 * num_images)
    style.add_title(figure, "Responses of kernels (cross-correlation), one color scale per kernel")
    for column, (title, image) in enumerate(images.items(), start=1):
        ax = figure.add_subplot(grid[0, column])
        style.tile(ax, image, BRIGHTNESS, Normalize(0.0, 1.0))
        ax.set_title(f"{title}, {image.shape[0]} x {image.shape[1]}", fontsize=LABEL)
    note = figure.add_subplot(grid[0, 1 + num_images :])
    note.set_axis_off()
    note.text(0.0, 0.5, EDGE_NOTE, va="center", fontsize=LABEL, transform=note.transAxes)

    for row, (name, kernel) in enumerate(kernels.items(), start=1):
        ax = figure.add_subplot(grid[row, 0])
        _kernel_tile(ax, kernel.values, weights)
        ax.set_title(name, fontsize=LABEL)
        ax.set_xlabel(style.wrap(kernel.responds_to, 30), fontsize=NOTE)
        responses = [
            conv2d(image.astype(np.float64), kernel.values, padding="same")
            for image in images.values()
        ]
        magnitudes = [abs(response) for response in responses]
        signed, positive = style.signed_scale(*responses), style.positive_scale(*magnitudes)
        for first, label, tiles, colors, scale in (
            (1, "response", responses, style.SIGNED, signed),
            (1 + num_images, "magnitude", magnitudes, style.POSITIVE, positive),
        ):
            axes = [figure.add_subplot(grid[row, first + i]) for i in range(num_images)]
            _draw_responses(figure, axes, tiles, kernel.values, colors, scale)
            for ax in axes:
                ax.set_title(label if row == 1 else "", fontsize=LABEL)
    return figure


def flip_figure(image: NDArray[Any], kernels: Mapping[str, NamedKernel]) -> Figure:
    """Compare cross-correlation with mathematical convolution, which flips the kernel first.

    The image is (H, W), from 0 (black) to 1 (white), with "same" zero padding. Both responses of a
    kernel and their difference share one color scale.
    """
    image = image.astype(np.float64)
    weights = style.signed_scale(*(kernel.values for kernel in kernels.values()))
    figure = style.new_figure(10.0, 2.1 * len(kernels) + 0.6)
    title = "Cross-correlation and convolution: effect of flipping the kernel, one scale per row"
    style.add_title(figure, title)
    rows = figure.subplots(len(kernels), 5, squeeze=False)
    for axes, (name, kernel) in zip(rows, kernels.items(), strict=True):
        correlation = conv2d(image, kernel.values, padding="same")
        convolution = conv2d(image, kernel.values, padding="same", flip=True)
        responses = [correlation, convolution, convolution - correlation]
        scale = style.signed_scale(*responses)
        _kernel_tile(axes[0], kernel.values, weights)
        _kernel_tile(axes[1], kernel.values[::-1, ::-1], weights)
        axes[0].set_ylabel(name, fontsize=LABEL)
        axes[1].set_xlabel(_effect(kernel.values), fontsize=NOTE)
        _draw_responses(figure, list(axes[2:]), responses, kernel.values, style.SIGNED, scale)
    titles = "kernel", "flipped in both axes", "cross-correlation\n(flip=False)"
    more = "convolution\n(flip=True)", "convolution minus\ncross-correlation"
    for ax, title in zip(rows[0], (*titles, *more), strict=True):
        ax.set_title(title, fontsize=LABEL)
    return figure


def _effect(kernel: NDArray[Any]) -> str:
    flipped = kernel[::-1, ::-1]
    if np.array_equal(flipped, kernel):
        return "same kernel:\nsame response"
    if np.array_equal(flipped, -kernel):
        return "negated kernel:\nnegated response"
    return "different kernel:\ndifferent response"


def _kernel_tile(ax: Axes, kernel: NDArray[Any], scale: Normalize) -> None:
    style.tile(ax, kernel, style.SIGNED, scale)
    for (row, column), value in np.ndenumerate(kernel):
        dark = abs(value) > 0.6 * abs(scale.vmax or 1.0)
        ax.text(column, row, number(value), fontsize=LABEL, ha="center", va="center",
                color="white" if dark else "black")  # fmt: skip


def _draw_responses(
    figure: Figure,
    axes: list[Axes],
    responses: Sequence[NDArray[Any]],
    kernel: NDArray[Any],
    colors: str | Colormap,
    scale: Normalize,
) -> None:
    """Draw responses with one color bar, and a dashed line around the positions whose window lies
    within the image."""
    for ax, response in zip(axes, responses, strict=True):
        image = style.tile(ax, response, colors, scale)
        if colors is style.SIGNED:
            style.mark_negative(image)
        top, left = ((n - 1) // 2 - 0.5 for n in kernel.shape)
        height, width = (n - k + 1 for n, k in zip(response.shape, kernel.shape, strict=True))
        ax.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor="0.6",
                               linestyle="--", linewidth=0.8))  # fmt: skip
    ticks = sorted({*image.get_clim(), 0.0})
    style.color_bar(figure, axes, colors, scale, "", pad=0.02, aspect=15, ticks=ticks,
                    format=FuncFormatter(lambda value, _: number(value)))  # fmt: skip

"""The report saves its figures and compares their responses with PyTorch's."""

import re

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from simplecnn import convolution_report as report
from simplecnn.convolution import KERNELS, conv2d, white_square
from simplecnn.convolution_report import convolution_report, largest_difference

DIGIT = np.zeros((28, 28), np.uint8)
DIGIT[4:24, 12:16] = 255


def test_the_report_saves_figures_and_agrees_with_pytorch(tmp_path, capsys):
    assert convolution_report(digit=DIGIT, folder=tmp_path / "new") is True
    for name in ("edge_kernels.png", "flip.png"):
        assert (tmp_path / "new" / name).read_bytes().startswith(b"\x89PNG")
    last = capsys.readouterr().out.splitlines()[-1]
    # 2 images x 4 kernels, and 3 kernels unflipped and flipped
    start = f"conv2d agrees with PyTorch {torch.__version__} on the 14 responses drawn: largest "
    assert last.startswith(start)
    assert re.fullmatch(r"difference \d\.\de[-+]\d\d, allowed 1e-12", last.removeprefix(start))


def test_a_wrong_response_fails_the_report(tmp_path, capsys, monkeypatch):
    def flipped(image, kernel, *, flip, **options):
        return conv2d(image, kernel, flip=not flip, **options)

    monkeypatch.setattr(report, "conv2d", flipped)
    for name in ("edge_kernel_figure", "flip_figure"):
        monkeypatch.setattr(report, name, lambda *args: Figure())
    assert convolution_report(digit=DIGIT, folder=tmp_path) is False
    # at the edges of the digit's line, the responses of 4 and -4 have the wrong sign
    message = "DOES NOT AGREE.*: largest difference 8.0e[+]00, allowed 1e-12"
    assert re.search(message, capsys.readouterr().out)


@pytest.mark.parametrize(
    ("corrupt", "difference"),
    [
        (lambda output: output + 1e-3, pytest.approx(1e-3)),
        (lambda output: output[:-1], np.inf),
        (lambda output: output * np.nan, np.inf),
    ],
    ids=["value", "shape", "nan"],
)
def test_the_difference_is_measured(monkeypatch, corrupt, difference):
    monkeypatch.setattr(report, "conv2d", lambda *args, **kw: corrupt(conv2d(*args, **kw)))
    call = (white_square(), KERNELS["Emboss"].values, True)
    assert largest_difference([call]) == difference

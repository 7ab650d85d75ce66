"""The comparison with PyTorch covers what it claims, measures what it says, and can fail."""

import re

import numpy as np
import pytest
import torch

from simplecnn.convolution import agreement
from simplecnn.convolution.agreement import (
    compare_with_torch,
    convolution_report,
    random_call,
    time_windows,
)
from simplecnn.convolution.definition import conv2d, conv2d_gradients

QUANTITIES = [
    "output, naive",
    "output, windows",
    "gradient of image",
    "gradient of kernel",
    "gradient of bias",
]


def by_quantity(dtype, **arguments):
    return {a.quantity: a for a in compare_with_torch(**arguments, seed=0) if a.dtype == dtype}


def test_conv2d_and_its_gradients_agree_with_torch():
    agreements = compare_with_torch(num_calls=100, seed=3)
    assert [a.quantity for a in agreements] == QUANTITIES * 2
    assert [a.dtype for a in agreements] == ["float32"] * 5 + ["float64"] * 5
    for a in agreements:
        assert a.holds
        assert 0 < a.largest_relative < {"float32": 2e-6, "float64": 4e-15}[a.dtype]
        assert 0 < a.largest_difference
        assert a.num_values > 100
    assert agreements == compare_with_torch(num_calls=100, seed=3)
    assert agreements != compare_with_torch(num_calls=100, seed=4)


def test_random_calls_reach_every_option():
    rng = np.random.default_rng(0)
    calls = [random_call(rng, "float32") for _ in range(400)]
    options = [call.options for call in calls]
    assert {call.image.ndim for call in calls} == {2, 3, 4}
    assert any(call.image.shape[0] == 0 for call in calls)
    assert {o["groups"] for o in options} == {1, 2, 3}
    assert {o["padding_mode"] for o in options} == {"zeros", "reflect", "replicate", "circular"}
    assert {o["flip"] for o in options} == {False, True}
    assert {n for o in options for n in o["stride"]} == {1, 2, 3}
    assert {n for o in options for n in o["dilation"]} == {1, 2, 3}
    assert {o["padding"] for o in options if isinstance(o["padding"], str)} == {"valid", "same"}
    assert {type(o["padding"]) for o in options} == {int, tuple, list, str}
    assert {call.kernel.shape[-1] for call in calls} == {1, 2, 3, 4, 5}
    assert any(call.kernel.shape[-1] > call.image.shape[-1] for call in calls)
    for call in calls:
        assert call.image.dtype == call.kernel.dtype == call.bias.dtype == np.float32


def test_a_wrong_answer_is_measured(monkeypatch):
    def off_by_a_thousandth(*args, method, **options):
        output = conv2d(*args, method=method, **options)
        return output + 1e-3 if method == "naive" else output

    monkeypatch.setattr(agreement, "conv2d", off_by_a_thousandth)
    found = by_quantity("float64", num_calls=20)
    assert found["output, naive"].largest_difference == pytest.approx(1e-3, rel=1e-9)
    assert not found["output, naive"].holds
    assert found["output, windows"].holds


@pytest.mark.parametrize(
    "spoil",
    [
        lambda output: output.astype(np.float16),
        lambda output: output[..., :-1],
        lambda output: output * np.float32("nan"),
    ],
    ids=["dtype", "shape", "nan"],
)
def test_another_dtype_or_shape_or_nan_is_an_infinite_difference(monkeypatch, spoil):
    monkeypatch.setattr(agreement, "conv2d", lambda *args, **kw: spoil(conv2d(*args, **kw)))
    found = by_quantity("float32", num_calls=5)
    assert found["output, windows"].largest_difference == np.inf
    assert not found["output, windows"].holds
    assert found["gradient of image"].holds


def test_the_report_draws_prints_and_says_yes(tmp_path, capsys):
    digit = np.zeros((28, 28), np.uint8)
    digit[4:24, 12:16] = 255
    assert convolution_report(digit=digit, folder=tmp_path / "new", num_calls=10, seed=7) is True
    for name in ("edge_kernels.png", "flip.png"):
        assert (tmp_path / "new" / name).read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert f"10 random calls in each dtype, seed 7, PyTorch {torch.__version__}" in printed
    for quantity in QUANTITIES:
        for dtype, allowed in (("float32", "1e-05"), ("float64", "1e-13")):
            number = r"\d\.\de-\d\d"
            line = rf"{quantity} +{dtype} +[\d,]+ +{number} +{number} +{allowed}\n"
            assert re.search(line, printed)
    assert printed.endswith("conv2d agrees with PyTorch\n")


@pytest.mark.parametrize("wrong", ["conv2d", "conv2d_gradients"])
def test_the_report_says_no(tmp_path, capsys, monkeypatch, wrong):
    right = {"conv2d": conv2d, "conv2d_gradients": conv2d_gradients}[wrong]

    def turned(*args, flip, **options):
        return right(*args, flip=not flip, **options)

    monkeypatch.setattr(agreement, wrong, turned)
    digit = np.eye(28)
    assert convolution_report(digit=digit, folder=tmp_path, num_calls=10) is False
    printed = capsys.readouterr().out
    assert re.search(r"gradient of bias +float64.*1e-13\n", printed)
    first_wrong = "output, naive" if wrong == "conv2d" else "gradient of image"
    assert re.search(rf"{first_wrong} +float64.*1e-13  disagrees\n", printed)
    assert printed.endswith("conv2d DOES NOT AGREE with PyTorch\n")


def test_timing_is_a_ratio_of_positive_seconds():
    num_threads = torch.get_num_threads()
    timing = time_windows(num_rounds=3)
    assert torch.get_num_threads() == num_threads
    assert timing.num_rounds == 3
    assert timing.windows_seconds > 0 and timing.torch_seconds > 0
    assert timing.ratio == timing.windows_seconds / timing.torch_seconds

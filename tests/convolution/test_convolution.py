"""`conv2d` and its gradients against known values, PyTorch and SciPy."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import convolve2d, correlate2d
from torch import nn
from torch.nn import functional as F

from simplecnn.convolution import conv2d, conv2d_gradients

METHODS = ("naive", "windows")
MODES = ("zeros", "reflect", "replicate", "circular")
deterministic = settings(max_examples=60, deadline=None, derandomize=True)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """For arrays this small, PyTorch is 30 times faster with one thread."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@st.composite
def problems(draw):
    """(image, kernel, options) of small int64 integers, so that results are exact."""
    ndim = draw(st.sampled_from([2, 3, 4]))
    up_to_3 = st.integers(1, 3)
    groups, channels_per_group, maps_per_group = (
        (1, 1, 1) if ndim == 2 else draw(st.tuples(up_to_3, up_to_3, up_to_3))
    )
    taps = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    dilation = draw(st.tuples(up_to_3, up_to_3))
    span = [d * (n - 1) + 1 for n, d in zip(taps, dilation, strict=True)]
    side = st.integers(0, 4)
    padding = draw(
        st.one_of(
            side,
            st.tuples(side, side),
            st.tuples(st.tuples(side, side), st.tuples(side, side)),
            st.sampled_from(["valid", "same"]),
        )
    )
    stride = (1, 1) if padding == "same" else draw(st.tuples(up_to_3, up_to_3))
    sides = four_sides(padding, span)
    size = [
        draw(st.integers(max(s - sum(pair), max(pair) + 1), s + sum(pair) + 4))
        for s, pair in zip(span, sides, strict=True)
    ]
    batch = [draw(st.integers(0, 3))] if ndim == 4 else []
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    image = rng.integers(-9, 10, (*batch, groups * channels_per_group, *size)[-ndim:])
    kernel = rng.integers(-9, 10, (groups * maps_per_group, channels_per_group, *taps))
    options = {
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
        "padding_mode": draw(st.sampled_from(MODES)),
        "flip": draw(st.booleans()),
    }
    return image, kernel[0, 0] if ndim == 2 else kernel, options


def four_sides(padding, span):
    if padding == "valid":
        return [(0, 0), (0, 0)]
    if padding == "same":
        return [((s - 1) // 2, s // 2) for s in span]
    if isinstance(padding, int):
        return [(padding, padding)] * 2
    return [axis if isinstance(axis, tuple) else (axis, axis) for axis in padding]


def torch_conv2d(
    image, kernel, bias=None, *, padding=0, padding_mode="zeros", flip=False, **options
):
    """`nn.Conv2d` with the arguments of `conv2d`; four different sides are padded by `F.pad`."""
    ndim = image.ndim
    if ndim == 2:
        image, kernel = image[None], kernel[None, None]
    if not isinstance(padding, str | int) and not isinstance(padding[0], int):
        (top, bottom), (left, right) = padding
        mode = "constant" if padding_mode == "zeros" else padding_mode
        image = F.pad(image, (left, right, top, bottom), mode=mode)
        padding = 0
    layer = nn.Conv2d(
        in_channels=options.get("groups", 1) * kernel.shape[1],
        out_channels=kernel.shape[0],
        kernel_size=tuple(kernel.shape[2:]),
        padding=padding,
        padding_mode=padding_mode,
        bias=bias is not None,
        device="meta",  # the weights are passed to functional_call
        **options,
    )
    weights = {"weight": kernel.flip(-2, -1) if flip else kernel}
    if bias is not None:
        weights["bias"] = bias
    with warnings.catch_warnings():
        # Warns of slow execution only.
        warnings.filterwarnings("ignore", message="Using padding='same' with even kernel lengths")
        output = torch.func.functional_call(layer, weights, image)
    return output[0] if ndim == 2 else output


def random_like(array, seed=0):
    """Return small random integers of the same shape and dtype."""
    return np.random.default_rng(seed).integers(-9, 10, array.shape).astype(array.dtype)


@pytest.mark.parametrize("method", METHODS)
def test_known_values(method):
    image = np.arange(9).reshape(3, 3)
    kernel = np.arange(4).reshape(2, 2)
    valid = [[19, 25], [37, 43]]  # 0*0 + 1*1 + 2*3 + 3*4 = 19
    np.testing.assert_array_equal(conv2d(image, kernel, method=method), valid)
    flipped = [[5, 11], [23, 29]]  # 3*0 + 2*1 + 1*3 + 0*4 = 5
    np.testing.assert_array_equal(conv2d(image, kernel, flip=True, method=method), flipped)
    np.testing.assert_array_equal(
        conv2d(image, kernel, padding=((1, 0), (0, 2)), method=method),
        [[3, 8, 4, 0], [19, 25, 2 * 5, 0], [37, 43, 2 * 8, 0]],
    )
    np.testing.assert_array_equal(
        conv2d(image, kernel, stride=(2, 1), padding=(1, 0), method=method),
        [[3, 8], [37, 43]],
    )
    np.testing.assert_array_equal(  # only the corners: 0*0 + 1*2 + 2*6 + 3*8
        conv2d(image, kernel, dilation=2, method=method), [[38]]
    )


@pytest.mark.parametrize("method", METHODS)
def test_known_values_with_groups_and_bias(method):
    image = np.array([[[1, 2]], [[3, 4]]])  # two channels of 1 x 2
    kernel = np.array([[[[1, 10]]], [[[100, 1]]]])  # one output channel per input channel
    expected = [[[21 + 5]], [[304 - 5]]]
    bias = np.array([5, -5])
    np.testing.assert_array_equal(
        conv2d(image, kernel, bias=bias, groups=2, method=method), expected
    )
    ungrouped = np.array([[[[1, 10]], [[100, 1]]]])
    np.testing.assert_array_equal(conv2d(image, ungrouped, method=method), [[[21 + 304]]])


def test_known_padding_modes():
    rows = {
        "zeros": [0, 0, 1, 2, 3, 0, 0],
        "reflect": [3, 2, 1, 2, 3, 2, 1],
        "replicate": [1, 1, 1, 2, 3, 3, 3],
        "circular": [2, 3, 1, 2, 3, 1, 2],
    }
    for mode, row in rows.items():
        options = {"padding": ((0, 0), (2, 2)), "padding_mode": mode}
        for method in METHODS:
            output = conv2d([[1, 2, 3]], [[1]], method=method, **options)
            np.testing.assert_array_equal(output, [row])


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_batch_and_a_kernel_as_large_as_the_image(method):
    empty = conv2d(
        np.zeros((0, 3, 8, 9), np.float32),
        np.ones((4, 3, 3, 3), np.float32),
        bias=np.ones(4, np.float32),
        stride=2,
        padding=1,
        padding_mode="reflect",
        method=method,
    )
    assert empty.shape == (0, 4, 4, 5)
    assert empty.dtype == np.float32
    image = np.arange(12).reshape(3, 4)
    np.testing.assert_array_equal(conv2d(image, image, method=method), [[(image**2).sum()]])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", "f2 f4 f8 g c8 c16 i1 i2 i4 i8 u1 u2 u4 u8 >f4 >i2 >f2".split())
def test_the_dtype_is_preserved(dtype, method):
    image = np.arange(16).reshape(4, 4).astype(dtype)
    kernel = np.array([[0, 1], [2, 3]], dtype)
    output = conv2d(image, kernel, bias=np.ones((), dtype), method=method)
    assert output.dtype == np.dtype(dtype)
    assert output[0, 0].real == 0 * 0 + 1 * 1 + 2 * 4 + 3 * 5 + 1
    for grad, shape in zip(
        conv2d_gradients(output, image, kernel), [(4, 4), (2, 2), ()], strict=True
    ):
        assert grad.dtype == np.dtype(dtype)
        assert grad.shape == shape


@pytest.mark.parametrize("method", METHODS)
def test_integers_wrap_around_as_in_torch(method):
    image, kernel = np.full((3, 3), 100, np.int8), np.full((2, 2), 3, np.int8)
    output = conv2d(image, kernel, bias=np.int8(7), method=method)
    expected = torch_conv2d(
        torch.from_numpy(image), torch.from_numpy(kernel), bias=torch.tensor([7]).to(torch.int8)
    )
    np.testing.assert_array_equal(output, expected.numpy())
    assert output[0, 0] == (1200 + 7 + 128) % 256 - 128


@pytest.mark.parametrize("method", METHODS)
def test_float16_is_summed_in_float32_and_rounded_once(method):
    image = np.full((1, 64, 64), 1.001, np.float16)
    kernel = np.ones((1, 1, 64, 64), np.float16)
    output = conv2d(image, kernel, method=method)  # in float16, 2048 + 1 is 2048
    assert output.item() == np.float16(4096 * float(np.float16(1.001)))
    too_large = conv2d(image, np.full_like(kernel, 1000), method=method)
    assert too_large.item() == np.inf


def test_a_python_number_as_bias_adopts_the_dtype_of_the_image():
    image, kernel = np.ones((2, 2), np.float32), np.ones((1, 1), np.float32)
    for bias in (0.5, np.float32(0.5), np.array([0.5], np.float32)):
        output = conv2d(image, kernel, bias=bias)
        assert output.dtype == np.float32
        np.testing.assert_array_equal(output, np.full((2, 2), 1.5))


@pytest.mark.parametrize("method", METHODS)
def test_nan_and_infinity_propagate_to_every_unit_that_reads_them(method):
    image = np.zeros((5, 5))
    image[1, 1], image[4, 4] = np.nan, np.inf
    output = conv2d(image, np.zeros((2, 2)), method=method)  # 0 * inf is NaN too
    expected = np.zeros((4, 4))
    expected[0:2, 0:2] = expected[3, 3] = np.nan
    np.testing.assert_array_equal(output, expected)
    output = conv2d(image, np.ones((2, 2)), method=method)
    expected[3, 3] = np.inf
    np.testing.assert_array_equal(output, expected)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("weight", [np.nan, np.inf])
def test_the_zeros_of_the_padding_are_multiplied(weight, method):
    image, kernel = np.ones((2, 2)), np.full((2, 2), weight)
    output = conv2d(image, kernel, padding=2, method=method)
    expected = torch_conv2d(torch.from_numpy(image), torch.from_numpy(kernel), padding=2)
    np.testing.assert_array_equal(output, expected.numpy())
    assert np.isnan(output[0]).all()


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("method", METHODS)
def test_nan_stays_in_its_group_and_image(groups, method):
    image = np.ones((2, 4, 3, 3), np.float32)
    image[1, 2, 0, 0] = np.nan
    kernel = np.zeros((4, 4 // groups, 3, 3), np.float32)
    output = conv2d(image, kernel, groups=groups, method=method)
    expected = np.zeros((2, 4, 1, 1))
    expected[1, 2 if groups == 4 else slice(None)] = np.nan
    np.testing.assert_array_equal(output, expected)


@deterministic
@given(problems())
def test_arguments_are_not_modified_and_their_layout_does_not_matter(problem):
    image, kernel, options = problem
    strided = np.repeat(np.asfortranarray(image), 2, axis=-1)[..., ::2]
    backwards = np.ascontiguousarray(kernel[..., ::-1])[..., ::-1]
    image.setflags(write=False)
    kernel.setflags(write=False)
    output = conv2d(image, kernel, **options)
    grads = conv2d_gradients(output, image, kernel, **options)
    for result in (output, *grads):
        assert result.flags.writeable
        assert not np.shares_memory(result, image) and not np.shares_memory(result, kernel)
    for method in METHODS:
        np.testing.assert_array_equal(conv2d(strided, backwards, method=method, **options), output)
    other_layout = conv2d_gradients(np.asfortranarray(output), strided, backwards, **options)
    for grad, expected in zip(other_layout, grads, strict=True):
        np.testing.assert_array_equal(grad, expected)


@deterministic
@given(problems())
def test_equals_torch(problem):
    image, kernel, options = problem
    bias = random_like(np.empty(kernel.shape[0] if kernel.ndim == 4 else 1, kernel.dtype))
    expected = torch_conv2d(
        *map(torch.from_numpy, (image, kernel)), torch.from_numpy(bias), **options
    )
    for method in METHODS:
        output = conv2d(image, kernel, bias=bias, method=method, **options)
        np.testing.assert_array_equal(output, expected.numpy())


@deterministic
@given(problems(), st.booleans())
def test_gradients_equal_autograd(problem, is_complex):
    """Integers in floating point: sums are exact, so results are equal in every bit."""
    image, kernel = (
        array.astype(np.complex128 if is_complex else np.float64) for array in problem[:2]
    )
    if is_complex:
        image, kernel = image + 1j * random_like(image), kernel - 1j * random_like(kernel)
    options = problem[2]
    bias = random_like(np.empty(kernel.shape[0] if kernel.ndim == 4 else 1, kernel.dtype))
    leaves = [torch.from_numpy(array).requires_grad_() for array in (image, kernel, bias)]
    output = torch_conv2d(*leaves, **options)
    grad_output = (2 + image.sum()) * random_like(np.empty(output.shape, image.dtype), seed=1)
    loss = (output * torch.from_numpy(grad_output).conj()).real.sum()
    expected = torch.autograd.grad(loss, leaves)
    gradients = conv2d_gradients(grad_output, image, kernel, **options)
    for grad, expected_grad in zip(gradients, expected, strict=True):
        np.testing.assert_array_equal(grad, expected_grad.numpy().reshape(grad.shape))


def test_equals_scipy():
    """SciPy's "full" pads by the kernel size minus one; its "wrap" is circular."""
    rng = np.random.default_rng(0)
    for taps in ((1, 1), (2, 5), (7, 4)):
        image, kernel = rng.integers(-9, 10, (7, 8)), rng.integers(-9, 10, taps)
        full = [(n - 1, n - 1) for n in taps]
        for flip, scipy_function in ((False, correlate2d), (True, convolve2d)):
            output = conv2d(image, kernel, padding=full, flip=flip)
            np.testing.assert_array_equal(output, scipy_function(image, kernel))
            output = conv2d(image, kernel, flip=flip)
            np.testing.assert_array_equal(output, scipy_function(image, kernel, mode="valid"))
        output = conv2d(image, kernel, padding=full, padding_mode="circular")
        np.testing.assert_array_equal(output, correlate2d(image, kernel, boundary="wrap"))


# Relative to the sum of the absolute terms of a result. Rounding errors are proportional to it
# (Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section 4.2): about 1e-7 of it in
# float32, 1e-16 in float64. A wrong weight or sign causes an error of 1e-3 or more.
TOLERANCES = {np.float32: 2e-6, np.float64: 4e-15}


@deterministic
@given(problems(), st.sampled_from(list(TOLERANCES)), st.integers(0, 1000))
def test_floating_point_results_equal_torch_up_to_rounding(problem, dtype, seed):
    """Both methods and the gradients."""
    rng = np.random.default_rng(seed)
    image, kernel = (rng.standard_normal(array.shape).astype(dtype) for array in problem[:2])
    options = problem[2]
    bias = rng.standard_normal(len(kernel) if kernel.ndim == 4 else 1).astype(dtype)
    grad = rng.standard_normal(conv2d(image, kernel, **options).shape).astype(dtype)

    def by_torch(*arrays):
        *leaves, grad_output = (torch.from_numpy(a) for a in arrays)
        leaves = [leaf.requires_grad_() for leaf in leaves]
        output = torch_conv2d(*leaves, **options)
        return [output.detach(), *torch.autograd.grad((output * grad_output).sum(), leaves)]

    references = by_torch(image, kernel, bias, grad)
    term_sums = by_torch(*(abs(array) for array in (image, kernel, bias, grad)))
    grads = conv2d_gradients(grad, image, kernel, **options)
    outputs = [conv2d(image, kernel, bias=bias, method=m, **options) for m in METHODS]
    for result, k in zip([*outputs, *grads], (0, 0, 1, 2, 3), strict=True):
        expected, sums = (x[k].numpy().reshape(result.shape) for x in (references, term_sums))
        assert result.dtype == dtype
        assert (abs(result - expected) <= TOLERANCES[dtype] * sums).all()


def test_only_numpy_is_imported():
    code = (
        "import sys, simplecnn.convolution; print('numpy' in sys.modules, 'torch' in sys.modules)"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert process.stdout == "True False\n"


def zeros(*shape, dtype="float32"):
    return np.zeros(shape, dtype)


RANKS = "image must have 2, 3 or 4 dimensions, (H, W), (C, H, W) or (N, C, H, W), "
PADDINGS = "padding must be an int, a pair, ((top, bottom), (left, right)), 'valid' or 'same', "
EMPTY = "image and kernel must not be empty, except for a batch of 0: "
# Shapes of image and kernel, options, and the message.
INVALID_VALUES = [
    ((3,), (3, 3), {}, RANKS + "got 1: shape (3,)"),
    ((1, 1, 1, 3, 3), (1, 1, 3, 3), {}, RANKS + "got 5: shape (1, 1, 1, 3, 3)"),
    (
        *((3, 3), (1, 1, 3, 3), {}),
        "kernel must have 2 dimensions, (K, L), because image has 2, got 4: shape (1, 1, 3, 3)",
    ),
    (
        *((1, 1, 3, 3), (3, 3), {}),
        "kernel must have 4 dimensions, (M, C/groups, K, L), because image has 4, "
        "got 2: shape (3, 3)",
    ),
    (
        *((1, 4, 5, 5), (2, 3, 3, 3), {}),
        "image has 4 channels but kernel, of shape (2, 3, 3, 3) with groups=1, expects 3",
    ),
    (
        *((1, 4, 5, 5), (6, 2, 3, 3), {"groups": 3}),
        "image has 4 channels but kernel, of shape (6, 2, 3, 3) with groups=3, expects 6",
    ),
    (
        *((1, 4, 5, 5), (3, 2, 3, 3), {"groups": 2}),
        "kernel has 3 output channels, which groups=2 does not divide",
    ),
    ((3, 3), (3, 3), {"groups": 0}, "groups must be an int of at least 1, got 0"),
    ((3, 3), (3, 3), {"groups": 1.0}, "groups must be an int of at least 1, got 1.0"),
    ((3, 3), (3, 3), {"stride": (1, 0)}, "stride must be at least 1, got 0"),
    ((3, 3), (3, 3), {"dilation": 0}, "dilation must be at least 1, got 0"),
    ((3, 3), (3, 3), {"padding": -1}, "padding must be at least 0, got -1"),
    ((3, 3), (3, 3), {"padding": ((0, 0), (0, -2))}, "padding must be at least 0, got -2"),
    ((3, 3), (3, 3), {"padding": (1, 1, 1, 1)}, PADDINGS + "got (1, 1, 1, 1)"),
    ((3, 3), (3, 3), {"padding": "full"}, PADDINGS + "got 'full'"),
    (
        *((3, 3), (3, 3), {"padding": "same", "stride": (1, 2)}),
        "padding='same' requires stride 1, got stride (1, 2)",
    ),
    (
        *((3, 8), (6, 2), {"padding": 1}),
        "kernel spans 6 rows, dilation included, but the padded image has only 5",
    ),
    (
        *((8, 4), (3, 3), {"dilation": (1, 2)}),
        "kernel spans 5 columns, dilation included, but the padded image has only 4",
    ),
    (
        *((3, 4), (1, 1), {"padding": ((0, 3), (0, 0)), "padding_mode": "reflect"}),
        "padding of 3 rows is too large for padding_mode='reflect' and an image of 3 rows: "
        "at most 2",
    ),
    (
        *((9, 4), (1, 1), {"padding": (0, 5), "padding_mode": "circular"}),
        "padding of 5 columns is too large for padding_mode='circular' and an image of 4 columns: "
        "at most 4",
    ),
    (
        *((3, 3), (3, 3), {"padding_mode": "mirror"}),
        "padding_mode must be one of 'zeros', 'reflect', 'replicate', 'circular', got 'mirror'",
    ),
    ((2, 1, 0, 3), (1, 1, 1, 1), {}, EMPTY + "got shapes (2, 1, 0, 3) and (1, 1, 1, 1)"),
    ((3, 3), (0, 3), {}, EMPTY + "got shapes (3, 3) and (0, 3)"),
]
INVALID_TYPES = [
    ({"stride": (1, 1, 1)}, "stride must be an int or a pair of ints, got (1, 1, 1)"),
    ({"stride": 1.5}, "stride must be an int or a pair of ints, got 1.5"),
    ({"stride": True}, "stride must be an int or a pair of ints, got True"),
    ({"padding": 0.5}, "padding must be an int or a pair of ints, got 0.5"),
]


def error_message(error, image, kernel, options) -> str:
    """Return the error message, which is the same for both functions."""
    with pytest.raises(error) as forward:
        conv2d(image, kernel, **options)
    with pytest.raises(error) as backward:
        conv2d_gradients(zeros(1, 1), image, kernel, **options)
    assert str(forward.value) == str(backward.value)
    return str(forward.value)


def test_error_messages_for_invalid_arguments():
    for image, kernel, options, message in INVALID_VALUES:
        assert error_message(ValueError, zeros(*image), zeros(*kernel), options) == message
    for options, message in INVALID_TYPES:
        assert error_message(TypeError, zeros(3, 3), zeros(3, 3), options) == message
    image, double, boolean = (zeros(3, 3, dtype=d) for d in ("float32", "float64", "bool"))
    message = "image is float32 but kernel is float64: convert one"
    assert error_message(TypeError, image, double, {}) == message
    assert error_message(TypeError, boolean, boolean, {}) == "image must contain numbers, got bool"


def test_invalid_method():
    with pytest.raises(ValueError, match="^method must be one of 'naive', 'windows', got 'fft'$"):
        conv2d(zeros(3, 3), zeros(3, 3), method="fft")


@pytest.mark.parametrize(
    ("bias", "error", "message"),
    [
        (zeros(3), ValueError, "bias must have shape (2,), one value per output channel, got (3,)"),
        (0.5, ValueError, "bias must have shape (2,), one value per output channel, got ()"),
        (zeros(2, dtype="float64"), TypeError, "bias is float64 but image is float32: convert one"),
    ],
)
def test_invalid_bias(bias, error, message):
    with pytest.raises(error) as caught:
        conv2d(zeros(1, 3, 3), zeros(2, 1, 3, 3), bias=bias)
    assert str(caught.value) == message


def test_a_bias_that_would_be_truncated_is_rejected():
    integers = zeros(3, 3, dtype="int64")
    with pytest.raises(TypeError, match="^bias is float64 but image is int64: convert one$"):
        conv2d(integers, integers, bias=0.5)


def test_invalid_gradient_of_the_output():
    image = zeros(1, 1, 5, 5)
    kernel = zeros(2, 1, 3, 3)
    with pytest.raises(ValueError) as wrong_shape:
        conv2d_gradients(zeros(1, 2, 3, 4), image, kernel)
    assert str(wrong_shape.value) == (
        "grad_output must have the output's shape (1, 2, 3, 3), got (1, 2, 3, 4)"
    )
    with pytest.raises(TypeError, match="^grad_output is float64 but image is float32: convert"):
        conv2d_gradients(zeros(1, 2, 3, 3, dtype="float64"), image, kernel)

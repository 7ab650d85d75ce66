"""`conv2d` against known numbers, its own algebra, PyTorch and SciPy."""

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
repeatably = settings(max_examples=100, deadline=None, derandomize=True)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Arrays this small are not worth PyTorch's threads: 30 times faster without."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@st.composite
def problems(draw):
    """(image, kernel, options): small integers in int64, so that every answer is exact."""
    ndim = draw(st.sampled_from([2, 3, 4]))
    few = st.integers(1, 3)
    groups, channels_per_group, maps_per_group = (
        (1, 1, 1) if ndim == 2 else draw(st.tuples(few, few, few))
    )
    taps = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    dilation = draw(st.tuples(few, few))
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
    stride = (1, 1) if padding == "same" else draw(st.tuples(few, few))
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
    image, kernel, *, bias=None, padding=0, padding_mode="zeros", flip=False, **others
):
    """What PyTorch makes of the arguments of `conv2d`: `nn.Conv2d`, after `pad` for four sides."""
    ndim = image.ndim
    if ndim == 2:
        image, kernel = image[None], kernel[None, None]
    if not isinstance(padding, str | int) and not isinstance(padding[0], int):
        (top, bottom), (left, right) = padding
        mode = "constant" if padding_mode == "zeros" else padding_mode
        image = F.pad(image, (left, right, top, bottom), mode=mode)
        padding = 0
    layer = nn.Conv2d(
        in_channels=others.get("groups", 1) * kernel.shape[1],
        out_channels=kernel.shape[0],
        kernel_size=tuple(kernel.shape[2:]),
        padding=padding,
        padding_mode=padding_mode,
        bias=bias is not None,
        device="meta",  # no weights of its own: they are given below
        **others,
    )
    weights = {"weight": kernel.flip(-2, -1) if flip else kernel}
    if bias is not None:
        weights["bias"] = bias
    with warnings.catch_warnings():
        # A remark on torch's speed, not on its answer
        warnings.filterwarnings("ignore", message="Using padding='same' with even kernel lengths")
        output = torch.func.functional_call(layer, weights, image)
    return output[0] if ndim == 2 else output


def alike(array, seed=0):
    """Other small integers of the same shape and dtype."""
    return np.random.default_rng(seed).integers(-9, 10, array.shape).astype(array.dtype)


# ------------------------------------------------------------------------------ known answers


@pytest.mark.parametrize("method", METHODS)
def test_known_numbers(method):
    image = np.arange(9).reshape(3, 3)
    kernel = np.arange(4).reshape(2, 2)
    valid = [[19, 25], [37, 43]]  # 0*0 + 1*1 + 2*3 + 3*4 = 19
    np.testing.assert_array_equal(conv2d(image, kernel, method=method), valid)
    turned = [[5, 11], [23, 29]]  # 3*0 + 2*1 + 1*3 + 0*4 = 5
    np.testing.assert_array_equal(conv2d(image, kernel, flip=True, method=method), turned)
    np.testing.assert_array_equal(
        conv2d(image, kernel, padding=((1, 0), (0, 2)), method=method),
        [[3, 8, 4, 0], [19, 25, 2 * 5, 0], [37, 43, 2 * 8, 0]],
    )
    np.testing.assert_array_equal(
        conv2d(image, kernel, stride=(2, 1), padding=(1, 0), method=method),
        [[3, 8], [37, 43]],
    )
    np.testing.assert_array_equal(  # corners only: 0*0 + 1*2 + 2*6 + 3*8
        conv2d(image, kernel, dilation=2, method=method), [[38]]
    )


@pytest.mark.parametrize("method", METHODS)
def test_the_tutorials_square(method):
    image = np.zeros((10, 10))
    image[2:8, 2:8] = 1
    edge = np.array([[-1.0, -1, -1], [0, 0, 0], [1, 1, 1]])
    expected = np.zeros((10, 10))
    expected[1:3] = [0, 1, 2, 3, 3, 3, 3, 2, 1, 0]
    expected[7:9] = [0, -1, -2, -3, -3, -3, -3, -2, -1, 0]
    np.testing.assert_array_equal(conv2d(image, edge, padding=1, method=method), expected)


@pytest.mark.parametrize("method", METHODS)
def test_known_numbers_with_groups_and_bias(method):
    image = np.array([[[1, 2]], [[3, 4]]])  # two channels of 1 x 2
    kernel = np.array([[[[1, 10]]], [[[100, 1]]]])  # one map for each
    expected = [[[21 + 5]], [[304 - 5]]]
    bias = np.array([5, -5])
    np.testing.assert_array_equal(
        conv2d(image, kernel, bias=bias, groups=2, method=method), expected
    )
    both = np.array([[[[1, 10]], [[100, 1]]]])
    np.testing.assert_array_equal(conv2d(image, both, method=method), [[[21 + 304]]])


@pytest.mark.parametrize(
    ("mode", "row"),
    [
        ("zeros", [0, 0, 1, 2, 3, 0, 0]),
        ("reflect", [3, 2, 1, 2, 3, 2, 1]),
        ("replicate", [1, 1, 1, 2, 3, 3, 3]),
        ("circular", [2, 3, 1, 2, 3, 1, 2]),
    ],
)
def test_known_padding_modes(mode, row):
    image = np.array([[1, 2, 3]])
    one = np.array([[1]])
    sides = ((0, 0), (2, 2))
    np.testing.assert_array_equal(conv2d(image, one, padding=sides, padding_mode=mode), [row])


def test_same_puts_the_odd_row_and_column_at_the_bottom_and_right():
    image = np.ones((4, 4))
    kernel = np.arange(4.0).reshape(2, 2)
    expected = [[6, 6, 6, 2], [6, 6, 6, 2], [6, 6, 6, 2], [1, 1, 1, 0]]
    np.testing.assert_array_equal(conv2d(image, kernel, padding="same"), expected)


@pytest.mark.parametrize("method", METHODS)
def test_every_rank_gives_its_own_rank_back(method):
    image = np.arange(2 * 3 * 5 * 6.0).reshape(2, 3, 5, 6)
    kernel = np.arange(4 * 3 * 2 * 3.0).reshape(4, 3, 2, 3)
    output = conv2d(image, kernel, method=method)
    assert output.shape == (2, 4, 4, 4)
    np.testing.assert_array_equal(conv2d(image[1], kernel, method=method), output[1])
    plane = conv2d(image[1, 2], kernel[3, 2], method=method)
    assert plane.shape == (4, 4)
    alone = conv2d(image[1:, 2:], kernel[3:, 2:], method=method)
    np.testing.assert_array_equal(plane, alone[0, 0])


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_of_none_and_a_kernel_as_large_as_the_image(method):
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


# ------------------------------------------------------------------------------------- dtypes


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", "f2 f4 f8 g c8 c16 i1 i2 i4 i8 u1 u2 u4 u8 >f4 >i2 >f2".split())
def test_the_dtype_is_kept(dtype, method):
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
    output = conv2d(image, kernel, method=method)  # in float16, 2048 + 1 is 2048: no sum gets on
    assert output.item() == np.float16(4096 * float(np.float16(1.001)))
    too_large = conv2d(image, np.full_like(kernel, 1000), method=method)
    assert too_large.item() == np.inf


def test_a_number_as_bias_takes_the_dtype_of_the_image():
    image, kernel = np.ones((2, 2), np.float32), np.ones((1, 1), np.float32)
    for bias in (0.5, np.float32(0.5), np.array([0.5], np.float32)):
        output = conv2d(image, kernel, bias=bias)
        assert output.dtype == np.float32
        np.testing.assert_array_equal(output, np.full((2, 2), 1.5))


@pytest.mark.parametrize("method", METHODS)
def test_nan_and_infinity_reach_every_unit_that_reads_them(method):
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
def test_the_zeros_of_the_padding_are_multiplied_too(weight, method):
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


# ------------------------------------------------------------------------------------- memory


@repeatably
@given(problems())
def test_arguments_are_left_alone_and_answers_share_no_memory_with_them(problem):
    image, kernel, options = problem
    before = image.copy(), kernel.copy()
    image.setflags(write=False)
    kernel.setflags(write=False)
    output = conv2d(image, kernel, **options)
    grads = conv2d_gradients(output, image, kernel, **options)
    for answer in (output, *grads):
        assert answer.flags.writeable
        assert not np.shares_memory(answer, image)
        assert not np.shares_memory(answer, kernel)
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(kernel, before[1])


@repeatably
@given(problems())
def test_the_layout_in_memory_does_not_matter(problem):
    image, kernel, options = problem
    expected = conv2d(image, kernel, **options)
    strided = np.repeat(np.asfortranarray(image), 2, axis=-1)[..., ::2]
    backwards = np.ascontiguousarray(kernel[..., ::-1])[..., ::-1]
    for method in METHODS:
        np.testing.assert_array_equal(
            conv2d(strided, backwards, method=method, **options), expected
        )
    for given_, plain in zip(
        conv2d_gradients(np.asfortranarray(expected), strided, backwards, **options),
        conv2d_gradients(expected, image, kernel, **options),
        strict=True,
    ):
        np.testing.assert_array_equal(given_, plain)


def test_a_broadcast_image_has_no_memory_of_its_own():
    image = np.broadcast_to(np.arange(4.0), (2, 3, 4, 4))
    kernel = np.broadcast_to(np.arange(2.0), (5, 3, 2, 2))
    output = conv2d(image, kernel, padding=((0, 1), (1, 0)))
    np.testing.assert_array_equal(
        output, conv2d(image.copy(), kernel.copy(), padding=((0, 1), (1, 0)))
    )


# ------------------------------------------------------------------------------------ algebra


@repeatably
@given(problems())
def test_both_methods_give_the_same_numbers(problem):
    image, kernel, options = problem
    np.testing.assert_array_equal(
        conv2d(image, kernel, method="naive", **options),
        conv2d(image, kernel, method="windows", **options),
    )


@repeatably
@given(problems(), st.integers(-5, 5))
def test_linear_in_image_and_in_kernel(problem, factor):
    image, kernel, options = problem
    other_image, other_kernel = alike(image), alike(kernel)
    plain = conv2d(image, kernel, **options)
    np.testing.assert_array_equal(
        conv2d(image + factor * other_image, kernel, **options),
        plain + factor * conv2d(other_image, kernel, **options),
    )
    np.testing.assert_array_equal(
        conv2d(image, kernel + factor * other_kernel, **options),
        plain + factor * conv2d(image, other_kernel, **options),
    )


@repeatably
@given(problems())
def test_gradients_are_the_adjoints(problem):
    """<conv2d(x), y> is <x, gradient by x>, and the same by the kernel and by the bias."""
    image, kernel, options = problem
    output = conv2d(image, kernel, **options)
    y = alike(output)
    grads = conv2d_gradients(y, image, kernel, **options)
    inner = np.sum(output * y)
    assert np.sum(image * grads.image) == inner
    assert np.sum(kernel * grads.kernel) == inner
    bias = alike(grads.bias, seed=1)
    biased = conv2d(image, kernel, bias=bias, **options)
    assert np.sum(bias * grads.bias) == np.sum((biased - output) * y)


@repeatably
@given(
    taps=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    num_units=st.tuples(st.integers(2, 5), st.integers(2, 5)),
    shift=st.tuples(st.integers(-3, 3), st.integers(-3, 3)),
    flip=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_shifting_the_image_shifts_the_output(taps, stride, num_units, shift, flip, seed):
    """On a torus, by a shift of whole strides: translation equivariance, not invariance."""
    size = np.multiply(stride, num_units)
    sides = [(0, min(n - 1, s)) for n, s in zip(taps, size, strict=True)]
    taps = [after + 1 for _, after in sides]
    rng = np.random.default_rng(seed)
    image, kernel = rng.integers(-9, 10, (2, *size)), rng.integers(-9, 10, (3, 2, *taps))
    options = {"stride": stride, "padding": sides, "padding_mode": "circular", "flip": flip}
    output = conv2d(image, kernel, **options)
    assert output.shape == (3, *num_units)
    shifted = np.roll(image, np.multiply(shift, stride), axis=(1, 2))
    np.testing.assert_array_equal(
        conv2d(shifted, kernel, **options), np.roll(output, shift, axis=(1, 2))
    )


@repeatably
@given(problems())
def test_options_are_what_they_abbreviate(problem):
    """Four sides, a padded image, a dilated kernel, a turned kernel, and each group alone."""
    image, kernel, options = problem
    expected = conv2d(image, kernel, **options)
    *outer, num_rows, num_columns = kernel.shape
    vertical, horizontal = options["dilation"]
    span = [vertical * (num_rows - 1) + 1, horizontal * (num_columns - 1) + 1]
    sides = four_sides(options["padding"], span)
    mode = {"zeros": "constant", "replicate": "edge", "circular": "wrap"}
    padded = np.pad(
        image,
        [(0, 0)] * (image.ndim - 2) + sides,
        mode=mode.get(options["padding_mode"], "reflect"),
    )
    holed = np.zeros((*outer, *span), kernel.dtype)
    holed[..., ::vertical, ::horizontal] = kernel
    if options["flip"]:
        holed = holed[..., ::-1, ::-1]
    everywhere = [
        conv2d(
            channels if image.ndim > 2 else padded,
            maps if image.ndim > 2 else holed,
        )
        for channels, maps in zip(
            np.split(padded, options["groups"], axis=-3) if image.ndim > 2 else [padded],
            np.split(holed, options["groups"]) if image.ndim > 2 else [holed],
            strict=True,
        )
    ]
    output = np.concatenate(everywhere, axis=-3) if image.ndim > 2 else everywhere[0]
    rows, columns = options["stride"]
    np.testing.assert_array_equal(output[..., ::rows, ::columns], expected)


# ------------------------------------------------------------------------------ other libraries


@repeatably
@given(problems())
def test_equals_torch(problem):
    image, kernel, options = problem
    expected = torch_conv2d(torch.from_numpy(image), torch.from_numpy(kernel), **options).numpy()
    for method in METHODS:
        np.testing.assert_array_equal(conv2d(image, kernel, method=method, **options), expected)


@repeatably
@given(problems())
def test_gradients_equal_autograd(problem):
    image, kernel, options = problem
    check_gradients(image.astype(np.float64), kernel.astype(np.float64), options)


@settings(repeatably, max_examples=20)
@given(problems())
def test_complex_gradients_equal_autograd(problem):
    image, kernel, options = problem
    check_gradients(image + 1j * alike(image), kernel - 1j * alike(kernel), options)


def check_gradients(image, kernel, options):
    """Whole numbers in floating point: sums are exact, so equal means equal."""
    bias = alike(np.empty(kernel.shape[0] if kernel.ndim == 4 else 1, kernel.dtype))
    leaves = [torch.from_numpy(array).requires_grad_() for array in (image, kernel, bias)]
    output = torch_conv2d(leaves[0], leaves[1], bias=leaves[2], **options)
    grad = (2 + image.sum()) * alike(np.empty(output.shape, image.dtype), seed=1)
    loss = (output * torch.from_numpy(grad).conj()).real.sum()  # its gradient by output: grad
    expected = torch.autograd.grad(loss, leaves)
    for ours, theirs in zip(
        conv2d_gradients(grad, image, kernel, **options), expected, strict=True
    ):
        np.testing.assert_array_equal(ours, theirs.numpy().reshape(ours.shape))


@repeatably
@given(
    size=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    taps=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    seed=st.integers(0, 1000),
)
def test_equals_scipy(size, taps, seed):
    """scipy's "full" is padding by all but one tap; its "valid" is ours; "wrap" is circular."""
    rng = np.random.default_rng(seed)
    image, kernel = rng.integers(-9, 10, size), rng.integers(-9, 10, taps)
    full = [(n - 1, n - 1) for n in taps]
    np.testing.assert_array_equal(conv2d(image, kernel, padding=full), correlate2d(image, kernel))
    np.testing.assert_array_equal(
        conv2d(image, kernel, padding=full, flip=True), convolve2d(image, kernel)
    )
    if all(n <= s for n, s in zip(taps, size, strict=True)):
        np.testing.assert_array_equal(
            conv2d(image, kernel), correlate2d(image, kernel, mode="valid")
        )
        np.testing.assert_array_equal(
            conv2d(image, kernel, flip=True), convolve2d(image, kernel, mode="valid")
        )
        np.testing.assert_array_equal(
            conv2d(image, kernel, padding=full, padding_mode="circular"),
            correlate2d(image, kernel, boundary="wrap"),
        )


# Of the sum of the absolute terms behind a number: what rounding leaves is proportional to that
# (Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section 4.2), about 1e-7 of it in
# float32 and 1e-16 in float64; a wrong weight or sign leaves 1e-3 and more.
TOLERANCES = {np.float32: 2e-6, np.float64: 4e-15}


@repeatably
@given(problems(), st.sampled_from(list(TOLERANCES)), st.integers(0, 1000))
def test_the_rest_is_rounding(problem, dtype, seed):
    """Both methods and the gradients, in floating point, against PyTorch."""
    rng = np.random.default_rng(seed)
    image, kernel = (rng.standard_normal(array.shape).astype(dtype) for array in problem[:2])
    options = problem[2]
    bias = rng.standard_normal(len(kernel) if kernel.ndim == 4 else 1).astype(dtype)
    grad = rng.standard_normal(conv2d(image, kernel, **options).shape).astype(dtype)

    def by_torch(*arrays):
        *leaves, grad_output = (torch.from_numpy(a) for a in arrays)
        leaves = [leaf.requires_grad_() for leaf in leaves]
        output = torch_conv2d(leaves[0], leaves[1], bias=leaves[2], **options)
        return [output.detach(), *torch.autograd.grad((output * grad_output).sum(), leaves)]

    theirs = by_torch(image, kernel, bias, grad)
    terms = by_torch(*(abs(array) for array in (image, kernel, bias, grad)))
    grads = conv2d_gradients(grad, image, kernel, **options)
    outputs = [conv2d(image, kernel, bias=bias, method=m, **options) for m in METHODS]
    for ours, k in zip([*outputs, *grads], (0, 0, 1, 2, 3), strict=True):
        expected, sizes = (x[k].numpy().reshape(ours.shape) for x in (theirs, terms))
        assert ours.dtype == dtype
        assert (abs(ours - expected) <= TOLERANCES[dtype] * sizes).all()


def test_only_numpy_is_imported():
    code = (
        "import sys, simplecnn.convolution; print('numpy' in sys.modules, 'torch' in sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout == "True False\n"


# ------------------------------------------------------------------------------------ bad input


def zeros(*shape, dtype="float32"):
    return np.zeros(shape, dtype)


BAD = {
    "image of one dimension": (
        (zeros(3), zeros(3, 3), {}),
        ValueError,
        "image must have 2, 3 or 4 dimensions, (H, W), (C, H, W) or (N, C, H, W), "
        "got 1: shape (3,)",
    ),
    "image of five dimensions": (
        (zeros(1, 1, 1, 3, 3), zeros(1, 1, 3, 3), {}),
        ValueError,
        "image must have 2, 3 or 4 dimensions, (H, W), (C, H, W) or (N, C, H, W), "
        "got 5: shape (1, 1, 1, 3, 3)",
    ),
    "kernel of another rank than a plane": (
        (zeros(3, 3), zeros(1, 1, 3, 3), {}),
        ValueError,
        "kernel must have 2 dimensions, (K, L), where image has 2, got 4: shape (1, 1, 3, 3)",
    ),
    "kernel of another rank than a batch": (
        (zeros(1, 1, 3, 3), zeros(3, 3), {}),
        ValueError,
        "kernel must have 4 dimensions, (M, C/groups, K, L), where image has 4, "
        "got 2: shape (3, 3)",
    ),
    "channels": (
        (zeros(1, 4, 5, 5), zeros(2, 3, 3, 3), {}),
        ValueError,
        "image has 4 channels but kernel, of shape (2, 3, 3, 3), reads 3 in each of groups=1: 3",
    ),
    "channels against groups": (
        (zeros(1, 4, 5, 5), zeros(6, 2, 3, 3), {"groups": 3}),
        ValueError,
        "image has 4 channels but kernel, of shape (6, 2, 3, 3), reads 2 in each of groups=3: 6",
    ),
    "maps against groups": (
        (zeros(1, 4, 5, 5), zeros(3, 2, 3, 3), {"groups": 2}),
        ValueError,
        "kernel has 3 output channels, which groups=2 do not divide",
    ),
    "groups of zero": (
        (zeros(3, 3), zeros(3, 3), {"groups": 0}),
        ValueError,
        "groups must be an int of at least 1, got 0",
    ),
    "groups of a fraction": (
        (zeros(3, 3), zeros(3, 3), {"groups": 1.0}),
        ValueError,
        "groups must be an int of at least 1, got 1.0",
    ),
    "stride of zero": (
        (zeros(3, 3), zeros(3, 3), {"stride": (1, 0)}),
        ValueError,
        "stride must be at least 1, got 0",
    ),
    "stride of three": (
        (zeros(3, 3), zeros(3, 3), {"stride": (1, 1, 1)}),
        TypeError,
        "stride must be an int or a pair of ints, got (1, 1, 1)",
    ),
    "stride of a fraction": (
        (zeros(3, 3), zeros(3, 3), {"stride": 1.5}),
        TypeError,
        "stride must be an int or a pair of ints, got 1.5",
    ),
    "stride of truth": (
        (zeros(3, 3), zeros(3, 3), {"stride": True}),
        TypeError,
        "stride must be an int or a pair of ints, got True",
    ),
    "dilation of zero": (
        (zeros(3, 3), zeros(3, 3), {"dilation": 0}),
        ValueError,
        "dilation must be at least 1, got 0",
    ),
    "negative padding": (
        (zeros(3, 3), zeros(3, 3), {"padding": -1}),
        ValueError,
        "padding must be at least 0, got -1",
    ),
    "negative padding of one side": (
        (zeros(3, 3), zeros(3, 3), {"padding": ((0, 0), (0, -2))}),
        ValueError,
        "padding must be at least 0, got -2",
    ),
    "padding of four in a row": (
        (zeros(3, 3), zeros(3, 3), {"padding": (1, 1, 1, 1)}),
        ValueError,
        "padding must be an int, a pair, ((top, bottom), (left, right)), 'valid' or 'same', "
        "got (1, 1, 1, 1)",
    ),
    "padding of another word": (
        (zeros(3, 3), zeros(3, 3), {"padding": "full"}),
        ValueError,
        "padding must be an int, a pair, ((top, bottom), (left, right)), 'valid' or 'same', "
        "got 'full'",
    ),
    "padding of a fraction": (
        (zeros(3, 3), zeros(3, 3), {"padding": 0.5}),
        TypeError,
        "padding must be an int or a pair of ints, got 0.5",
    ),
    "same with a stride": (
        (zeros(3, 3), zeros(3, 3), {"padding": "same", "stride": (1, 2)}),
        ValueError,
        "padding='same' needs stride 1, got stride (1, 2)",
    ),
    "kernel too large": (
        (zeros(3, 8), zeros(6, 2), {"padding": 1}),
        ValueError,
        "kernel spans 6 rows, dilation included, but the padded image has only 5",
    ),
    "kernel too large when dilated": (
        (zeros(8, 4), zeros(3, 3), {"dilation": (1, 2)}),
        ValueError,
        "kernel spans 5 columns, dilation included, but the padded image has only 4",
    ),
    "reflection of more than there is": (
        (zeros(3, 4), zeros(1, 1), {"padding": ((0, 3), (0, 0)), "padding_mode": "reflect"}),
        ValueError,
        "padding of 3 rows is too wide for padding_mode='reflect' and an image of 3: at most 2",
    ),
    "more than once around": (
        (zeros(9, 4), zeros(1, 1), {"padding": (0, 5), "padding_mode": "circular"}),
        ValueError,
        "padding of 5 columns is too wide for padding_mode='circular' and an image of 4: at most 4",
    ),
    "unknown mode": (
        (zeros(3, 3), zeros(3, 3), {"padding_mode": "mirror"}),
        ValueError,
        "padding_mode must be one of 'zeros', 'reflect', 'replicate', 'circular', got 'mirror'",
    ),
    "mixed dtypes": (
        (zeros(3, 3), zeros(3, 3, dtype="float64"), {}),
        TypeError,
        "image is float32 but kernel is float64: convert one",
    ),
    "no numbers": (
        (zeros(3, 3, dtype="bool"), zeros(3, 3, dtype="bool"), {}),
        TypeError,
        "image must hold numbers, got bool",
    ),
    "no rows": (
        (zeros(2, 1, 0, 3), zeros(1, 1, 1, 1), {}),
        ValueError,
        "image must not be empty but for a batch of 0, got shape (2, 1, 0, 3)",
    ),
    "no taps": (
        (zeros(3, 3), zeros(0, 3), {}),
        ValueError,
        "kernel must not be empty, got shape (0, 3)",
    ),
}


@pytest.mark.parametrize(("arguments", "error", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_told_in_a_sentence(arguments, error, message):
    image, kernel, options = arguments
    with pytest.raises(error) as forth:
        conv2d(image, kernel, **options)
    assert str(forth.value) == message
    with pytest.raises(error) as back:
        conv2d_gradients(zeros(1, 1), image, kernel, **options)
    assert str(back.value) == message


def test_bad_method():
    with pytest.raises(ValueError, match="^method must be one of 'naive', 'windows', got 'fft'$"):
        conv2d(zeros(3, 3), zeros(3, 3), method="fft")


@pytest.mark.parametrize(
    ("bias", "error", "message"),
    [
        (zeros(3), ValueError, "bias must have shape (2,), one number an output channel, got (3,)"),
        (0.5, ValueError, "bias must have shape (2,), one number an output channel, got ()"),
        (zeros(2, dtype="float64"), TypeError, "bias is float64 but image is float32: convert one"),
    ],
)
def test_bad_bias(bias, error, message):
    with pytest.raises(error) as caught:
        conv2d(zeros(1, 3, 3), zeros(2, 1, 3, 3), bias=bias)
    assert str(caught.value) == message


def test_a_bias_that_would_be_cut_is_refused():
    whole = zeros(3, 3, dtype="int64")
    with pytest.raises(TypeError, match="^bias is float64 but image is int64: convert one$"):
        conv2d(whole, whole, bias=0.5)


def test_bad_gradient_of_the_output():
    image = zeros(1, 1, 5, 5)
    kernel = zeros(2, 1, 3, 3)
    with pytest.raises(ValueError) as wrong_shape:
        conv2d_gradients(zeros(1, 2, 3, 4), image, kernel)
    assert str(wrong_shape.value) == (
        "grad_output must have the output's shape (1, 2, 3, 3), got (1, 2, 3, 4)"
    )
    with pytest.raises(TypeError, match="^grad_output is float64 but image is float32: convert"):
        conv2d_gradients(zeros(1, 2, 3, 3, dtype="float64"), image, kernel)

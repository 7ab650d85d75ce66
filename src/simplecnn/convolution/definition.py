"""2-D convolution as used in deep learning, from its definition, and its gradients; NumPy only.

For an image x (C, H, W), already padded, and a kernel w (M, C/groups, K, L), position (i, j) of
output channel m is a sum over the input channels c of m's group, the kernel's rows k and columns l:

    y[m, i, j] = bias[m] + sum w[m, c, k, l] * x[c, i*stride + k*dilation, j*stride + l*dilation]

with a stride and a dilation for each axis; in w, c counts from the first channel of the group.
The output has floor((H + top + bottom - dilation * (K - 1) - 1) / stride) + 1 rows.

This is cross-correlation: the kernel is not flipped. Mathematical convolution flips it in both axes
first (`flip=True`).

Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016,
arXiv:1603.07285. Options have the same meaning as in `torch.nn.Conv2d`.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

Pair: TypeAlias = int | Sequence[int]  # one for both axes, or (vertical, horizontal)
Padding: TypeAlias = int | Sequence[int | Sequence[int]] | Literal["valid", "same"]
PaddingMode: TypeAlias = Literal["zeros", "reflect", "replicate", "circular"]
Method: TypeAlias = Literal["naive", "windows"]
# The corresponding modes of `numpy.pad`.
MODES: dict[PaddingMode, Any] = {
    "zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap",
}  # fmt: skip


def conv2d(
    image: ArrayLike,
    kernel: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
    padding_mode: PaddingMode = "zeros",
    flip: bool = False,
    method: Method = "windows",
) -> NDArray[Any]:
    """Convolve `image` with `kernel`: cross-correlation, or with `flip` mathematical convolution.

        image          kernel                 bias          output
        (H, W)         (K, L)                 a number      (H', W')
        (C, H, W)      (M, C/groups, K, L)    (M,)          (M, H', W')
        (N, C, H, W)   (M, C/groups, K, L)    (M,)          (N, M, H', W'), N may be 0

    Image, kernel, bias and output have the same dtype (integer, floating or complex). float16 is
    summed in float32 and rounded once; integers wrap around as usual in NumPy. NaN and infinity
    propagate through every product, including those with a zero of the padding or the kernel.

    Args:
        padding: an int, one per axis (vertical, horizontal), or the four sides as in `numpy.pad`,
            ((top, bottom), (left, right)). "valid" is no padding. "same" preserves the image size,
            requires stride 1, and pads an odd row or column at the bottom or right, as torch does.
        padding_mode: pad with zeros, the image mirrored about its border pixels (reflect), the
            border pixels (replicate), or the opposite side (circular).
        method: "naive" is the definition in loops. "windows" gathers the pixels of every window and
            multiplies them with the kernel in one matrix product; it needs K * L times the image's
            memory.

    Raises:
        TypeError: wrong type or dtype.
        ValueError: wrong shape or value.
    """
    _check_choice("method", method, ("naive", "windows"))
    conv = _Convolution(image, kernel, stride, padding, dilation, groups, padding_mode, flip)
    offsets = None if bias is None else _offsets(bias, conv)
    with np.errstate(over="ignore", invalid="ignore"):  # inf and NaN are valid results
        output = _naive(conv) if method == "naive" else conv.weights() @ conv.terms()
        output = output.reshape(len(conv.image), len(conv.kernel), *conv.output_size)
        if offsets is not None:
            output += offsets[:, None, None]
        return output.reshape(conv.output_shape).astype(conv.dtype, copy=False)


class Conv2dGradients(NamedTuple):
    """Gradients of a loss with respect to the arguments of `conv2d`, each of the same shape."""

    image: NDArray[Any]
    kernel: NDArray[Any]
    bias: NDArray[Any]  # (M,), or () for an image (H, W)


def conv2d_gradients(
    grad_output: ArrayLike,
    image: ArrayLike,
    kernel: ArrayLike,
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
    padding_mode: PaddingMode = "zeros",
    flip: bool = False,
) -> Conv2dGradients:
    """Backward pass: compute the gradients with respect to image, kernel and bias.

    Each gradient is the adjoint of `conv2d`: the gradient of a pixel sums, over the pixel and all
    its copies in the padding, the output's gradient times the weight that was applied. For complex
    numbers, kernel and image are conjugated, as in torch's autograd.

    Args:
        grad_output: gradient with respect to the output, of the shape and dtype of
            conv2d(image, kernel, ...) with the same options.

    Raises:
        TypeError, ValueError: as `conv2d`.
    """
    conv = _Convolution(image, kernel, stride, padding, dilation, groups, padding_mode, flip)
    grad = np.asarray(grad_output)
    if grad.dtype != conv.dtype:
        raise TypeError(f"grad_output is {grad.dtype} but image is {conv.dtype}: convert one")
    if grad.shape != conv.output_shape:
        raise ValueError(
            f"grad_output must have the output's shape {conv.output_shape}, got {grad.shape}"
        )

    terms, weights = conv.terms(), conv.weights()
    grad = grad.astype(weights.dtype).reshape(*terms.shape[:2], weights.shape[1], terms.shape[3])
    with np.errstate(over="ignore", invalid="ignore"):
        grad_kernel = (grad @ terms.conj().swapaxes(-1, -2)).sum(axis=0, dtype=grad.dtype)
        grad_kernel = grad_kernel.reshape(conv.kernel.shape)
        if flip:
            grad_kernel = grad_kernel[..., ::-1, ::-1]
        grad_terms = weights.conj().swapaxes(-1, -2) @ grad
        maps, pixels = conv.image.shape[:2], conv.pixels()
        grad_image = np.zeros((*maps, 1 + math.prod(conv.image.shape[2:])), grad.dtype)
        where: Any = (..., pixels)
        np.add.at(grad_image, where, grad_terms.reshape(*maps, *pixels.shape))
        grads = Conv2dGradients(
            image=grad_image[..., 1:].reshape(np.shape(image)),
            kernel=grad_kernel.reshape(np.shape(kernel)),
            bias=grad.sum(axis=(0, -1), dtype=grad.dtype).reshape(conv.bias_shape),
        )
        return Conv2dGradients(*(np.array(g, dtype=conv.dtype, order="C") for g in grads))


class _Convolution:
    """Validated arguments: with four dimensions, in the dtype of the sum, the kernel flipped."""

    def __init__(
        self,
        image: ArrayLike,
        kernel: ArrayLike,
        stride: Pair,
        padding: Padding,
        dilation: Pair,
        groups: int,
        padding_mode: PaddingMode,
        flip: bool,
    ) -> None:
        image, kernel = np.asarray(image), np.asarray(kernel)
        _check_arrays(image, kernel)
        self.stride = _pair("stride", stride, minimum=1)
        self.dilation = _pair("dilation", dilation, minimum=1)
        if not _is_integer(groups) or groups < 1:
            raise ValueError(f"groups must be an int of at least 1, got {groups!r}")
        self.groups = groups
        _check_choice("padding_mode", padding_mode, MODES)
        self.mode = MODES[padding_mode]

        self.dtype = image.dtype  # of the arguments
        # float16 has 11 significant bits, too few for sums. Native byte order is faster.
        sum_dtype = np.float32 if image.dtype.type is np.float16 else image.dtype.newbyteorder("=")
        image4 = image.reshape((1,) * (4 - image.ndim) + image.shape)
        kernel4 = kernel.reshape((1,) * (4 - kernel.ndim) + kernel.shape)
        kernel4 = kernel4[..., ::-1, ::-1] if flip else kernel4
        self.image = image4.astype(sum_dtype, copy=False)  # (N, C, H, W)
        # Contiguous, because the rounding of BLAS depends on the memory layout.
        self.kernel = np.ascontiguousarray(kernel4, dtype=sum_dtype)  # (M, C/groups, K, L)
        num_channels, out_channels = image4.shape[1], len(kernel4)
        if num_channels != groups * kernel4.shape[1]:
            raise ValueError(
                f"image has {num_channels} channels but kernel, of shape {kernel.shape} with "
                f"groups={groups}, expects {groups * kernel4.shape[1]}"
            )
        if out_channels % groups:
            raise ValueError(
                f"kernel has {out_channels} output channels, which groups={groups} does not divide"
            )

        # Rows and columns of the kernel, dilation included.
        num_rows, num_columns = kernel4.shape[2:]
        self.span = (
            self.dilation[0] * (num_rows - 1) + 1,
            self.dilation[1] * (num_columns - 1) + 1,
        )
        self.sides = _sides(padding, self.stride, self.span)  # ((top, bottom), (left, right))
        output_size = []
        for axis, name in enumerate(("rows", "columns")):
            size, widest = image4.shape[2 + axis], max(self.sides[axis])
            maximum = {"reflect": size - 1, "circular": size}.get(padding_mode, widest)
            if widest > maximum:
                raise ValueError(
                    f"padding of {widest} {name} is too large for padding_mode={padding_mode!r} "
                    f"and an image of {size} {name}: at most {maximum}"
                )
            padded_size = size + sum(self.sides[axis])
            if self.span[axis] > padded_size:
                raise ValueError(
                    f"kernel spans {self.span[axis]} {name}, dilation included, but the padded "
                    f"image has only {padded_size}"
                )
            output_size.append((padded_size - self.span[axis]) // self.stride[axis] + 1)
        self.output_size = output_size[0], output_size[1]  # (H', W')
        self.output_shape = (len(image4), out_channels, *output_size)[4 - image.ndim :]
        self.bias_shape = self.output_shape[-3:-2]  # (M,), or () for an output without channels

    def pixels(self) -> NDArray[np.intp]:
        """Return the index of the pixel that each weight is multiplied with at each position,
        (K * L, H' * W'), from 1 in row-major order; 0 is a zero of the padding."""
        height, width = self.image.shape[2:]
        numbers = np.arange(1, height * width + 1).reshape(height, width)
        windows = sliding_window_view(np.pad(numbers, self.sides, self.mode), self.span)
        windows = windows[:: self.stride[0], :: self.stride[1]]
        windows = windows[..., :: self.dilation[0], :: self.dilation[1]]
        return windows.transpose(2, 3, 0, 1).reshape(-1, math.prod(self.output_size))

    def terms(self) -> NDArray[Any]:
        """Return the pixels that the weights are multiplied with, by group
        (N, groups, C/groups * K * L, H' * W')."""
        num_images, num_channels, height, width = self.image.shape
        image = self.image.reshape(num_images, num_channels, height * width)
        terms = np.pad(image, ((0, 0), (0, 0), (1, 0))).take(self.pixels(), axis=2)
        num_terms = math.prod(self.kernel.shape[1:])
        return terms.reshape(num_images, self.groups, num_terms, math.prod(self.output_size))

    def weights(self) -> NDArray[Any]:
        """Return a row per output channel, by group (groups, M/groups, C/groups * K * L)."""
        return self.kernel.reshape(self.groups, len(self.kernel) // self.groups, -1)


def _naive(conv: _Convolution) -> NDArray[Any]:
    out_channels, channels_per_group = conv.kernel.shape[:2]
    padded = np.pad(conv.image, ((0, 0), (0, 0), *conv.sides), conv.mode)
    output = np.empty((len(padded), out_channels, *conv.output_size), conv.kernel.dtype)
    for n, m, i, j in np.ndindex(*output.shape):
        channel = m // (out_channels // conv.groups) * channels_per_group
        row, column = i * conv.stride[0], j * conv.stride[1]
        window = padded[
            n,
            channel : channel + channels_per_group,
            row : row + conv.span[0] : conv.dilation[0],
            column : column + conv.span[1] : conv.dilation[1],
        ]
        output[n, m, i, j] = np.sum(window * conv.kernel[m], dtype=output.dtype)
    return output


def _offsets(bias: ArrayLike, conv: _Convolution) -> NDArray[Any]:
    array = np.asarray(bias)
    # By NumPy's promotion rules, a Python number adopts the dtype of the image if possible.
    dtype = np.result_type(conv.dtype, bias) if isinstance(bias, int | float) else array.dtype
    if dtype != conv.dtype:
        raise TypeError(f"bias is {dtype} but image is {conv.dtype}: convert one")
    out_channels = len(conv.kernel)
    if array.shape not in (conv.bias_shape, (out_channels,)):
        raise ValueError(
            f"bias must have shape {conv.bias_shape}, one value per output channel, "
            f"got {array.shape}"
        )
    return array.astype(conv.kernel.dtype).reshape(out_channels)


def _check_arrays(image: NDArray[Any], kernel: NDArray[Any]) -> None:
    if image.ndim not in (2, 3, 4):
        raise ValueError(
            "image must have 2, 3 or 4 dimensions, (H, W), (C, H, W) or (N, C, H, W), "
            f"got {image.ndim}: shape {image.shape}"
        )
    kernel_ndim, layout = (2, "(K, L)") if image.ndim == 2 else (4, "(M, C/groups, K, L)")
    if kernel.ndim != kernel_ndim:
        raise ValueError(
            f"kernel must have {kernel_ndim} dimensions, {layout}, because image has {image.ndim}, "
            f"got {kernel.ndim}: shape {kernel.shape}"
        )
    for name, array in (("image", image), ("kernel", kernel)):
        if array.dtype.kind not in "iufc":
            raise TypeError(f"{name} must contain numbers, got {array.dtype}")
    if 0 in (*image.shape[-3:], *kernel.shape):
        raise ValueError(
            "image and kernel must not be empty, except for a batch of 0: "
            f"got shapes {image.shape} and {kernel.shape}"
        )
    if image.dtype != kernel.dtype:
        raise TypeError(f"image is {image.dtype} but kernel is {kernel.dtype}: convert one")


def _sides(
    padding: Padding, stride: tuple[int, int], span: tuple[int, int]
) -> tuple[tuple[int, int], ...]:
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding == "same":
        if stride != (1, 1):
            raise ValueError(f"padding='same' requires stride 1, got stride {stride}")
        return tuple(((n - 1) // 2, n // 2) for n in span)  # n - 1 in total, an odd pixel last
    axes = padding if isinstance(padding, Sequence) else (padding, padding)
    if isinstance(padding, str) or len(axes) != 2:
        raise ValueError(
            "padding must be an int, a pair, ((top, bottom), (left, right)), 'valid' or 'same', "
            f"got {padding!r}"
        )
    return tuple(_pair("padding", axis, minimum=0) for axis in axes)


def _pair(name: str, value: object, *, minimum: int) -> tuple[int, int]:
    pair = [value, value] if isinstance(value, int | np.integer) else value
    if not isinstance(pair, Sequence) or len(pair) != 2 or not all(map(_is_integer, pair)):
        raise TypeError(f"{name} must be an int or a pair of ints, got {value!r}")
    if min(pair) < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {min(pair)}")
    return int(pair[0]), int(pair[1])


def _is_integer(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _check_choice(name: str, value: str, allowed: Iterable[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")

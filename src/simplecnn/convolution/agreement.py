"""Whether `conv2d` and its gradients agree with PyTorch, and how fast `conv2d` is beside it."""

import statistics
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn import functional

from simplecnn.convolution.definition import Method, PaddingMode, conv2d, conv2d_gradients
from simplecnn.convolution.kernels import KERNELS, white_square
from simplecnn.figures.convolution import edge_kernel_figure, flip_figure

# Of the sum of the absolute terms behind a number: what rounding leaves is proportional to that
# (Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section 4.2), about 1e-7 of it in
# float32 and 1e-16 in float64; a wrong tap or sign leaves 1e-3 and more.
TOLERANCES = {"float32": 1e-5, "float64": 1e-13}


METHODS: tuple[Method, Method] = ("naive", "windows")


class Agreement(NamedTuple):
    """What is left between our numbers and PyTorch's, over all calls in one dtype."""

    quantity: str
    dtype: str
    num_values: int
    largest_difference: float  # infinite where a shape or dtype differs, or NaN appears
    largest_relative: float  # to the sum of the absolute terms behind each number

    @property
    def holds(self) -> bool:
        return self.largest_relative <= TOLERANCES[self.dtype]


class Timing(NamedTuple):
    """Medians over `num_rounds`, both on one thread."""

    windows_seconds: float
    torch_seconds: float
    num_rounds: int

    @property
    def ratio(self) -> float:
        return self.windows_seconds / self.torch_seconds


@dataclass(frozen=True)
class Call:
    """One call of `conv2d`, and a gradient by its output."""

    image: NDArray[Any]
    kernel: NDArray[Any]
    bias: NDArray[Any]  # (M,), of every rank
    grad_output: NDArray[Any]
    options: Mapping[str, Any]  # of `conv2d`, but for bias and method

    def absolute(self) -> "Call":
        """The same call of absolute values: it sums the absolute terms."""
        return Call(
            abs(self.image),
            abs(self.kernel),
            abs(self.bias),
            abs(self.grad_output),
            self.options,
        )


def convolution_report(
    *, digit: NDArray[Any], folder: Path, num_calls: int = 500, seed: int = 0
) -> bool:
    """Draw what kernels do into `folder`, print the agreement with PyTorch, say if it holds.

    `digit` is (28, 28), 0 where there is no ink, of any scale.
    """
    folder.mkdir(parents=True, exist_ok=True)
    image = digit / digit.max()
    edges = {n: KERNELS[n] for n in ("Horizontal Edge", "Vertical Edge", "Sobel X", "Laplacian")}
    turned = {n: KERNELS[n] for n in ("Sobel X", "Laplacian", "Emboss")}
    images = {"White square": white_square(), "Digit": image}
    figures = {
        "edge_kernels.png": edge_kernel_figure(images, edges),
        "flip.png": flip_figure(image, turned),
    }
    for name, figure in figures.items():
        figure.savefig(folder / name)
        print(folder / name)

    agreements = compare_with_torch(num_calls=num_calls, seed=seed)
    agree = all(agreement.holds for agreement in agreements)
    print(f"\n{num_calls} random calls in each dtype, seed {seed}, PyTorch {torch.__version__}")
    print(agreement_table(agreements))
    print(f"conv2d {'agrees' if agree else 'DOES NOT AGREE'} with PyTorch")
    return agree


def agreement_table(agreements: Sequence[Agreement]) -> str:
    """A heading, one line each, and what relative means."""
    lines = [f"{'':28}{'numbers':>9}  {'max |difference|':>16}  {'relative':>8}  {'allowed':>7}"]
    for a in agreements:
        lines.append(
            f"{a.quantity:20}{a.dtype:8}{a.num_values:9,}  {a.largest_difference:16.1e}  "
            f"{a.largest_relative:8.1e}  {TOLERANCES[a.dtype]:7.0e}"
            + ("" if a.holds else "  disagrees")
        )
    lines.append("relative: to the sum of the absolute terms that each number is a sum of")
    return "\n".join(lines)


def compare_with_torch(*, num_calls: int, seed: int) -> list[Agreement]:
    """Both methods and the gradients against PyTorch, over the same random calls in each dtype."""
    agreements = []
    for dtype in TOLERANCES:
        rng = np.random.default_rng(seed)
        gaps: dict[str, list[tuple[NDArray[np.float64], NDArray[np.float64]]]] = {}
        with _one_thread():  # PyTorch's threads cost far more than arrays this small are worth
            for _ in range(num_calls):
                call = random_call(rng, dtype)
                ours, theirs, terms = _ours(call), _theirs(call), _theirs(call.absolute())
                for quantity in ours:
                    gap = _gap(ours[quantity], theirs[quantity], terms[quantity])
                    gaps.setdefault(quantity, []).append(gap)
        for quantity, pairs in gaps.items():
            differences, relatives = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
            agreements.append(
                Agreement(
                    quantity,
                    dtype,
                    num_values=differences.size,
                    largest_difference=float(differences.max(initial=0.0)),
                    largest_relative=float(relatives.max(initial=0.0)),
                )
            )
    return agreements


def random_call(rng: np.random.Generator, dtype: str) -> Call:
    """A small valid call of any rank, size and options, a batch of 0 among them."""
    ndim = int(rng.integers(2, 5))
    groups, channels_per_group, maps_per_group = rng.integers(1, 4, size=3) if ndim > 2 else [1] * 3
    taps, dilation = rng.integers(1, 6, size=2), rng.integers(1, 4, size=2)
    span = dilation * (taps - 1) + 1
    kind = rng.choice(["int", "pair", "sides", "valid", "same"])
    stride = np.ones(2, int) if kind == "same" else rng.integers(1, 4, size=2)
    sides = rng.integers(0, span[:, None] + 1, size=(2, 2))
    if kind == "int":
        sides[:] = sides[0, 0]
    elif kind == "pair":
        sides[:, 1] = sides[:, 0]
    elif kind == "valid":
        sides[:] = 0
    elif kind == "same":
        sides = np.stack([(span - 1) // 2, span // 2], axis=1)
    padding = {
        "int": int(sides[0, 0]),
        "pair": tuple(sides[:, 0].tolist()),
        "sides": sides.tolist(),
    }
    # Room for the kernel, and for a reflection of every side
    smallest = np.maximum(span - sides.sum(axis=1), sides.max(axis=1) + 1)
    size = smallest + rng.integers(0, 9, size=2)
    output_size = (size + sides.sum(axis=1) - span) // stride + 1

    num_maps = groups * maps_per_group
    batch = [int(rng.integers(0, 4))] if ndim == 4 else []
    image, kernel, bias, grad_output = (
        rng.standard_normal(shape).astype(dtype)
        for shape in (
            (*batch, groups * channels_per_group, *size)[-ndim:],
            (num_maps, channels_per_group, *taps)[-2 if ndim == 2 else -4 :],
            (num_maps,),
            (*batch, num_maps, *output_size)[-ndim:],
        )
    )
    return Call(
        image,
        kernel,
        bias,
        grad_output,
        options={
            "stride": tuple(stride.tolist()),
            "padding": padding.get(kind, str(kind)),
            "dilation": tuple(dilation.tolist()),
            "groups": int(groups),
            "padding_mode": str(rng.choice(["zeros", "reflect", "replicate", "circular"])),
            "flip": bool(rng.integers(2)),
        },
    )


def torch_conv2d(
    image: Tensor,
    kernel: Tensor,
    *,
    bias: Tensor | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: Any = 0,
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    padding_mode: PaddingMode = "zeros",
    flip: bool = False,
) -> Tensor:
    """What PyTorch makes of the arguments of `conv2d`: `nn.Conv2d`, after `pad` for four sides."""
    ndim = image.ndim
    if ndim == 2:
        image, kernel = image[None], kernel[None, None]
    if not isinstance(padding, str | int) and not isinstance(padding[0], int):
        (top, bottom), (left, right) = padding
        mode = "constant" if padding_mode == "zeros" else padding_mode
        image = functional.pad(image, (left, right, top, bottom), mode=mode)
        padding = 0
    layer = nn.Conv2d(
        in_channels=groups * kernel.shape[1],
        out_channels=kernel.shape[0],
        kernel_size=(kernel.shape[2], kernel.shape[3]),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=bias is not None,
        padding_mode=padding_mode,
        device="meta",  # no weights of its own: they are given below
    )
    weights = {"weight": kernel.flip(-2, -1) if flip else kernel}
    if bias is not None:
        weights["bias"] = bias
    with warnings.catch_warnings():
        # A remark on torch's speed, not on its answer
        warnings.filterwarnings("ignore", message="Using padding='same' with even kernel lengths")
        output = torch.func.functional_call(layer, weights, image)
    return output[0] if ndim == 2 else output


def time_windows(*, num_rounds: int = 15) -> Timing:
    """Time `method="windows"` beside torch's conv2d, at SimpleCNN's second layer, on one thread.

    float32, (64, 16, 14, 14) * (32, 16, 3, 3), padding 1; rounds alternate between the two, after
    one that is not counted.
    """
    rng = np.random.default_rng(0)
    image = rng.standard_normal((64, 16, 14, 14), dtype=np.float32)
    kernel = rng.standard_normal((32, 16, 3, 3), dtype=np.float32)
    tensors = torch.from_numpy(image), torch.from_numpy(kernel)
    runs = (
        lambda: conv2d(image, kernel, padding=1, method="windows"),
        lambda: functional.conv2d(*tensors, padding=1),
    )
    seconds: tuple[list[float], list[float]] = ([], [])
    with _one_thread(), torch.inference_mode():
        for _ in range(1 + num_rounds):
            for run, times in zip(runs, seconds, strict=True):
                start = time.perf_counter()
                run()
                times.append(time.perf_counter() - start)
    ours, theirs = (statistics.median(times[1:]) for times in seconds)
    return Timing(ours, theirs, num_rounds)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread for PyTorch and for NumPy's matrix products."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(limits=1):
            yield
    finally:
        torch.set_num_threads(num_threads)


def _ours(call: Call) -> dict[str, NDArray[Any]]:
    forward = {
        f"output, {method}": conv2d(
            call.image, call.kernel, bias=call.bias, method=method, **call.options
        )
        for method in METHODS
    }
    grads = conv2d_gradients(call.grad_output, call.image, call.kernel, **call.options)
    return forward | {
        "gradient of image": grads.image,
        "gradient of kernel": grads.kernel,
        "gradient of bias": grads.bias.reshape(call.bias.shape),
    }


def _theirs(call: Call) -> dict[str, NDArray[Any]]:
    image, kernel, bias = (
        torch.from_numpy(array).requires_grad_() for array in (call.image, call.kernel, call.bias)
    )
    output = torch_conv2d(image, kernel, bias=bias, **call.options)
    # A loss with this gradient by the output; handing the gradient over imports half of torch.fx.
    loss = (output * torch.from_numpy(call.grad_output)).sum()
    grads = torch.autograd.grad(loss, (image, kernel, bias))
    answers = {f"output, {method}": output.detach() for method in METHODS}
    for name, grad in zip(("image", "kernel", "bias"), grads, strict=True):
        answers[f"gradient of {name}"] = grad
    return {quantity: answer.numpy() for quantity, answer in answers.items()}


def _gap(
    ours: NDArray[Any], theirs: NDArray[Any], terms: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The differences, absolute and relative to the sums of absolute terms, in a row."""
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return np.array([np.inf]), np.array([np.inf])
    difference = np.abs(ours.astype(np.float64) - theirs).ravel()
    difference[np.isnan(difference)] = np.inf
    relative = np.where(difference > 0, np.inf, 0.0)
    np.divide(difference, terms.ravel(), out=relative, where=terms.ravel() > 0)
    return difference, relative

"""What is measured on one network, to judge by it what is said of convolutional networks."""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional

from simplecnn.convolution.definition import conv2d
from simplecnn.errors import InputError
from simplecnn.explain.channel_cards import layer_fields
from simplecnn.explain.subject import BATCH, Subject, logits
from simplecnn.explain.translation import (
    NEAR,
    equivariance_errors,
    growing,
    measure_shifts,
    measures,
)
from simplecnn.models.activations import convolutions, feature_maps, layer_inputs
from simplecnn.receptive_field.effective_field import effective_fields
from simplecnn.receptive_field.fields import receptive_fields

SINGLES_OUT = 0.95  # area under the ROC curve of a channel for one class


# By measurement: a number for each layer, each filter, or the whole network.
Evidence = dict[str, dict[str, float]]


def gather(subject: Subject, *, num_images: int, seed: int) -> Evidence:
    """All measurements on one network. Shares are in percent."""
    images, labels = subject.sample(num_images, seed=seed)
    network, few = subject.network, images[:64]
    if not convolutions(network):
        raise InputError("claims: this network has no 2-D convolution to judge.")
    right = float((logits(network, images).argmax(1) == labels).float().mean())
    in_theory = receptive_fields(network, tuple(images.shape[1:]))
    measured = effective_fields(network, few)
    e: Evidence = {
        "exactness": {"first layer": exactness(network, images[:8])},
        "locality": locality(network, images[:8], seed=seed),
        "consistency": {"answers": consistency(subject, num_images=num_images, seed=seed)},
        # Of accuracy over naming the most frequent class each time.
        "gain": {"answers": 100 * (right - float(labels.bincount().max() / len(labels)))},
        "sizes": {name: max(in_theory[name].size) for name in measured},
        "effective": {name: field.square(0.95) for name, field in measured.items()},
        **_moved_maps(network, few),
    }
    for state, of_state in (("untrained", subject.untrained), ("trained", network)):
        by_ink = sorted(ink_share(of_state, few), reverse=True)
        shares, areas = class_shares(of_state, images, labels, subject.num_classes)
        e[f"ink/{state}"] = {str(i): 100 * float(x) for i, x in enumerate(by_ink, start=1)}
        e[f"edges/{state}"] = {"first layer": 100 * edge_share(of_state)}
        e[f"class_share/{state}"] = {name: 100 * share for name, share in shares.items()}
        e[f"singled_out/{state}"] = {"last": 100 * float((areas >= SINGLES_OUT).mean())}
    return e


def _moved_maps(network: nn.Module, images: Tensor) -> Evidence:
    """How maps change when the image moves: by one unit, compared with the map left in place and
    moved along (interior only), and by one pixel, before and after each pooling."""
    reach = min(8, min(images.shape[-2:]) // 3)
    errors = equivariance_errors(network, images, reach=reach)
    left, along, before_pooling, pooled = {}, {}, {}, {}
    for name in growing(errors)[0]:
        if (step := errors[name].jump) in errors[name].whole_steps:
            left[name] = float(errors[name].unmoved[int(step)])
            if np.isfinite(errors[name].interior[int(step)]):
                along[name] = float(errors[name].interior[int(step)])
    modules = dict(network.named_modules())
    for before, after in pairwise(errors):
        is_pooling = not isinstance(modules.get(after), nn.Conv2d)
        if is_pooling and errors[after].jump > errors[before].jump:
            before_pooling[after] = float(errors[before].unmoved[1])
            pooled[after] = float(errors[after].unmoved[1])
    return {
        "left_in_place": left,
        "moved_along": along,
        "before_pooling": before_pooling,
        "pooled": pooled,
    }


def consistency(subject: Subject, *, num_images: int, seed: int) -> float:
    """How often, in percent, two shifts of an image by up to 4 pixels get one answer."""
    images, labels = subject.sample(num_images, seed=seed)
    shifts = measure_shifts(subject.network, images, labels, reach=NEAR)
    return 100 * float(measures(shifts)["consistency"].mean())


def _first_layer(network: nn.Module, images: Tensor) -> tuple[nn.Conv2d, Tensor]:
    """The first convolution and what it is given."""
    name, module = next(iter(convolutions(network).items()))
    return module, layer_inputs(network, images, nn.Conv2d)[0][name]


@torch.no_grad()
def exactness(network: nn.Module, images: Tensor) -> float:
    """Largest difference between the first convolution and conv2d's sliding dot product, in
    shares of the sum of the absolute terms; NaN where conv2d does not know its padding."""
    module, x = _first_layer(network, images)
    if isinstance(module.padding, str):
        return float("nan")
    names = ("stride", "padding", "dilation", "groups", "padding_mode")
    options: dict[str, Any] = {name: getattr(module, name) for name in names}
    bias = torch.zeros(module.out_channels) if module.bias is None else module.bias
    terms = [t.numpy().astype(np.float64) for t in (x, module.weight, bias)]
    ours, scale = (
        conv2d(given, weight, bias=offset, **options)
        for given, weight, offset in (terms, map(abs, terms))
    )
    return float((abs(module(x).numpy() - ours) / np.maximum(scale, 1e-12)).max())


@torch.no_grad()
def locality(network: nn.Module, images: Tensor, *, seed: int) -> dict[str, float]:
    """By convolution: the percentage of images on which the unit nearest the middle answers the
    same to the last bit when all pixels outside its receptive field are replaced by noise."""
    generator = torch.Generator().manual_seed(seed)
    before, _ = feature_maps(network, images)
    shares = {}
    for name, f in layer_fields(network, tuple(images.shape[1:])).items():
        unit = (f.units[0] // 2, f.units[1] // 2)
        (top, bottom), (left, right) = f.clipped(unit)
        if bottom - top + 1 >= images.shape[-2] and right - left + 1 >= images.shape[-1]:
            continue  # it sees the whole image
        other = torch.rand(images.shape, generator=generator)
        seen = (..., slice(top, bottom + 1), slice(left, right + 1))
        other[seen] = images[seen]
        after, _ = feature_maps(network, other)
        same = (before[name][:, :, *unit] == after[name][:, :, *unit]).all(1)
        shares[name] = 100 * float(same.float().mean())
    return shares


@torch.no_grad()
def ink_share(network: nn.Module, images: Tensor) -> NDArray:
    """(filters,) squared correlation of the first convolution's response with the mean brightness
    of what it sees, over all positions with any ink: 1 where a filter only weighs ink."""
    module, x = _first_layer(network, images)
    flat = torch.ones(1, x.shape[1], *module.weight.shape[2:]) / module.weight[0, 0].numel()
    ink = functional.conv2d(x, flat, None, module.stride, module.padding, module.dilation)
    both = torch.cat([ink, module(x)], 1).transpose(0, 1)[:, ink[:, 0] > 0].double()
    return torch.corrcoef(both)[0, 1:].square().nan_to_num().numpy()  # 0 for a constant response


def edge_share(network: nn.Module) -> float:
    """Mean over the first filters of the energy that a step edge of any direction explains.

    The edges are the two derivatives of a Gaussian a third as wide as the kernel; among random
    filters of 3 x 3 their share is 2 / 9. NaN for kernels of a single pixel.
    """
    weight = next(iter(convolutions(network).values())).weight.detach().double()
    side = max(weight.shape[2:])
    if side == 1:
        return float("nan")
    rows, columns = (torch.arange(n).double() - (n - 1) / 2 for n in weight.shape[2:])
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    bell = torch.exp(-(y**2 + x**2) / (2 * (side / 3) ** 2))
    edges = functional.normalize(torch.stack([y * bell, x * bell]).flatten(1))
    share = (weight.flatten(2) @ edges.T).square().sum((1, 2))
    return float((share / weight.square().sum((1, 2, 3)).clamp(min=1e-30)).mean())


@torch.no_grad()
def class_shares(
    network: nn.Module, images: Tensor, labels: Tensor, num_classes: int
) -> tuple[dict[str, float], NDArray]:
    """By convolution: the mean share of the variance of a channel's peak that lies between
    the classes. And (channels,) of the last one: the largest area under the ROC of a class."""
    peaks: dict[str, list[Tensor]] = {}
    for part in images.split(BATCH):
        maps, _ = feature_maps(network, part)
        for name, values in maps.items():
            peaks.setdefault(name, []).append(values.amax((2, 3)))
    members = functional.one_hot(labels, num_classes).double()
    counts = members.sum(0).clamp(min=1)
    shares, last = {}, torch.zeros(0)
    for name, parts in peaks.items():
        last = torch.cat(parts).double()
        means = members.T @ last / counts[:, None]
        between = (counts[:, None] * (means - last.mean(0)) ** 2).sum(0)
        total = ((last - last.mean(0)) ** 2).sum(0)
        alive = total > 1e-20
        shares[name] = float((between[alive] / total[alive]).mean()) if alive.any() else 0.0
    # Ranks with ties in their middle give the area under the curve (Mann and Whitney).
    sums = stats.rankdata(last.numpy(), axis=0).T @ members.numpy()
    n = members.sum(0).numpy()
    areas = (sums - n * (n + 1) / 2) / np.maximum(n * (len(labels) - n), 1)
    return shares, areas.max(1)

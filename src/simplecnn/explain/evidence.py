"""The measurements on one network by which the claims about convolutional networks are judged."""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional

from simplecnn.convolution.definition import conv2d
from simplecnn.explain.channel_cards import layer_fields
from simplecnn.explain.findings import NotApplicable
from simplecnn.explain.subject import Subject
from simplecnn.explain.translation import (
    NEAR,
    equivariance_errors,
    measure_shifts,
    plotted_layers,
    shift_metrics,
)
from simplecnn.inference.networks import BATCH_SIZE, logits
from simplecnn.models.activations import convolutions, feature_maps, layer_inputs
from simplecnn.receptive_field.effective_field import effective_fields
from simplecnn.receptive_field.fields import receptive_fields

SINGLES_OUT = 0.95  # ROC AUC from which a channel is a detector of one class


# By measurement: a number for each layer, each filter, or the whole network.
Evidence = dict[str, dict[str, float]]


def gather(subject: Subject, *, num_images: int, seed: int) -> Evidence:
    """Return all measurements on one network, fractions in percent."""
    images, labels = subject.sample(num_images, seed=seed)
    network, few = subject.network, images[:64]
    if not convolutions(network):
        raise NotApplicable("claims: this network has no 2-D convolution to judge.")
    accuracy = float((logits(network, images).argmax(1) == labels).float().mean())
    theoretical = receptive_fields(network, tuple(images.shape[1:]))
    effective = effective_fields(network, few)
    e: Evidence = {
        "exactness": {"first layer": exactness(network, images[:8])},
        "locality": locality(network, images[:8], seed=seed),
        "consistency": {"answers": consistency(subject, num_images=num_images, seed=seed)},
        # Accuracy above that of always predicting the most frequent class.
        "gain": {"answers": 100 * (accuracy - float(labels.bincount().max() / len(labels)))},
        "sizes": {name: max(theoretical[name].size) for name in effective},
        "effective": {name: field.square(0.95) for name, field in effective.items()},
        **_map_changes(network, few),
    }
    num_classes = len(subject.class_names)
    for state, model in (("untrained", subject.untrained), ("trained", network)):
        by_ink = sorted(ink_share(model, few), reverse=True)
        shares, areas = class_shares(model, images, labels, num_classes)
        e[f"ink/{state}"] = {str(i): 100 * float(x) for i, x in enumerate(by_ink, start=1)}
        e[f"edges/{state}"] = {"first layer": 100 * edge_share(model, few[:1])}
        e[f"class_share/{state}"] = {name: 100 * share for name, share in shares.items()}
        e[f"singled_out/{state}"] = {"last convolution": 100 * float((areas >= SINGLES_OUT).mean())}
    return e


def _map_changes(network: nn.Module, images: Tensor) -> Evidence:
    """Relative changes of feature maps when the image is shifted: by the layer's total stride,
    compared with the original map in place (`left_in_place`) and shifted too, away from the border
    (`moved_along`); by one pixel, before and after each pooling."""
    reach = min(8, min(images.shape[-2:]) // 3)
    errors = equivariance_errors(network, images, reach=reach)
    changes: Evidence = {"left_in_place": {}, "moved_along": {}, "before_pooling": {}, "pooled": {}}
    for name in plotted_layers(errors)[0]:
        if (step := errors[name].jump) in errors[name].whole_steps:
            changes["left_in_place"][name] = float(errors[name].unmoved[int(step)])
            if np.isfinite(errors[name].interior[int(step)]):
                changes["moved_along"][name] = float(errors[name].interior[int(step)])
    modules = dict(network.named_modules())
    for before, after in pairwise(errors):
        # The second call of a module `pool` is named `pool_1`.
        module = modules.get(after, modules.get(after.rpartition("_")[0]))
        is_pooling = not isinstance(module, nn.Conv2d)
        if is_pooling and errors[after].jump > errors[before].jump:
            changes["before_pooling"][after] = float(errors[before].unmoved[1])
            changes["pooled"][after] = float(errors[after].unmoved[1])
    return changes


def consistency(subject: Subject, *, num_images: int, seed: int) -> float:
    """Return the percentage of pairs of shifts by up to NEAR pixels with the same prediction."""
    images, labels = subject.sample(num_images, seed=seed)
    shifts = measure_shifts(subject.network, images, labels, reach=NEAR)
    return 100 * float(shift_metrics(shifts)["consistency"].mean())


def _first_layer(network: nn.Module, images: Tensor) -> tuple[nn.Conv2d, Tensor]:
    """Return the convolution that is executed first, and its input."""
    name, x = next(iter(layer_inputs(network, images, nn.Conv2d)[0].items()))
    return convolutions(network)[name], x


@torch.no_grad()
def exactness(network: nn.Module, images: Tensor) -> float:
    """Return the largest difference between the first convolution and a sliding dot product.

    Relative to the sum of the absolute terms.
    """
    module, x = _first_layer(network, images)
    names = ("stride", "padding", "dilation", "groups", "padding_mode")
    options: dict[str, Any] = {name: getattr(module, name) for name in names}
    bias = torch.zeros(module.out_channels) if module.bias is None else module.bias
    terms = [t.numpy().astype(np.float64) for t in (x, module.weight, bias)]
    expected, scale = (
        conv2d(inputs, weight, bias=offset, **options)
        for inputs, weight, offset in (terms, map(abs, terms))
    )
    return float((abs(module(x).numpy() - expected) / np.maximum(scale, 1e-12)).max())


@torch.no_grad()
def locality(network: nn.Module, images: Tensor, *, seed: int) -> dict[str, float]:
    """Return by convolution the percentage of images whose central activations stay bit-identical
    when all pixels outside of their receptive field are replaced by noise."""
    generator = torch.Generator().manual_seed(seed)
    before, _ = feature_maps(network, images)
    shares = {}
    for name, f in layer_fields(network, tuple(images.shape[1:])).items():
        center = (f.units[0] // 2, f.units[1] // 2)
        (top, bottom), (left, right) = f.clipped(center)
        if bottom - top + 1 >= images.shape[-2] and right - left + 1 >= images.shape[-1]:
            continue  # its receptive field is the whole image
        noisy = torch.rand(images.shape, generator=generator)
        inside = (..., slice(top, bottom + 1), slice(left, right + 1))
        noisy[inside] = images[inside]
        after, _ = feature_maps(network, noisy)
        same = (before[name][:, :, *center] == after[name][:, :, *center]).all(1)
        shares[name] = 100 * float(same.float().mean())
    return shares


@torch.no_grad()
def ink_share(network: nn.Module, images: Tensor) -> NDArray:
    """Return the fraction (filters,) of the first convolution's response that brightness explains.

    The squared correlation with the mean brightness in the receptive field, over all positions
    with any ink: 1 for a filter that only measures brightness.
    """
    module, x = _first_layer(network, images)
    box = nn.utils.skip_init(
        nn.Conv2d, module.in_channels, module.out_channels, module.kernel_size,
        stride=module.stride, padding=module.padding, dilation=module.dilation,
        groups=module.groups, bias=False, padding_mode=module.padding_mode,
    )  # fmt: skip
    nn.init.ones_(box.weight)
    brightness = x - x.amin((0, 2, 3), keepdim=True)  # black is 0, even if `x` is standardized
    shares = []
    for ink, response in zip(box(brightness).unbind(1), module(x).unbind(1), strict=True):
        both = torch.stack([ink, response])[:, ink > 0].double()
        shares.append(torch.corrcoef(both)[0, 1].square())
    return torch.stack(shares).nan_to_num().numpy()  # 0 for a constant response


def edge_share(network: nn.Module, images: Tensor) -> float:
    """Return the fraction of a first-layer filter's energy that step edges explain, on average.

    The edges, of any direction, are combinations of the two first derivatives of a Gaussian whose
    width is a third of the kernel's. For random 3 x 3 filters, the expected fraction is 2 / 9. NaN
    for 1 x 1 kernels.
    """
    weight = _first_layer(network, images)[0].weight.detach().double()
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
    """Measure how well the peaks of channels separate the classes.

    Returns by convolution the between-class fraction of the variance of a channel's peak, averaged
    over the channels that are not constant, and of each channel (channels,) of the last convolution
    the largest ROC AUC for one class.
    """
    peaks: dict[str, list[Tensor]] = {}
    for batch in images.split(BATCH_SIZE):
        maps, _ = feature_maps(network, batch)
        for name, values in maps.items():
            peaks.setdefault(name, []).append(values.amax((2, 3)))
    one_hot = functional.one_hot(labels, num_classes).double()
    counts = one_hot.sum(0).clamp(min=1)
    shares, last = {}, torch.zeros(0)
    for name, batches in peaks.items():
        last = torch.cat(batches).double()
        means = one_hot.T @ last / counts[:, None]
        between = (counts[:, None] * (means - last.mean(0)) ** 2).sum(0)
        total = ((last - last.mean(0)) ** 2).sum(0)
        alive = total > 1e-20
        shares[name] = float((between[alive] / total[alive]).mean()) if alive.any() else 0.0
    # The AUC from the Mann-Whitney U statistic, with average ranks for ties.
    sums = stats.rankdata(last.numpy(), axis=0).T @ one_hot.numpy()
    n = one_hot.sum(0).numpy()
    areas = (sums - n * (n + 1) / 2) / np.maximum(n * (len(labels) - n), 1)
    return shares, areas.max(1)

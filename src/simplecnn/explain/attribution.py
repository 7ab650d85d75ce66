"""Attribution maps by three methods, each with a fidelity score and a sanity check.

The sanity check applies the same method to the network before training: what both maps have in
common comes from the image, not from learning. Adebayo et al., "Sanity Checks for Saliency Maps",
NeurIPS 2018.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional

from simplecnn.errors import InputError
from simplecnn.explain.findings import Findings, NotApplicable, rounded
from simplecnn.explain.subject import Subject
from simplecnn.figures.explain.attribution import attribution_figure
from simplecnn.figures.raster import short_name
from simplecnn.inference.networks import logits
from simplecnn.models.activations import (
    capture_activations,
    convolutions,
    evaluation_mode,
    feature_maps,
)
from simplecnn.table import percent, table

METHODS = ("integrated gradients", "occlusion", "Grad-CAM")
NUM_STEPS = 32  # of integrated gradients, from a black image to the image
NUM_PERTURBATIONS = 64  # blacked-out squares per infidelity


def attribution(
    subject: Subject, *, num_right: int = 3, num_wrong: int = 3, seed: int = 0
) -> Findings:
    """Explain random correct predictions and the most confident wrong ones by attribution maps."""
    names = subject.class_names
    probability, predicted = logits(subject.network, subject.images).softmax(1).max(1)
    is_correct = predicted == subject.labels
    correct, wrong = is_correct.nonzero().flatten(), (~is_correct).nonzero().flatten()
    order = torch.randperm(len(correct), generator=torch.Generator().manual_seed(seed))
    by_confidence = probability[wrong].argsort(descending=True, stable=True)
    most_confident = wrong[by_confidence[:num_wrong]]
    selected = torch.cat([correct[order[:num_right]], most_confident])
    if not len(selected):
        raise InputError(
            f"attribution.num_right={num_right} and attribution.num_wrong={num_wrong} select no "
            f"image: {len(correct):,} test images are classified correctly, {len(wrong):,} are not."
        )
    images, targets = subject.images[selected], predicted[selected]
    layer = grad_cam_layer(subject.network, images[:1])
    states = {
        "trained": attributions(subject.network, images, targets, seed=seed),
        "random weights": attributions(subject.untrained, images, targets, seed=seed),
    }
    columns = [(state, m, *states[state][m]) for state in states for m in METHODS]
    notes = []
    arrow = "\n→ " if max(map(len, names)) > 4 else " → "
    for image, target in zip(selected.tolist(), targets.tolist(), strict=True):
        mark = "correct" if is_correct[image] else "WRONG"
        true_class, prediction = short_name(names[subject.labels[image]]), short_name(names[target])
        confidence = percent(float(probability[image]))
        notes.append(f"{mark}, {confidence}\n{true_class}{arrow}{prediction}")
    grid = " x ".join(map(str, states["trained"]["Grad-CAM"][0].shape[1:]))
    setting = (
        f"{len(selected) - len(most_confident)} correct and {len(most_confident)} of {len(wrong)} "
        f"wrong predictions on {len(subject.labels):,} test images of {subject.data_name}"
    )
    figure = attribution_figure(
        list(images.numpy()),
        notes,
        [[maps[i] for *_, maps, _ in columns] for i in range(len(images))],
        [[percent(1 - loss[i], digits=0) for *_, loss in columns] for i in range(len(images))],
        titles=[
            f"{s}\n{m}\nexplains {percent(1 - loss.mean(), digits=0)}" for s, m, _, loss in columns
        ],
        title="Pixels that support the predicted class (red) or oppose it (blue, with a dot)\n"
        f"{setting}; beside each image: probability, true class → predicted class\n"
        f"each map is scaled to ± its largest magnitude; Grad-CAM on the {grid} grid of {layer}; "
        "below each map: share of the change in its network's class score that it explains when "
        "squares of the image are set to 0 (100 %: all, 0 %: no better than an empty map)",
    )
    rows = [("score change explained by the map", *states, "rank correlation of the two maps")]
    record, constant = {}, False
    for method in METHODS:
        maps, losses = states["trained"][method]
        random_maps, random_losses = states["random weights"][method]
        correlation = _rank_correlations(maps, random_maps)
        explained = (percent(1 - x.mean(), digits=0) for x in (losses, random_losses))
        varies = ~np.isnan(correlation)
        constant |= not varies.all()
        mean = f"{correlation[varies].mean():+z.2f}" if varies.any() else "-"
        rows.append((method, *explained, mean))
        record[method] = {
            "infidelity": rounded(losses),
            "infidelity_random_weights": rounded(random_losses),
            "rank_correlation_with_random_weights": rounded(correlation),
        }
    return Findings(
        lines=[
            setting,
            "share of the change in its network's class score that a map explains when squares of",
            "the image are set to 0 (100 %: all, 0 %: no better than an empty map); occlusion has",
            "an advantage, because it sets squares to 0 too. A rank correlation near 1 means that",
            "the map shows the image rather than what the network learned.",
            *table(rows).splitlines(),
            *["rank correlations leave out images with a constant map (-: all of them)"] * constant,
        ],
        record={
            "subject": subject.name,
            "images": selected.tolist(),
            "true": subject.labels[selected].tolist(),
            "predicted": targets.tolist(),
            "num_wrong": len(wrong),
            "grad_cam_layer": layer,
            "methods": record,
        },
        arrays={"images": images.numpy()}
        | {f"{state.split()[0]}/{method}": maps for state, method, maps, _ in columns},
        figures=[("attribution", figure)],
    )


def attributions(
    network: nn.Module, images: Tensor, targets: Tensor, *, seed: int
) -> dict[str, tuple[NDArray, NDArray]]:
    """Apply all three methods to images (N, C, H, W) for the classes `targets` (N,).

    Returns by method the maps (N, h, w), summed over color channels, and their `infidelity` (N,)
    relative to that of an empty map: 0 means that everything is explained, 1 nothing. Integrated
    gradients start from a black image; occlusion blacks out squares with a seventh of the image's
    side, half overlapping; Grad-CAM is computed on the grid of `grad_cam_layer`.
    """
    from captum.attr import IntegratedGradients, Occlusion

    side = max(1, min(images.shape[-2:]) // 7)
    step = max(1, side // 2)
    with evaluation_mode(network), torch.enable_grad():
        gradients = IntegratedGradients(network).attribute(
            images, target=targets, n_steps=NUM_STEPS, internal_batch_size=256
        )
        occlusion = Occlusion(network).attribute(
            images,
            target=targets,
            sliding_window_shapes=(images.shape[1], side, side),
            strides=(images.shape[1], step, step),
            perturbations_per_eval=32,
        )
        cam = grad_cam(network, images, targets, grad_cam_layer(network, images[:1]))
        empty = infidelity(network, images, targets, torch.zeros_like(images), seed=seed)
        results = {}
        for method, maps in zip(METHODS, (gradients, occlusion, cam), strict=True):
            on_pixels = functional.interpolate(maps, images.shape[-2:], mode="nearest")
            values = on_pixels.expand_as(images)
            loss = infidelity(network, images, targets, values, seed=seed) / empty.clamp(min=1e-12)
            results[method] = maps.detach().sum(1).numpy(), loss.numpy()
        return results


def grad_cam(network: nn.Module, images: Tensor, targets: Tensor, layer: str) -> Tensor:
    """Return the signed Grad-CAM maps (N, 1, h, w) on the grid of a convolution.

    The sum over channels of the activation after the non-linearity times the mean gradient of the
    target's logit. Selvaraju et al., "Grad-CAM", ICCV 2017, arXiv 1610.02391, without the final
    ReLU, so that pixels that oppose the class are negative.
    """
    outputs: dict[str, Tensor] = {}
    values: dict[str, Tensor] = {}

    def keep(name: str, output: Tensor) -> None:
        outputs[name] = output
        values[name] = output.detach().clone()  # later operations may modify it in place

    with capture_activations(network, keep):
        # With an input that requires grad, frozen weights do not matter.
        scores = network(images.clone().requires_grad_()).gather(1, targets[:, None]).sum()
    (gradient,) = torch.autograd.grad(scores, outputs[layer])
    return (gradient.mean((2, 3), keepdim=True) * values[layer]).sum(1, keepdim=True)


@torch.no_grad()
def infidelity(
    network: nn.Module, images: Tensor, targets: Tensor, values: Tensor, *, seed: int
) -> Tensor:
    """Return how much of the logit's changes attributions (N, C, H, W) leave unexplained: (N,).

    The infidelity of Yeh et al., "On the (In)fidelity and Sensitivity of Explanations", NeurIPS
    2019. Random squares of the image are set to 0, the same for all methods, and the optimally
    scaled attributions have to predict how the logit of the target changes.
    """
    from captum.metrics import infidelity as captum_infidelity

    def perturb(x: Tensor) -> tuple[Tensor, Tensor]:
        # The removed fraction of each pixel, not its value: maps are in units of the logit.
        removed = _squares(x, generator)
        return removed, x * (1 - removed)

    generator = torch.Generator().manual_seed(seed)
    scores: Tensor = captum_infidelity(
        network, perturb, images, values, target=targets,
        n_perturb_samples=NUM_PERTURBATIONS, normalize=True,
        max_examples_per_batch=len(images) * min(NUM_PERTURBATIONS, 32),
    )  # fmt: skip
    return scores


def _squares(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return masks (N, C, H, W): 1 in a random square, a quarter of the image's side, else 0."""
    height, width = images.shape[-2:]
    side = max(1, min(height, width) // 4)
    top = torch.randint(height - side + 1, (len(images), 1, 1, 1), generator=generator)
    left = torch.randint(width - side + 1, (len(images), 1, 1, 1), generator=generator)
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    inside = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
    return inside.to(images.dtype).expand_as(images)


def grad_cam_layer(network: nn.Module, image: Tensor) -> str:
    """Return the name of the last convolution whose feature map is larger than 1 x 1."""
    maps, _ = feature_maps(network, image)
    names = [n for n in convolutions(network) if n in maps and maps[n][0, 0].numel() > 1]
    if not names:
        raise NotApplicable(
            "attribution: Grad-CAM needs a convolution whose feature map is larger than 1 x 1, "
            "and this network has none."
        )
    return names[-1]


def _rank_correlations(first: NDArray, second: NDArray) -> NDArray:
    """Spearman's rank correlation of two maps per image; NaN where one is constant."""
    return np.array(
        [
            stats.spearmanr(a.ravel(), b.ravel()).statistic if np.ptp(a) and np.ptp(b) else np.nan
            for a, b in zip(first, second, strict=True)
        ]
    )

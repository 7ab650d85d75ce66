"""Which pixels an answer rests on, by three methods, and how far each is to be trusted.

Beside each map stands the same method on the network as it began: what looks alike in both is a
property of the image, not of what was learned. Adebayo et al., "Sanity Checks for Saliency Maps",
NeurIPS 2018.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional

from simplecnn.errors import InputError
from simplecnn.explain.findings import Findings, rounded
from simplecnn.explain.subject import Subject, logits
from simplecnn.figures.explain.attribution import attribution_figure
from simplecnn.figures.raster import short_name
from simplecnn.models.activations import convolutions, evaluation_mode, feature_maps, watched
from simplecnn.table import table

METHODS = ("integrated gradients", "occlusion", "Grad-CAM")
NUM_STEPS = 32  # of the path from a black image
NUM_PERTURBATIONS = 64  # squares blackened for each infidelity


def attribution(
    subject: Subject, *, num_right: int = 3, num_wrong: int = 3, seed: int = 0
) -> Findings:
    """Maps for some images with a right answer and for the most confident wrong ones.

    Each map is for the class that the network predicts.
    """
    names = subject.class_names
    probability, predicted = logits(subject.network, subject.images).softmax(1).max(1)
    right = predicted == subject.labels
    places = right.nonzero().flatten()
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))
    wrong = (~right).nonzero().flatten()
    worst = wrong[probability[wrong].argsort(descending=True, stable=True)[:num_wrong]]
    chosen = torch.cat([places[order[:num_right]], worst])
    if not len(chosen):
        raise InputError("num_right and num_wrong are both 0: there is nothing to attribute.")
    images, targets = subject.images[chosen], predicted[chosen]
    layer = grad_cam_layer(subject.network, images[:1])
    states = {
        "trained": attributions(subject.network, images, targets, seed=seed),
        "random weights": attributions(subject.untrained, images, targets, seed=seed),
    }
    columns = [(state, m, *states[state][m]) for state in states for m in METHODS]
    notes = []
    arrow = "\n→ " if max(map(len, names)) > 4 else " → "
    for image, target in zip(chosen.tolist(), targets.tolist(), strict=True):
        sign = "right" if right[image] else "WRONG"
        label, answer = short_name(names[subject.labels[image]]), short_name(names[target])
        p = _probability(float(probability[image]))
        notes.append(f"{sign}, p {p}\n{label}{arrow}{answer}")
    grid = " x ".join(map(str, states["trained"]["Grad-CAM"][0].shape[1:]))
    about = f"{len(chosen) - len(worst)} right and {len(worst)} of {len(wrong)} wrong answers"
    setting = f"{about} on {len(right):,} test images of {subject.data_name}"
    figure = attribution_figure(
        list(images.numpy()),
        notes,
        [[maps[i] for *_, maps, _ in columns] for i in range(len(images))],
        [[_percent(1 - loss[i]) for *_, loss in columns] for i in range(len(images))],
        titles=[f"{s}\n{m}\nexplains {_percent(1 - loss.mean())}" for s, m, _, loss in columns],
        title="Which pixels speak for the predicted class (red) or against it (blue, with a dot)\n"
        f"{setting}\n"
        f"each map on a scale of its own, ± its largest value; Grad-CAM on the {grid} grid of "
        f"{layer}; percent: how much of the answer's change the map explains when squares of the "
        "image are blackened",
    )
    rows = [("explained by the map", *states, "rank correlation of both")]
    record = {}
    for method in METHODS:
        (ours, infidelity), (others, of_others) = (state[method] for state in states.values())
        correlation = _rank_correlations(ours, others)
        explained = (_percent(1 - loss.mean()) for loss in (infidelity, of_others))
        rows.append((method, *explained, f"{correlation.mean():+.2f}"))
        record[method] = {
            "infidelity": rounded(infidelity),
            "infidelity_random_weights": rounded(of_others),
            "rank_correlation_with_random_weights": rounded(correlation),
        }
    return Findings(
        lines=[
            f"{setting}; how much of the answer's change a map explains",
            "when squares of the image are blackened (100 %: all of it; 0 %: like an empty map)",
            *table(rows).splitlines(),
        ],
        record={
            "subject": subject.name,
            "images": chosen.tolist(),
            "true": subject.labels[chosen].tolist(),
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
    """All three methods on images (N, C, H, W), for the classes `targets` (N,): the maps
    (N, h, w) and the `infidelity` (N,) of each.

    Maps are summed over color channels. Integrated gradients begin at a black image; occlusion
    blackens squares of a seventh of the image, half overlapping; Grad-CAM has the last convolution
    with more than one unit, at its own grid.
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
        found = {}
        for method, maps in zip(METHODS, (gradients, occlusion, cam), strict=True):
            on_pixels = functional.interpolate(maps, images.shape[-2:], mode="nearest")
            values = on_pixels.expand_as(images)
            loss = infidelity(network, images, targets, values, seed=seed)
            found[method] = maps.detach().sum(1).numpy(), loss
        return found


def grad_cam(network: nn.Module, images: Tensor, targets: Tensor, layer: str) -> Tensor:
    """(N, 1, h, w) on the grid of a convolution, what speaks against the class included.

    The sum over channels of the activation after the non-linearity, times the mean gradient of the
    answer. Selvaraju et al., "Grad-CAM", ICCV 2017, arXiv 1610.02391, without its last ReLU.
    """
    outputs: dict[str, Tensor] = {}
    values: dict[str, Tensor] = {}

    def keep(name: str, output: Tensor) -> None:
        outputs[name] = output
        values[name] = output.detach().clone()  # what follows may work in place

    with watched(network, keep):
        # A gradient flows through the network from its input on, whether its weights ask or not.
        answers = network(images.clone().requires_grad_()).gather(1, targets[:, None]).sum()
    (gradient,) = torch.autograd.grad(answers, outputs[layer])
    return (gradient.mean((2, 3), keepdim=True) * values[layer]).sum(1, keepdim=True)


@torch.no_grad()
def infidelity(
    network: nn.Module, images: Tensor, targets: Tensor, values: Tensor, *, seed: int
) -> NDArray:
    """(N,) how much of the answer's change `values` (N, C, H, W) leave unexplained, from 0 to 1.

    Of Yeh et al. ("On the (In)fidelity and Sensitivity of Explanations", NeurIPS 2019): squares of
    the image are blackened, the same for all methods, and the values, scaled as suits them best,
    have to predict how the answer changes. In shares of an empty map's: 0 is all of it, 1 nothing.
    """
    from captum.metrics import infidelity as of_captum

    def perturb(x: Tensor) -> tuple[Tensor, Tensor]:
        # What is taken away, in shares of each pixel: maps are in units of the answer.
        taken = _squares(x, generator)
        return taken, x * (1 - taken)

    scores = []
    for attributed in (values, torch.zeros_like(values)):
        generator = torch.Generator().manual_seed(seed)
        scores.append(
            of_captum(
                network, perturb, images, attributed, target=targets,
                n_perturb_samples=NUM_PERTURBATIONS, normalize=True,
                max_examples_per_batch=len(images) * min(NUM_PERTURBATIONS, 32),
            )
        )  # fmt: skip
    return (scores[0] / scores[1].clamp(min=1e-12)).numpy()


def _squares(images: Tensor, generator: torch.Generator) -> Tensor:
    """One in a random square of each image, its side a quarter of the image's; zero elsewhere."""
    height, width = images.shape[-2:]
    side = max(1, min(height, width) // 4)
    top = torch.randint(height - side + 1, (len(images), 1, 1, 1), generator=generator)
    left = torch.randint(width - side + 1, (len(images), 1, 1, 1), generator=generator)
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    inside = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
    return inside.to(images.dtype).expand_as(images)


def grad_cam_layer(network: nn.Module, image: Tensor) -> str:
    """The last convolution that still has more than one unit."""
    maps, _ = feature_maps(network, image)
    names = [n for n in convolutions(network) if n in maps and maps[n][0, 0].numel() > 1]
    if not names:
        raise InputError("attribution: no convolution of this network has more than one unit.")
    return names[-1]


def _probability(p: float) -> str:
    """Never 1 for what is less than certain."""
    return f"= {p:.3f}" if p < 0.9995 else "> 0.999"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _rank_correlations(ours: NDArray, others: NDArray) -> NDArray:
    """Spearman's, of two maps of each image; NaN where one is constant."""
    pairs = zip(ours, others, strict=True)
    return np.array(
        [
            stats.spearmanr(a.ravel(), b.ravel()).statistic if np.ptp(a) and np.ptp(b) else np.nan
            for a, b in pairs
        ]
    )

"""Which pixels an answer rests on, by three methods, and how far each is to be trusted.

Beside each map stands the same method on the network as it began: what looks alike in both is a
property of the image, not of what was learned. Adebayo et al., "Sanity Checks for Saliency Maps",
NeurIPS 2018.
"""

import copy
import importlib.util
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional

from simplecnn.errors import InputError
from simplecnn.explain.findings import Findings
from simplecnn.explain.subject import Subject, logits
from simplecnn.figures.explain.attribution import attribution_figure
from simplecnn.models.activations import convolutions, feature_maps, uncompiled, watched
from simplecnn.table import table

METHODS = ("integrated gradients", "occlusion", "Grad-CAM")
NUM_STEPS = 32  # of the path from a black image
NUM_PERTURBATIONS = 64  # squares blackened for each infidelity


@dataclass(frozen=True)
class Attribution:
    """The maps (N, h, w) of one method for N images, and the infidelity (N,) of each.

    The infidelity of Yeh et al. ("On the (In)fidelity and Sensitivity of Explanations", NeurIPS
    2019): squares of the image are blackened, and the map, scaled as suits it best, has to
    predict how the answer changes. In shares of an empty map's: 0 is all of it, 1 nothing.
    """

    maps: NDArray
    infidelity: NDArray

    @property
    def explained(self) -> NDArray:
        """(N,) the share of the answer's change that the map explains: 1 - infidelity."""
        return 1 - self.infidelity


def check_installed() -> None:
    """Raise InputError where Captum is missing."""
    if importlib.util.find_spec("captum") is None:
        raise InputError(
            "parts: attribution needs what a plain installation leaves out. Type "
            "uv sync --extra explain, or pip install 'simplecnn[explain]'."
        )


def attribution(
    subject: Subject, *, num_right: int = 3, num_wrong: int = 3, seed: int = 0
) -> Findings:
    """Maps for some images with a right answer and for the most confident wrong ones.

    Each map is for the class that the network predicts.
    """
    check_installed()
    probability, predicted = logits(subject.network, subject.images).softmax(1).max(1)
    right = predicted == subject.labels
    generator = torch.Generator().manual_seed(seed)
    places = right.nonzero().flatten()
    places = places[torch.randperm(len(places), generator=generator)[:num_right]]
    wrong = (~right).nonzero().flatten()
    worst = wrong[probability[wrong].argsort(descending=True, stable=True)[:num_wrong]]
    chosen = torch.cat([places, worst])
    if not len(chosen):
        raise InputError("num_right and num_wrong are both 0: there is nothing to attribute.")
    images, targets = subject.images[chosen], predicted[chosen]
    trained = attributions(subject.network, images, targets, seed=seed)
    control = attributions(subject.untrained, images, targets, seed=seed)
    both = [(state[method], method) for state in (trained, control) for method in METHODS]
    correlation = {m: _rank_correlations(trained[m].maps, control[m].maps) for m in METHODS}
    notes = []
    for place, target in zip(chosen.tolist(), targets.tolist(), strict=True):
        true, guess = subject.class_names[subject.labels[place]], subject.class_names[target]
        sign = "right" if true == guess else "WRONG"
        notes.append(f"{sign}: {true} → {guess}\np {_probability(float(probability[place]))}")
    layer = grad_cam_layer(subject.network, images[:1])
    grid = " x ".join(map(str, trained["Grad-CAM"].maps.shape[1:]))
    about = f"{len(places)} right and {len(worst)} of {len(wrong)} wrong answers"
    setting = f"{about} on {len(right):,} test images of {subject.data_name}"
    figure = attribution_figure(
        list(images.numpy()),
        notes,
        [[a.maps[i] for a, _ in both] for i in range(len(images))],
        [[_percent(a.explained[i]) for a, _ in both] for i in range(len(images))],
        titles=[f"{method}\nexplains {_percent(a.explained.mean())}" for a, method in both],
        title="Which pixels speak for the predicted class (red) or against it (blue, with a dot); "
        f"{setting}\n"
        f"each map on a scale of its own, ± its largest value; Grad-CAM on the {grid} grid of "
        f"{layer}; percent: how much of the answer's change the map explains when squares of the "
        "image are blackened",
    )
    rows = [("explained by the map", "trained", "random weights", "rank correlation of both")]
    rows += [
        (m, _percent(trained[m].explained.mean()), _percent(control[m].explained.mean()),
         f"{correlation[m].mean():+.2f}")
        for m in METHODS
    ]  # fmt: skip
    return Findings(
        lines=[
            f"{setting}; how much of the answer's change a map explains",
            "when squares of the image are blackened (100 %: all of it; 0 %: like an empty map)",
            *table(rows).splitlines(),
        ],
        record={
            "subject": subject.name,
            "images": chosen.tolist(),
            "true": [int(x) for x in subject.labels[chosen]],
            "predicted": targets.tolist(),
            "num_wrong": len(wrong),
            "grad_cam_layer": layer,
            "methods": {
                m: {
                    "infidelity": _rounded(trained[m].infidelity),
                    "infidelity_random_weights": _rounded(control[m].infidelity),
                    "rank_correlation_with_random_weights": _rounded(correlation[m]),
                }
                for m in METHODS
            },
        },
        arrays={
            "images": images.numpy(),
            **{f"trained/{m}": trained[m].maps for m in METHODS},
            **{f"random/{m}": control[m].maps for m in METHODS},
        },
        figures=[("attribution", figure)],
    )


def attributions(
    network: nn.Module, images: Tensor, targets: Tensor, *, seed: int
) -> dict[str, Attribution]:
    """All three methods on images (N, C, H, W), for the classes `targets` (N,).

    Maps are summed over color channels. Integrated gradients begin at a black image; occlusion
    blackens squares of a seventh of the image, half overlapping; Grad-CAM has the last convolution
    with more than one unit, at its own grid.
    """
    from captum.attr import IntegratedGradients, Occlusion

    network = _plain(network)
    layer = grad_cam_layer(network, images[:1])
    window = max(1, min(images.shape[-2:]) // 7)
    stride = max(1, window // 2)
    with uncompiled(network), torch.enable_grad():
        gradients = IntegratedGradients(network).attribute(
            images, target=targets, n_steps=NUM_STEPS, internal_batch_size=256
        )
        occlusion = Occlusion(network).attribute(
            images,
            target=targets,
            sliding_window_shapes=(images.shape[1], window, window),
            strides=(images.shape[1], stride, stride),
            perturbations_per_eval=32,
        )
        cam = grad_cam(network, images, targets, layer)
        on_pixels = functional.interpolate(cam, images.shape[-2:], mode="nearest")
        scores = (
            infidelity(network, images, targets, values.expand_as(images), seed=seed)
            for values in (gradients, occlusion, on_pixels)
        )
        maps = (values.detach().sum(1).numpy() for values in (gradients, occlusion, cam))
        return {
            method: Attribution(*both) for method, *both in zip(METHODS, maps, scores, strict=True)
        }


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
        answers = network(images).gather(1, targets[:, None]).sum()
    (gradient,) = torch.autograd.grad(answers, outputs[layer])
    return (gradient.mean((2, 3), keepdim=True) * values[layer]).sum(1, keepdim=True)


@torch.no_grad()
def infidelity(
    network: nn.Module, images: Tensor, targets: Tensor, values: Tensor, *, seed: int
) -> NDArray:
    """(N,) see `Attribution`; the squares are the same for all methods."""
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


def _plain(network: nn.Module) -> nn.Module:
    """A copy for gradients: evaluation mode, and nothing works in place, as Captum asks."""
    network = copy.deepcopy(network).eval().requires_grad_(True)
    for module in network.modules():
        if getattr(module, "inplace", False):
            setattr(module, "inplace", False)  # noqa: B010  mypy knows no such attribute
    return network


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


def _rounded(values: NDArray) -> list[float | None]:
    return [None if np.isnan(v) else round(float(v), 4) for v in values]

"""Which pixels an answer rests on, by three methods of Captum, and how far each is to be trusted.

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
from simplecnn.figures.attribution import Row, Tile, attribution_figure
from simplecnn.models.activations import convolutions, feature_maps, uncompiled
from simplecnn.receptive_field.trace import named_outputs

METHODS = ("integrated gradients", "occlusion", "Grad-CAM")
NUM_STEPS = 32  # of the path from a black image
NUM_PERTURBATIONS = 64  # squares blackened behind each infidelity


@dataclass(frozen=True)
class Attribution:
    """The maps (N, h, w) of one method for N images, and the infidelity (N,) of each.

    The infidelity of Yeh et al. ("On the (In)fidelity and Sensitivity of Explanations", NeurIPS
    2019) for squares that are blackened, the map scaled as suits it best (of either sign), in
    shares of that of an empty map: 0 foretells every change of the answer, 1 none of it.
    """

    maps: NDArray
    infidelity: NDArray


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
    answers = logits(subject.network, subject.images)
    probability, predicted = answers.softmax(1).max(1)
    right = predicted == subject.labels
    generator = torch.Generator().manual_seed(seed)
    places = right.nonzero().flatten()
    chosen = places[torch.randperm(len(places), generator=generator)[:num_right]]
    wrong = (~right).nonzero().flatten()
    worst = wrong[probability[wrong].argsort(descending=True, stable=True)[:num_wrong]]
    chosen = torch.cat([chosen, worst])
    if not len(chosen):
        raise InputError("num_right and num_wrong are both 0: there is nothing to attribute.")
    images, targets = subject.images[chosen], predicted[chosen]
    trained = attributions(subject.network, images, targets, seed=seed)
    control = attributions(subject.untrained, images, targets, seed=seed)
    likeness = {
        m: np.array(
            [_likeness(a, b) for a, b in zip(trained[m].maps, control[m].maps, strict=True)]
        )
        for m in METHODS
    }
    rows = []
    for i, place in enumerate(chosen.tolist()):
        true, guess = subject.class_names[subject.labels[place]], subject.class_names[targets[i]]
        tiles = [
            Tile(found[m].maps[i], f"{found[m].infidelity[i]:.2f}")
            for found in (trained, control)
            for m in METHODS
        ]
        sign = "right" if true == guess else "WRONG"
        note = f"{sign}: {true} → {guess}\np {_probability(float(probability[place]))}"
        rows.append(Row(images[i].numpy(), note, tiles))
    layer = grad_cam_layer(subject.network, images[:1])
    grid = " x ".join(map(str, trained["Grad-CAM"].maps.shape[1:]))
    about = f"{len(chosen) - len(worst)} right and {len(worst)} of {len(wrong)} wrong answers"
    setting = f"{about} on {len(right):,} test images of {subject.data_name}"
    titles = [
        f"{m}\ninfidelity {found[m].infidelity.mean():.2f}"
        for found in (trained, control)
        for m in METHODS
    ]
    figure = attribution_figure(
        rows, titles,
        title="Which pixels speak for the predicted class (red) or against it (blue, with a dot); "
        f"{setting}\n"
        f"each map on a scale of its own, ± its largest value; Grad-CAM on the {grid} grid of "
        f"{layer}; number: infidelity, 0 best, 1 like an empty map",
    )  # fmt: skip
    lines = [setting]
    lines += [
        f"{m}: infidelity {trained[m].infidelity.mean():.2f} trained, "
        f"{control[m].infidelity.mean():.2f} with random weights; "
        f"rank correlation of the two maps {likeness[m].mean():+.2f}"
        for m in METHODS
    ]
    return Findings(
        lines=lines,
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
                    "rank_correlation_with_random_weights": _rounded(likeness[m]),
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

    Maps are summed over colours. Integrated gradients begin at a black image; occlusion blackens
    squares of a seventh of the image, half overlapping; Grad-CAM has the last convolution with
    more than one unit, at its own grid, and keeps what speaks against the class.
    """
    from captum.attr import IntegratedGradients, LayerGradCam, Occlusion

    network = _plain(network)
    layer = network.get_submodule(_behind(network, grad_cam_layer(network, images[:1]), images[:1]))
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
        grad_cam = LayerGradCam(network, layer).attribute(images, target=targets)
        found = {}
        for method, values in zip(METHODS, (gradients, occlusion, grad_cam), strict=True):
            values = values.detach()
            on_pixels = values
            if values.shape[-2:] != images.shape[-2:]:
                large = functional.interpolate(values, images.shape[-2:], mode="nearest")
                on_pixels = large.expand_as(images)
            score = infidelity(network, images, targets, on_pixels, seed=seed)
            found[method] = Attribution(values.sum(1).numpy(), score)
    return found


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


def _behind(network: nn.Module, layer: str, image: Tensor) -> str:
    """The module whose output is the convolution's map after the non-linearity, where there is
    one that is called once; else the convolution itself."""
    maps, _ = feature_maps(network, image)
    names: list[str] = []
    same: list[str] = []

    def receive(name: str, module: nn.Module, output: Tensor) -> None:
        names.append(name)
        if (
            layer in names
            and output.shape == maps[layer].shape
            and torch.equal(output, maps[layer])
        ):
            same.append(name)

    with torch.no_grad(), named_outputs(network, receive):
        network(image)
    known = dict(network.named_modules())
    alone = [name for name in same if name in known and f"{name}_1" not in names]
    return alone[0] if alone else layer


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


def _likeness(a: NDArray, b: NDArray) -> float:
    """Spearman's rank correlation of two maps; NaN where one is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(stats.spearmanr(a.ravel(), b.ravel()).statistic)


def _rounded(values: NDArray) -> list[float | None]:
    return [None if np.isnan(v) else round(float(v), 4) for v in values]

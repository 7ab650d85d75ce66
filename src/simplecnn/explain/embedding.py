"""Where a network puts images before it decides: for TensorBoard's projector, and as a picture."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from simplecnn.explain.findings import Findings
from simplecnn.explain.subject import BATCH, Subject
from simplecnn.figures.explain.embedding import embedding_figure
from simplecnn.models.activations import layer_inputs

LARGEST_SPRITE = 8192  # pixels a side: what browsers take as one texture
# The projector names points by the first column that is not all numbers.
HEADER = ["answer", "class", "predicted", "right", "probability", "image"]


def embedding(subject: Subject, *, num_images: int = 2000, seed: int = 0) -> Findings:
    """The input of the last linear layer for `num_images` test images, with sprites and labels.

    The folder is a log directory of TensorBoard: its projector shows it.
    """
    side = int(subject.images.shape[-2])
    num_images = min(num_images, (LARGEST_SPRITE // side) ** 2)
    images, labels = subject.sample(num_images, seed=seed)
    layer, points, answers = penultimate(subject.network, images)
    probability, predicted = answers.softmax(1).max(1)
    centered = (points - points.mean(0)).double()
    _, singular, axes = torch.linalg.svd(centered, full_matrices=False)
    plane = centered @ axes[:2].T
    share = float((singular[:2] ** 2).sum() / (singular**2).sum().clamp(min=1e-30))
    setting = f"{len(labels):,} of {len(subject.labels):,} test images of {subject.data_name}"
    names = subject.class_names
    answered = zip(labels.tolist(), predicted.tolist(), probability.tolist(), strict=True)
    metadata = [
        [f"{names[t]} → {names[p]}", names[t], names[p], "yes" if t == p else "no", f"{q:.4f}",
         str(i)]
        for i, (t, p, q) in enumerate(answered)
    ]  # fmt: skip

    def write(folder: Path) -> None:
        with SummaryWriter(folder) as writer:
            sprites = images if images.shape[1] in (1, 3) else images.mean(1, keepdim=True)
            writer.add_embedding(
                points, metadata=metadata, metadata_header=HEADER,
                label_img=sprites.expand(-1, 3, -1, -1), tag="penultimate",
            )  # fmt: skip

    figure = embedding_figure(
        plane.numpy(), labels.numpy(), (predicted == labels).numpy(), class_names=names,
        title=(
            f"What stands before {layer}: {points.shape[1]} numbers an image, the two "
            f"directions of most variance ({100 * share:.0f} % of it)\n{setting}"
        ),
    )  # fmt: skip
    return Findings(
        lines=[
            f"input of {layer}, {points.shape[1]} numbers for each of {setting}; "
            f"two directions hold {100 * share:.0f} % of the variance",
        ],
        record={
            "subject": subject.name,
            "layer": layer,
            "num_images": len(labels),
            "num_dimensions": points.shape[1],
            "variance_in_plane": round(share, 6),
        },
        arrays={
            "points": points.numpy(),
            "plane": plane.numpy(),
            "labels": labels.numpy(),
            "predicted": predicted.numpy(),
            "images": images.numpy(),
        },
        figures=[("plane", figure)],
        write=write,
    )


def penultimate(network: nn.Module, images: Tensor) -> tuple[str, Tensor, Tensor]:
    """The name of the last linear layer to be called, its input (N, D), and the logits.

    A network without linear layers gives its logits for both.
    """
    points, answers, layer = [], [], "output"
    for part in images.split(BATCH):
        inputs, logits = layer_inputs(network, part, nn.Linear)
        layer = list(inputs)[-1] if inputs else "output"
        points.append(inputs[layer].flatten(1) if inputs else logits)
        answers.append(logits)
    return layer, torch.cat(points), torch.cat(answers)

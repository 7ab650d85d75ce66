"""Penultimate-layer embeddings, for TensorBoard's projector and as a 2-D figure."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from simplecnn.explain.findings import Findings
from simplecnn.explain.subject import Subject
from simplecnn.figures.explain.embedding import embedding_figure
from simplecnn.inference.networks import BATCH_SIZE
from simplecnn.models.activations import layer_inputs

MAX_SPRITE = 8192  # pixels per side: the largest texture that browsers support
# The projector labels points by the first column that is not entirely numeric.
HEADER = ["answer", "class", "predicted", "right", "probability", "image"]


def embedding(subject: Subject, *, num_images: int = 2000, seed: int = 0) -> Findings:
    """Embed `num_images` test images by the input of the network's last linear layer.

    The saved folder is a TensorBoard log directory: the projector shows the points with their
    images and labels.
    """
    side = int(subject.images.shape[-2])
    num_images = min(num_images, (MAX_SPRITE // side) ** 2)
    images, labels = subject.sample(num_images, seed=seed)
    layer, points, logits = penultimate(subject.network, images)
    probability, predicted = logits.softmax(1).max(1)
    centered = (points - points.mean(0)).double()
    _, singular, axes = torch.linalg.svd(centered, full_matrices=False)
    plane = centered @ axes[:2].T
    share = float((singular[:2] ** 2).sum() / (singular**2).sum().clamp(min=1e-30))
    setting = f"{len(labels):,} of {len(subject.labels):,} test images of {subject.data_name}"
    source = f"input of the layer {layer}"
    if torch.equal(points, logits):  # there is no linear layer
        source = "output of the network"
    names = subject.class_names
    predictions = zip(labels.tolist(), predicted.tolist(), probability.tolist(), strict=True)
    metadata = [
        [f"{names[t]} → {names[p]}", names[t], names[p], "yes" if t == p else "no", f"{q:.4f}",
         str(i)]
        for i, (t, p, q) in enumerate(predictions)
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
            f"{source[0].upper()}{source[1:]}: first two principal components "
            f"({100 * share:.0f} % of the variance)\n"
            f"{points.shape[1]} features per image, {setting}"
        ),
    )  # fmt: skip
    return Findings(
        lines=[
            f"{source} ({points.shape[1]} features per image) for {setting};",
            f"the first two principal components hold {100 * share:.0f} % of the variance",
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
    """Return the name of the linear layer that is called last, its input (N, D), and the logits.

    For a network without linear layers, the name is `output` and the logits are returned twice.
    """
    points, outputs, layer = [], [], "output"
    for batch in images.split(BATCH_SIZE):
        inputs, logits = layer_inputs(network, batch, nn.Linear)
        layer = list(inputs)[-1] if inputs else "output"
        points.append(inputs[layer].flatten(1) if inputs else logits)
        outputs.append(logits)
    return layer, torch.cat(points), torch.cat(outputs)

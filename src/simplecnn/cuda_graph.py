"""A whole training step as one CUDA graph: launched once, not kernel by kernel. Torch only.

A step of a network this small is some seventy kernels of a few microseconds, and launching them
takes longer than running them.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

NUM_EAGER = 4  # real steps before the capture, so that every library has chosen its kernels


class GraphedStep:
    """A step of training: forward pass, loss, backward pass, optimizer, and sums of the metrics.

    The first few steps run kernel by kernel; the next is captured, and from then on every batch
    of the same size replays it. A batch of another size (the last of an epoch) runs kernel by
    kernel again. Nothing waits for the device. The losses are those of the plain path.

    `sums` holds, since it was last zeroed, the sum of the losses of all images and the number of
    correct ones, on the device.
    """

    def __init__(
        self, network: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], optimizer: Optimizer
    ) -> None:
        self.network = network
        self.loss = loss
        self.optimizer = optimizer
        device = next(network.parameters()).device
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.num_eager = 0
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Train on a batch. Gives its mean loss, which the next call may overwrite."""
        if self.stream is None:
            return self._step(images, labels)
        if self.graph is None and self.num_eager >= NUM_EAGER:
            self._capture(images, labels)
        if self.graph is None or images.shape != self.images.shape:
            self.num_eager += 1
            # Not on the stream of everything else: what a graph will use must be made apart.
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                loss = self._step(images, labels)
            torch.cuda.current_stream().wait_stream(self.stream)
            return loss
        self.images.copy_(images)
        self.labels.copy_(labels)
        self.graph.replay()
        return self.mean

    def _capture(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images.clone(), labels.clone()
        self.optimizer.zero_grad(set_to_none=True)  # the graph has gradients of its own
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            self.mean = self._step(self.images, self.labels)
        self.graph = graph

    def _step(self, images: Tensor, labels: Tensor) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        logits = self.network(images)
        loss = self.loss(logits, labels)
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            self.sums[0].add_(loss, alpha=len(labels))
            self.sums[1].add_((logits.argmax(1) == labels).sum())
        return loss.detach()


def make_capturable(optimizer: Optimizer) -> None:
    """Let a graph read the learning rate from the device, where a schedule changes it.

    Raises ValueError for an optimizer that cannot be captured.
    """
    for group in optimizer.param_groups:
        if "capturable" not in group:
            raise ValueError(
                f"{type(optimizer).__name__} cannot be captured in a CUDA graph: "
                f"take Adam or AdamW, or type model.cuda_graph=false."
            )
        group["capturable"] = True
        device = group["params"][0].device
        group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=device)
    optimizer._warned_capturable_if_run_uncaptured = True

"""A whole training step as one CUDA graph: launched once, not kernel by kernel. Torch only.

A step of a network this small is some seventy kernels of a few microseconds, and launching them
takes longer than running them.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

NUM_EAGER = 4  # real steps before the capture, so that every library has chosen its kernels


class GraphedStep:
    """A step of training: forward pass, loss, backward pass, optimizer, and sums of the metrics.

    The first few steps run kernel by kernel; the next is captured, and from then on every batch
    of the same size replays it. A batch of another size (the last of an epoch) runs kernel by
    kernel again. Nothing waits for the device. The losses are those of the plain path.

    A graph repeats what was captured with the numbers of that time. Only the learning rate is read
    anew: a schedule may change it as ever, `optimizer.param_groups` holds it as a plain number.

    `sums` holds, since it was last zeroed, the sum of the losses of all images and the number of
    correct ones, on the device.

    Raises ValueError for an optimizer that cannot be captured.
    """

    def __init__(
        self, network: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], optimizer: Optimizer
    ) -> None:
        if not all("capturable" in g and g.get("fused") for g in optimizer.param_groups):
            fused = "true" if optimizer.param_groups[0].get("fused") else "false"
            raise ValueError(
                f"{type(optimizer).__name__} with fused={fused} cannot be captured in a CUDA "
                f"graph, only Adam and AdamW with fused=true can: type model/optimizer=adam, or "
                f"model.cuda_graph=false."
            )
        self.network = network
        self.loss = loss
        self.optimizer = optimizer
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        device = self.parameters[0].device
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
        self._set_rates()
        self.graph.replay()
        if self.parameters[0].grad is not self.gradients[0]:  # a step of another size came between
            for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
                parameter.grad = gradient
        return self.mean

    def _capture(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images.clone(), labels.clone()
        self.rates = [
            torch.tensor(group["lr"], dtype=torch.float32, device=images.device)
            for group in self.optimizer.param_groups
        ]
        self.last_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.optimizer.zero_grad(set_to_none=True)  # the graph has gradients of its own
        graph = torch.cuda.CUDAGraph()
        with self._capturable(), torch.cuda.graph(graph, stream=self.stream):
            self.mean = self._step(self.images, self.labels)
        self.gradients = [parameter.grad for parameter in self.parameters]
        self.graph = graph

    @contextlib.contextmanager
    def _capturable(self) -> Iterator[None]:
        """Inside, the optimizer reads its learning rates from the device."""
        groups: list[dict[str, Any]] = self.optimizer.param_groups
        before = [{key: group[key] for key in ("lr", "capturable")} for group in groups]
        for group, rate in zip(groups, self.rates, strict=True):
            group.update(lr=rate, capturable=True)
        try:
            yield
        finally:
            for group, values in zip(groups, before, strict=True):
                group.update(values)

    def _set_rates(self) -> None:
        """Write the learning rates where the graph reads them, if a schedule has changed them."""
        for i, group in enumerate(self.optimizer.param_groups):
            if group["lr"] != self.last_rates[i]:
                self.last_rates[i] = group["lr"]
                self.rates[i].fill_(group["lr"])

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

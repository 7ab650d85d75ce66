"""One batch on several cores: each computes the loss and the gradients of its share. Torch only.

PyTorch by itself splits every operation among the cores, and they wait for each other after each:
two cores gain little on small images, and nothing while other programs run. Here they wait once.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from simplecnn.models.simple_cnn import BlurPool, SimpleCNN

Loss = Callable[[Tensor, Tensor], Tensor]
LEAST_SHARE = 16  # images of a core: with fewer, the fixed cost of the operations is all there is

# What treats each image by itself, draws no random numbers and keeps no state.
APART = (
    *(nn.Conv2d, nn.Linear, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten),
    *(nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Identity),
    *(nn.GroupNorm, nn.LayerNorm, nn.Sequential, SimpleCNN, BlurPool),
)


class Cores:
    """The gradients of a batch, computed in `num_cores` shares at once.

    `loss` takes logits and labels, and is a mean over the images. The gradients are those of
    `loss(network(images), labels)` to rounding, always in the same order of additions.

    From the first batch on, torch uses one thread in the calling thread too, between the batches as
    well: a second one would spin on another core while that has a share to compute. `release`
    gives the threads back, to validate with, until the next batch; `close` ends the workers too.
    """

    def __init__(self, network: nn.Module, loss: Loss, *, num_cores: int) -> None:
        self.network = network
        self.loss = loss
        self.num_cores = num_cores
        self.num_threads = torch.get_num_threads()
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.workers = ThreadPoolExecutor(
            num_cores - 1, "core", initializer=torch.set_num_threads, initargs=(1,)
        )

    def __reduce__(self) -> Any:  # a copy has workers of its own
        return _cores, (self.network, self.loss, self.num_cores)

    def release(self) -> None:
        torch.set_num_threads(self.num_threads)

    def close(self) -> None:
        self.release()
        self.workers.shutdown()

    def backward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Set the gradients of the parameters. Returns the mean loss and the logits, detached."""
        num_shares = max(1, min(self.num_cores, len(images) // LEAST_SHARE))
        parts = list(
            zip(images.tensor_split(num_shares), labels.tensor_split(num_shares), strict=True)
        )
        workers = [self.workers.submit(self._share, *part, len(images)) for part in parts[1:]]
        torch.set_num_threads(1)  # of this thread; the workers have set theirs
        try:
            loss, logits, gradients = self._share(*parts[0], len(images))
        finally:
            others = [worker.result() for worker in workers]
        for more_loss, _, more_gradients in others:
            loss = loss + more_loss
            torch._foreach_add_(gradients, more_gradients)
        # Without autograd: the backward pass of a loss that has them already takes 0.3 ms.
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            if gradient.stride() != parameter.stride():  # fused optimizers go by the memory
                gradient = torch.empty_like(parameter).copy_(gradient)
            parameter.grad = gradient
        return loss, torch.cat([logits, *(more_logits for _, more_logits, _ in others)])

    def _share(
        self, images: Tensor, labels: Tensor, num_images: int
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Loss, logits and gradients of a share of `num_images`."""
        logits = self.network(images)
        loss = self.loss(logits, labels) * (len(images) / num_images)
        gradients = torch.autograd.grad(loss, self.parameters)
        return loss.detach(), logits.detach(), gradients


def _cores(network: nn.Module, loss: Loss, num_cores: int) -> Cores:
    return Cores(network, loss, num_cores=num_cores)


def can_split(network: nn.Module) -> bool:
    """Whether the shares of a batch can be computed apart, at once, with the result of the whole.

    Not so where images depend on each other (batch normalisation), where random numbers are drawn
    (dropout), and in modules that are not known here or carry hooks.
    """
    return all(
        type(module) in APART
        and not module._forward_hooks
        and not module._forward_pre_hooks
        and module._compiled_call_impl is None
        for module in network.modules()
    )

"""One batch on several cores: each computes the loss and the gradients of its share. Torch only.

PyTorch by itself splits every operation among the cores, and they wait for each other after each:
two cores gain little on small images, and nothing while other programs run. Here they wait once.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from simplecnn.network import BlurPool, SimpleCNN

Loss = Callable[[Tensor, Tensor], Tensor]
LEAST_SHARE = 16  # images of a core: with fewer, the fixed cost of the operations is all there is

# What treats each image by itself, draws no random numbers and keeps no state.
APART = (
    *(nn.Conv2d, nn.Linear, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten),
    *(nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Identity),
    *(nn.GroupNorm, nn.LayerNorm, nn.Sequential, SimpleCNN, BlurPool),
)


class Cores:
    """The mean loss over a batch and its logits, computed in `num_cores` shares at once.

    `loss` takes logits and labels, and is a mean over the images. The result is a loss like any
    other: its `backward` gives the parameters their gradients, those of `loss(network(images),
    labels)` to rounding, always in the same order of additions. No gradient reaches the images.

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

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The mean loss, and the logits (N, num_classes), which are cut off from the gradient."""
        num_shares = max(1, min(self.num_cores, len(images) // LEAST_SHARE))
        if num_shares == 1:
            logits = self.network(images)
            return self.loss(logits, labels), logits.detach()
        return _Shared.apply(self, num_shares, images, labels, *self.parameters)

    def __reduce__(self) -> Any:  # a copy has workers of its own
        return _cores, (self.network, self.loss, self.num_cores)

    def release(self) -> None:
        torch.set_num_threads(self.num_threads)

    def close(self) -> None:
        self.release()
        self.workers.shutdown()

    def shares(
        self, images: Tensor, labels: Tensor, num_shares: int
    ) -> list[tuple[Tensor, Tensor, tuple[Tensor, ...]]]:
        """Loss, logits and gradients of each share; the first one is this thread's own."""
        parts = list(
            zip(images.tensor_split(num_shares), labels.tensor_split(num_shares), strict=True)
        )
        others = [self.workers.submit(self._share, *part, len(images)) for part in parts[1:]]
        torch.set_num_threads(1)  # of this thread; the workers have set theirs
        try:
            own = self._share(*parts[0], len(images))
        finally:
            results = [other.result() for other in others]
        return [own, *results]

    def _share(
        self, images: Tensor, labels: Tensor, num_images: int
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        with torch.enable_grad():
            logits = self.network(images)
            loss = self.loss(logits, labels) * (len(images) / num_images)
            gradients = torch.autograd.grad(loss, self.parameters)
        return loss.detach(), logits.detach(), gradients


def _cores(network: nn.Module, loss: Loss, num_cores: int) -> Cores:
    return Cores(network, loss, num_cores=num_cores)


class _Shared(torch.autograd.Function):
    """The gradients are there when the loss is; `backward` hands them out."""

    @staticmethod
    def forward(
        ctx: Any, cores: Cores, num_shares: int, images: Tensor, labels: Tensor, *_: Tensor
    ) -> tuple[Tensor, Tensor]:
        (loss, logits, gradients), *others = cores.shares(images, labels, num_shares)
        for more_loss, _more_logits, more_gradients in others:
            loss = loss + more_loss
            torch._foreach_add_(gradients, more_gradients)
        ctx.gradients = gradients
        logits = torch.cat([logits, *(other[1] for other in others)])
        ctx.mark_non_differentiable(logits)
        return loss, logits

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, factor: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        torch._foreach_mul_(gradients, factor)
        return None, None, None, None, *gradients


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

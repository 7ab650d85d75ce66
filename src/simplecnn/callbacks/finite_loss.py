"""A loss that is not finite ends the run, with the step and the layer that broke first."""

from collections.abc import Iterable
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from simplecnn.callbacks.image_callback import network_of
from simplecnn.errors import RunError

EVERY_N_STEPS = 25  # of looking, where the loss is on a GPU or the run has several processes


class FiniteLoss(Callback):
    """Raises RunError where a training loss, a validation metric or a weight is not finite.

    On a CPU each loss is looked at before the optimizer steps. On a GPU nobody waits for it: its
    sum is on the way to the CPU for 25 steps, so that it is found within 50. Several processes
    decide together. No checkpoint of what is not finite is written.
    """

    def __init__(self) -> None:
        self._batch: Any = None
        self._sum: Tensor | None = None
        self._on_its_way: tuple[Tensor, torch.cuda.Event | None] | None = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._sum = self._on_its_way = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._batch = batch

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        if trainer.world_size == 1 and not loss.is_cuda:
            if not torch.isfinite(loss):
                raise RunError(_sentence(trainer, pl_module, self._batch))
            return
        self._sum = loss.detach().clone() if self._sum is None else self._sum + loss.detach()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._sum is None or (batch_idx + 1) % EVERY_N_STEPS:
            return
        before, self._on_its_way = self._on_its_way, _to_cpu(self._sum)
        finite = True
        if before is not None:
            number, event = before
            if event is not None:
                event.synchronize()  # it happened 25 steps ago
            finite = bool(torch.isfinite(number))
        self._raise_unless(finite, trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if not _all_finite(pl_module.parameters()):
            raise RunError(_sentence(trainer, pl_module, self._batch))

    def _check(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        finite = self._sum is None or bool(torch.isfinite(self._sum))
        losses = [v for k, v in trainer.callback_metrics.items() if k.endswith("/loss")]
        finite = finite and _all_finite(losses) and _all_finite(module.parameters())
        self._raise_unless(finite, trainer, module)

    def _raise_unless(self, finite: bool, trainer: Trainer, module: LightningModule) -> None:
        if trainer.world_size > 1:
            finite = trainer.strategy.reduce_boolean_decision(finite)
        if not finite:
            raise RunError(_sentence(trainer, module, self._batch))


def first_break(module: LightningModule, batch: Any) -> str:
    """Which part of the network is the first that is not finite, for the batch (images, …)."""
    weights = [name for name, p in module.named_parameters() if not _all_finite([p])]
    gradients = [n for n, p in module.named_parameters() if not _all_finite([p.grad])]
    broken: list[str] = []
    network = network_of(module)
    handles = [
        layer.register_forward_hook(
            lambda layer, inputs, output, name=name: (
                None if broken or _all_finite([output]) else broken.append(name)
            )
        )
        for name, layer in network.named_modules()
        if not list(layer.children())
    ]
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            network(batch[0])
    except Exception:  # a batch of some other kind: what the parameters tell has to do
        pass
    finally:
        for handle in handles:
            handle.remove()
    if weights:
        others = f" and {len(weights) - 1} others" if len(weights) > 1 else ""
        return f"the weights {weights[0]}{others} are not finite after the step before"
    if broken:
        return f"the output of {broken[0]} was the first to break"
    if gradients:  # backward, the last layer is the first
        return f"the gradient of {gradients[-1]} was the first to break"
    return "the outputs of all layers are finite: the loss was the first to break"


def _sentence(trainer: Trainer, module: LightningModule, batch: Any) -> str:
    rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
    return (
        f"The loss is not finite: seen at step {trainer.global_step} "
        f"(epoch {trainer.current_epoch + 1}), with a learning rate of {float(max(rates)):.3g}; "
        f"{first_break(module, batch)}. Try a smaller model.optimizer.lr, or "
        f"+trainer.gradient_clip_val=1."
    )


def _to_cpu(number: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """A number on its way to the CPU, and the event after which it is there."""
    if not number.is_cuda:
        return number, None
    copy = torch.empty((), dtype=number.dtype, pin_memory=True)
    copy.copy_(number, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return copy, event


def _all_finite(tensors: Iterable[Any]) -> bool:
    """Whether all numbers are finite; True for what is no tensor of floating point."""
    return all(
        bool(torch.isfinite(t).all())
        for t in tensors
        if isinstance(t, Tensor | nn.Parameter) and t.is_floating_point()
    )

"""A loss that is not finite ends the run, with the step and the layer that broke first."""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from simplecnn.callbacks.image_callback import in_training
from simplecnn.errors import RunError
from simplecnn.models.activations import network_of
from simplecnn.receptive_field.trace import named_outputs

EVERY_N_STEPS = 50  # how often the loss is read from a GPU, or agreed on by several processes


class FiniteLoss(Callback):
    """Raises RunError where a training loss, a validation metric or a weight is not finite.

    On a CPU each loss is looked at before the optimizer steps; on a GPU, which must not wait in
    every step, and in several processes, which have to agree, only every 50 steps: weights that are
    not finite stay so. No checkpoint of what is not finite is written.
    """

    _batch: Any = None  # the one at hand

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._batch = batch

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        is_cheap = trainer.world_size == 1 and not loss.is_cuda
        if is_cheap or trainer.global_step % EVERY_N_STEPS == 0:
            self._raise_unless_finite([loss], trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if in_training(trainer):
            losses = [v for k, v in trainer.callback_metrics.items() if k.endswith("/loss")]
            self._raise_unless_finite([*losses, *pl_module.parameters()], trainer, pl_module)

    on_train_epoch_end = on_validation_end

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if not _all_finite(pl_module.parameters()):
            raise RunError(_sentence(trainer, pl_module, self._batch))

    def _raise_unless_finite(
        self, values: Iterable[Any], trainer: Trainer, module: LightningModule
    ) -> None:
        finite = _all_finite(values)
        if trainer.world_size > 1:
            finite = trainer.strategy.reduce_boolean_decision(finite)
        if not finite:
            raise RunError(_sentence(trainer, module, self._batch))


def _sentence(trainer: Trainer, module: LightningModule, batch: Any) -> str:
    rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
    return (
        f"The loss is not finite: seen at step {trainer.global_step} "
        f"(epoch {trainer.current_epoch + 1}), with a learning rate of {float(max(rates)):.3g}; "
        f"{first_break(module, batch)}. Try a smaller model.optimizer.lr, or "
        f"+trainer.gradient_clip_val=1."
    )


def first_break(module: LightningModule, batch: Any) -> str:
    """Which part of the network is the first that is not finite, for the batch (images, …)."""
    weights = [name for name, p in module.named_parameters() if not _all_finite([p])]
    if weights:
        others = f" and {len(weights) - 1} others" if len(weights) > 1 else ""
        return f"the weights {weights[0]}{others} are not finite after the step before"
    broken: list[str] = []

    def receive(name: str, layer: nn.Module, output: Tensor) -> None:
        if not _all_finite([output]):
            broken.append(name)

    network = network_of(module)
    # A batch of another kind fails: then it is the loss that is named.
    with suppress(Exception), torch.no_grad(), named_outputs(network, receive):
        network(batch[0])
    if broken:
        return f"the output of {broken[0]} was the first to break"
    return "the outputs of all layers are finite: the loss was the first to break"


def _all_finite(values: Iterable[Any]) -> bool:
    """Whether all numbers are finite; True for what is no tensor of floating point."""
    return all(
        bool(torch.isfinite(value).all())
        for value in values
        if isinstance(value, Tensor) and value.is_floating_point()
    )

"""Stop a run whose loss is not finite, and name the step and the layer."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from simplecnn.callbacks.image_callback import in_training
from simplecnn.config.resolvers import mode_of
from simplecnn.errors import RunError
from simplecnn.models.activations import network_of
from simplecnn.receptive_field.trace import named_outputs

EVERY_N_STEPS = 50  # interval of checks that synchronize with a GPU or between processes


class FiniteLoss(Callback):
    """Raise RunError if a loss or a weight is not finite.

    On a CPU every training loss is checked before the optimizer steps. A check on a GPU would
    synchronize, and several processes have to agree: there, every 50th step is checked. That is
    enough because weights that are not finite stay so. Validation metrics are checked if smaller
    values are better. Before a checkpoint is written, so are the buffers, such as running means,
    and the state of the optimizers.
    """

    _batch: Any = None  # the current one
    _finite: frozenset[str] = frozenset()  # buffers that were finite at first: a mask may be -inf

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finite = frozenset(n for n, b in pl_module.named_buffers() if _all_finite([b]))

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._batch = batch

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        is_cheap = trainer.world_size == 1 and not loss.is_cuda
        if is_cheap or trainer.global_step % EVERY_N_STEPS == 0:
            self._raise_unless_finite([loss], trainer, pl_module, {})

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if in_training(trainer):
            metrics = {k: v for k, v in trainer.callback_metrics.items() if mode_of(k) == "min"}
            values = [*metrics.values(), *pl_module.parameters()]
            self._raise_unless_finite(values, trainer, pl_module, metrics)

    on_train_epoch_end = on_validation_end

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if not _all_finite(pl_module.parameters()):
            raise RunError(_message(trainer, pl_module, self._batch))
        for name, buffer in pl_module.named_buffers():
            if name in self._finite and not _all_finite([buffer]):
                raise RunError(_message(trainer, pl_module, None, f"The buffer {name}"))
        # Of a sharded optimizer, only rank zero has the state.
        optimizers = (o.get("state", {}) for o in checkpoint.get("optimizer_states", ()))
        states = [s for o in optimizers for s in o.values() if isinstance(s, dict)]
        if not _all_finite(value for state in states for value in state.values()):
            raise RunError(_message(trainer, pl_module, None, "The state of the optimizer"))

    def _raise_unless_finite(
        self,
        values: Iterable[Any],
        trainer: Trainer,
        module: LightningModule,
        metrics: Mapping[str, Tensor],
    ) -> None:
        finite = _all_finite(values)
        if trainer.world_size > 1:
            finite = trainer.strategy.reduce_boolean_decision(finite)
        if finite:
            return
        names = [name for name, value in metrics.items() if not _all_finite([value])]
        if names and _all_finite(module.parameters()):
            raise RunError(_message(trainer, module, None, names[0]))
        raise RunError(_message(trainer, module, self._batch))


def _message(trainer: Trainer, module: LightningModule, batch: Any, what: str = "The loss") -> str:
    advice = "Try a smaller learning rate"
    if trainer.gradient_clip_val is None:
        advice += ", or +trainer.gradient_clip_val=1"
    rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
    return (
        f"{what} is not finite: detected at step {trainer.global_step} "
        f"(epoch {trainer.current_epoch + 1}), with a learning rate of {float(max(rates)):.3g}"
        f"{'' if batch is None else f'; {_first_non_finite(module, batch)}'}. {advice}."
    )


def _first_non_finite(module: LightningModule, batch: Any) -> str:
    """Describe the first part of the network that is not finite for `batch`, (images, …)."""
    weights = [name for name, p in module.named_parameters() if not _all_finite([p])]
    if weights:
        others = f" and {len(weights) - 1} more" if len(weights) > 1 else ""
        return f"the weights {weights[0]}{others} are not finite after the previous step"
    layers: list[str] = []

    def receive(name: str, layer: nn.Module, output: Tensor) -> None:
        if not _all_finite([output]):
            layers.append(name)

    network = network_of(module)
    try:
        with torch.no_grad(), named_outputs(network, receive):
            network(batch[0])
    except Exception:
        return "no layer can be named, because batches are not (images, …)"
    if layers:
        return f"the output of {layers[0]} is the first that is not finite"
    return "the outputs of all layers are finite, only the loss is not"


def _all_finite(values: Iterable[Any]) -> bool:
    """Whether all dense floating-point tensors among `values` are finite; others are ignored."""
    return all(
        bool(torch.isfinite(value).all())
        for value in values
        if isinstance(value, Tensor) and value.is_floating_point() and value.layout == torch.strided
    )

"""Whether the layers are alive: activations over the validation images, gradients, updates."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from simplecnn.callbacks.activity import (
    LAYERS,
    Activity,
    ActivityMeter,
    gradient_norms,
    layers,
    merged,
    update_ratios,
)
from simplecnn.callbacks.history import History
from simplecnn.callbacks.image_callback import (
    SPLITS,
    ImageCallback,
    Picture,
    draws,
    gather,
    in_training,
    log_spaced,
    network_of,
    steps_per_epoch,
    watched_split,
)
from simplecnn.figures.health import health_figure
from simplecnn.models.activations import watched
from simplecnn.training.loggers import TensorBoard


class Health(ImageCallback):
    """Dead and always-on units, zeros, mean and spread of the outputs, gradients and updates.

    Outputs are those of all validation images, watched in the validation pass itself, after the
    first epoch, every `every_n_epochs` epochs, and the last. Gradients and updates are those of
    `early_steps` steps of the first epoch and of the last step of every epoch. The numbers are in
    `health_activity.npz` and `health_gradients.npz`, and with `scalars` also below `health/` in
    TensorBoard: there each of them is one more metric of the HPARAMS tab.
    """

    history = True

    def __init__(
        self,
        dirpath: str,
        early_steps: int = 6,
        every_n_epochs: int = 10,
        scalars: bool = False,
    ) -> None:
        super().__init__(dirpath, every_n_epochs)
        self.scalars = scalars
        self.early_steps = early_steps
        self.activity = History(self.dirpath / "health_activity.npz")
        self.gradients = History(self.dirpath / "health_gradients.npz")
        self._steps: frozenset[int] = frozenset()
        self._steps_per_epoch = 0
        self._before: list[Tensor] = []  # weights before the step that is looked at
        self._seen: list[tuple[int, Tensor, Tensor]] = []  # step, norms, ratios: not waited for yet
        self._meters: dict[str, ActivityMeter] = {}
        self._watching = ExitStack()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._steps_per_epoch = steps_per_epoch(trainer)
        if draws(trainer):
            self._steps = frozenset(log_spaced(self._steps_per_epoch, self.early_steps))
            for history in (self.activity, self.gradients):
                history.resume(trainer.global_step)
        super().on_train_start(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        step = trainer.global_step + 1
        if (step in self._steps or step % self._steps_per_epoch == 0) and draws(trainer):
            with self.timed():
                weights = [m.weight for m in layers(network_of(pl_module)).values()]
                self._before = [w.detach().clone() for w in weights]

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if self._before:
            with self.timed():
                found = layers(network_of(pl_module)).values()
                ratios = update_ratios(found, self._before)
                self._seen.append((trainer.global_step, gradient_norms(found), ratios))
                self._before = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with self.timed():
            for step, norms, ratios in self._seen:
                self.gradients.add(step, norm=norms.cpu().numpy(), update=ratios.cpu().numpy())
                row = self.gradients.rows[step]
                self._log(trainer, pl_module, step, gradient_norm=row["norm"], update=row["update"])
            if self._seen:
                self.gradients.save()
            self._seen = []
        super().on_train_epoch_end(trainer, pl_module)

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        epoch = trainer.current_epoch + 1
        # What only rank zero knows must not decide: all processes watch, or none does.
        first = epoch <= (trainer.check_val_every_n_epoch or 1)
        due = first or self.is_due(epoch) or epoch == trainer.max_epochs
        if due and dataloader_idx == 0 and in_training(trainer):
            network = network_of(pl_module)
            self._watching.enter_context(watched(network, self._receive, LAYERS))

    def on_validation_batch_end(self, *_: Any) -> None:
        self._watching.close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._watching.close()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._meters:
            return
        with self.timed():
            mine = {name: meter.result() for name, meter in self._meters.items()}
            self._meters = {}
            parts = gather(trainer, mine)
            if not draws(trainer):
                return
            names = [name for name in layers(network_of(pl_module)) if name in mine]
            found = [merged([part[name] for part in parts]) for name in names]
            rows = _rows(found)
            self.activity.add(trainer.global_step, **rows)
            self.activity.save()
            self._log(trainer, pl_module, trainer.global_step, **rows)

    def draw(self, trainer: Trainer, module: LightningModule, when: str) -> dict[str, Picture]:
        if not self.gradients.rows:
            return {}
        gradients, activity = self.gradients.arrays(), self.activity.arrays()
        title = f"Health of the layers, {when}"
        if len(activity["step"]):
            number = int(activity["num_images"][-1])
            title += f"; outputs on all {number:,} {SPLITS[watched_split(trainer)]} images"
        figure = health_figure(list(layers(network_of(module))), gradients, activity, title=title)
        return {"health": Picture(figure, gradients | activity)}

    def _log(self, trainer: Trainer, module: LightningModule, step: int, **values: Any) -> None:
        """A scalar a layer and quantity: `health/dead/conv1`."""
        if not self.scalars:
            return
        names = list(layers(network_of(module)))
        scalars = {
            f"health/{quantity}/{name}": float(value)
            for quantity, of_layers in values.items()
            if np.ndim(of_layers)
            for name, value in zip(names, of_layers, strict=True)
            if np.isfinite(value)
        }
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoard):
                logger.log_metrics(scalars, step)

    def _receive(self, name: str, output: Tensor) -> None:
        with self.timed():
            self._meters.setdefault(name, ActivityMeter()).add(output)


def _rows(found: Sequence[Activity]) -> dict[str, Any]:
    """The numbers of all layers, an array (layers,) each; NaN where they mean nothing."""
    no = float("nan")
    return {
        "dead": np.array([float(a.dead.float().mean()) if a.rectified else no for a in found]),
        "always_on": np.array(
            [float(a.always_on.float().mean()) if a.rectified else no for a in found]
        ),
        "dead_channels": np.array(
            [int(a.dead_channels.sum()) if a.rectified else no for a in found]
        ),
        "zeros": np.array([a.zeros for a in found]),
        "mean": np.array([a.mean for a in found]),
        "std": np.array([a.std for a in found]),
        "num_images": np.array(found[0].num_images),
    }

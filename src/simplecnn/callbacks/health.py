"""Figure of each layer's health: activations on validation images, gradients, updates."""

from contextlib import ExitStack
from typing import Any

import numpy as np
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from simplecnn.callbacks.image_callback import (
    Figures,
    History,
    ImageCallback,
    in_training,
    log_spaced,
    should_draw,
    split_name,
    steps_per_epoch,
)
from simplecnn.figures.health import health_figure
from simplecnn.models.activations import capture_activations, network_of
from simplecnn.models.activity import (
    LAYERS,
    ActivityMeter,
    gradient_norms,
    measured_layers,
    update_ratios,
)

MAX_IMAGES = 1_000  # measured per validation pass, rounded up to whole batches


class Health(ImageCallback):
    """Draw dead and always-on units, zeros, mean and spread of outputs, gradients and updates.

    Outputs are measured in every validation pass, on the first thousand images of rank zero; of a
    layer that is called several times, those of the first call. Gradients and updates are measured
    at `early_steps` steps of the first epoch and at the last step of every epoch. The values are
    saved in `health_activity.npz` and `health_gradients.npz`.
    """

    cumulative = True

    def __init__(self, dirpath: str, early_steps: int = 6, every_n_epochs: int = 10) -> None:
        super().__init__(dirpath, every_n_epochs)
        self.early_steps = early_steps
        self._step = 0  # the last measured step
        self._before: list[Tensor] = []  # the weights before it
        self._measured: list[tuple[int, Tensor, Tensor]] = []  # step, norms, ratios (on the device)
        self._meters: dict[str, ActivityMeter] = {}
        self._received: set[str] = set()  # the layers whose output in this batch is measured
        self._watching = ExitStack()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._steps_per_epoch = steps_per_epoch(trainer)
        self._early = log_spaced(self._steps_per_epoch, self.early_steps)
        self.activity = History(self.dirpath / "health_activity.npz", trainer.global_step)
        self.gradients = History(self.dirpath / "health_gradients.npz", trainer.global_step)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        step = trainer.global_step + 1
        is_measured = step in self._early or step % self._steps_per_epoch == 0
        if is_measured and step != self._step and should_draw(trainer):
            self._step = step
            weights = [m.weight for m in measured_layers(network_of(pl_module)).values()]
            self._before = [w.detach().clone() for w in weights]

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if self._before and trainer.global_step == self._step:  # False while gradients accumulate
            modules = measured_layers(network_of(pl_module)).values()
            ratios = update_ratios(modules, self._before)
            self._measured.append((self._step, gradient_norms(modules), ratios))
            self._before = []

    def epoch_done(self, trainer: Trainer, module: LightningModule, *, is_last: bool) -> None:
        for step, norms, ratios in self._measured:
            self.gradients.add(step, norm=norms.cpu().numpy(), update=ratios.cpu().numpy())
        if self._measured:
            self.gradients.save()
        self._measured = []
        super().epoch_done(trainer, module, is_last=is_last)

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        num_images = next((meter.num_images for meter in self._meters.values()), 0)
        is_watched = dataloader_idx == 0 and num_images < MAX_IMAGES
        if is_watched and in_training(trainer) and should_draw(trainer):
            self._received = set()
            self._watching.enter_context(
                capture_activations(network_of(pl_module), self._receive, LAYERS)
            )

    def on_validation_batch_end(self, *_: Any) -> None:
        self._watching.close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._watching.close()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._meters:
            return
        layers = measured_layers(network_of(pl_module))
        results = {layer: meter.result() for layer, meter in self._meters.items()}
        first = next(iter(results))
        rows = {  # NaN for a layer that is not called in validation
            name: [results.get(n, {}).get(name, np.nan) for n in layers] for name in results[first]
        }
        self.activity.add(trainer.global_step, **rows, num_images=self._meters[first].num_images)
        self.activity.save()
        self._meters = {}

    def draw(self, trainer: Trainer, module: LightningModule, when: str) -> Figures:
        if not self.gradients.rows:
            return
        gradients, activity = self.gradients.arrays(), self.activity.arrays()
        title = f"Health of the layers, {when}"
        if self.activity.rows:
            number = int(activity["num_images"][-1])
            title += f"; outputs on {number:,} {split_name(trainer)} images"
        figure = health_figure(
            list(measured_layers(network_of(module))), gradients, activity, title=title
        )
        yield "health", figure, {}

    def _receive(self, name: str, output: Tensor) -> None:
        if name in self._received:  # a layer that is called again, maybe on maps of another size
            return
        self._received.add(name)
        self._meters.setdefault(name, ActivityMeter()).add(output)

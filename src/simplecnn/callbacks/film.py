"""A film of the filters while they are learned."""

from typing import Any

from pytorch_lightning import LightningModule, Trainer

from simplecnn.callbacks.history import History
from simplecnn.callbacks.images import (
    ImageCallback,
    Picture,
    epochs_done,
    log_spaced,
    looks,
    select_layers,
)
from simplecnn.figures.film import film_figure
from simplecnn.models.activations import convolutions
from simplecnn.models.classifier import steps_per_epoch


class Film(ImageCallback):
    """The filters of the first convolution, or of the `layers` named, from the start to the end.

    They are recorded before the first step, at `early_steps` steps of the first epoch, spaced
    like logarithms, and after every epoch, from the 100th on after every tenth, from the 1,000th on
    after every hundredth, and the last; `film_<layer>.npz` holds every recorded moment. The picture
    is drawn after every `every_n_epochs` epochs and at the end.
    """

    history = True

    def __init__(
        self,
        dirpath: str,
        layers: str | list[str] = "first",
        early_steps: int = 6,
        every_n_epochs: int = 10,
    ) -> None:
        super().__init__(dirpath, every_n_epochs)
        self.layers = layers
        self.early_steps = early_steps
        self.histories: dict[str, History] = {}
        self._steps: frozenset[int] = frozenset()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        names = select_layers(list(convolutions(pl_module.network)), self.layers)
        if stage == "fit":
            self.histories = {n: History(self.dirpath / f"film_{n}.npz") for n in names}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not looks(trainer):
            return
        with self.timed():
            self._steps = frozenset(log_spaced(steps_per_epoch(trainer), self.early_steps))
            for history in self.histories.values():
                history.resume(trainer.global_step)
            if not all(history.rows for history in self.histories.values()):
                self._record(trainer, pl_module, epochs_done(trainer))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.between_steps(trainer, pl_module)

    def between_steps(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.global_step in self._steps and looks(trainer):
            with self.timed():
                self._record(trainer, module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        is_last = epoch == trainer.max_epochs or trainer.should_stop
        if looks(trainer) and (is_last or is_moment(epoch)):
            with self.timed():
                self._record(trainer, pl_module, epoch)
        super().on_train_epoch_end(trainer, pl_module)

    def draw(self, trainer: Trainer, module: LightningModule, when: str) -> dict[str, Picture]:
        pictures = {}
        for name, history in self.histories.items():
            arrays = history.arrays()
            moments = [
                _moment(step, epoch)
                for step, epoch in zip(
                    arrays["step"].tolist(), arrays["epoch"].tolist(), strict=True
                )
            ]
            figure = film_figure(
                arrays["weights"], moments, title=f"Learning film of {name}, {when}"
            )
            pictures[f"film_{name}"] = Picture(figure, arrays)
        return pictures

    def _record(self, trainer: Trainer, module: LightningModule, epoch: int = -1) -> None:
        """Keep the weights of now; `epoch` finished epochs, or -1 within one."""
        found = convolutions(module.network)
        for name, history in self.histories.items():
            weights = found[name].weight.detach().float().cpu().numpy().copy()
            history.add(trainer.global_step, epoch=epoch, weights=weights)
            history.save()


def is_moment(epoch: int) -> bool:
    """Whether the film has a moment at the end of an epoch, counted from 1."""
    return epoch % 10 ** max(0, len(str(epoch)) - 2) == 0


def _moment(step: int, epoch: int) -> str:
    if step == 0:
        return "start"
    return f"step\n{step}" if epoch < 0 else f"epoch\n{epoch}"

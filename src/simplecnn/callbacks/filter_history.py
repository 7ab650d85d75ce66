"""The filters from the first step to the last, in one picture."""

from pytorch_lightning import LightningModule, Trainer

from simplecnn.callbacks.history import History
from simplecnn.callbacks.image_callback import (
    ImageCallback,
    Picture,
    draws,
    log_spaced,
    network_of,
    select_layers,
    steps_per_epoch,
)
from simplecnn.figures.filter_history import filter_history_figure
from simplecnn.models.activations import convolutions


class FilterHistory(ImageCallback):
    """The filters of the first convolution, or of the `layers` named, while they are learned.

    They are recorded before the first step, at `early_steps` steps of the first epoch, on a
    logarithmic scale, and after every epoch, from the 100th on after every tenth, from the 1,000th
    on after every hundredth, and the last; `filter_history_<layer>.npz` holds every moment.
    The picture is drawn after every `every_n_epochs` epochs and at the end.
    """

    cumulative = True

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
        self._early: frozenset[int] = frozenset()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        names = select_layers(list(convolutions(network_of(pl_module))), self.layers)
        if stage == "fit":
            self.histories = {n: History(self.dirpath / f"filter_history_{n}.npz") for n in names}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._early = frozenset(log_spaced(steps_per_epoch(trainer), self.early_steps))
        for history in self.histories.values():
            history.resume(trainer.global_step)
        if not all(history.rows for history in self.histories.values()):
            self._record(trainer, pl_module, trainer.current_epoch)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: object
    ) -> None:
        if trainer.global_step in self._early:
            self._record(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        is_last = epoch == trainer.max_epochs or trainer.should_stop
        if is_last or is_moment(epoch):
            self._record(trainer, pl_module, epoch)
        super().on_train_epoch_end(trainer, pl_module)

    def draw(self, trainer: Trainer, module: LightningModule, when: str) -> dict[str, Picture]:
        pictures = {}
        for name, history in self.histories.items():
            arrays = history.arrays()
            moments = list(map(_moment, arrays["step"].tolist(), arrays["epoch"].tolist()))
            title = f"Filters of {name} while they were learned, {when}"
            figure = filter_history_figure(arrays["weights"], moments, title=title)
            pictures[f"filter_history_{name}"] = Picture(figure, arrays)
        return pictures

    def _record(self, trainer: Trainer, module: LightningModule, epoch: int = -1) -> None:
        """Add the present weights after `epoch` epochs; -1 within one."""
        if not draws(trainer):
            return
        with self.timed():
            layers = convolutions(network_of(module))
            for name, history in self.histories.items():
                weights = layers[name].weight.detach().float().cpu().numpy().copy()
                history.add(trainer.global_step, epoch=epoch, weights=weights)
                history.save()


def is_moment(epoch: int) -> bool:
    """Whether the filters are recorded at the end of an epoch, counted from 1."""
    return epoch % 10 ** max(0, len(str(epoch)) - 2) == 0


def _moment(step: int, epoch: int) -> str:
    if step == 0:
        return "start"
    return f"step\n{step}" if epoch < 0 else f"epoch\n{epoch}"

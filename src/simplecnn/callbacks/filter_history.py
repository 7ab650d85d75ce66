"""The filters from the first step to the last, in one picture."""

from pytorch_lightning import LightningModule, Trainer

from simplecnn.callbacks.image_callback import (
    History,
    LayerCallback,
    Picture,
    draws,
    log_spaced,
    steps_per_epoch,
)
from simplecnn.figures.filter_history import filter_history_figure


class FilterHistory(LayerCallback):
    """The filters of convolutions, while they are learned.

    They are recorded before the first step, at `early_steps` steps of the first epoch, on a
    logarithmic scale, and after every epoch, from the 100th on after every tenth, from the 1,000th
    on after every hundredth, and the last; `filter_history_<layer>.npz` holds every moment.
    """

    cumulative = True

    def __init__(
        self,
        dirpath: str,
        layers: str | list[str] = "first",
        early_steps: int = 6,
        every_n_epochs: int = 10,
    ) -> None:
        super().__init__(dirpath, layers, every_n_epochs)
        self.early_steps = early_steps
        self.histories: dict[str, History] = {}
        self._early: list[int] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._early = log_spaced(steps_per_epoch(trainer), self.early_steps)
        self.histories = {
            name: History(self.dirpath / f"filter_history_{name}.npz", trainer.global_step)
            for name in self.chosen(pl_module)
        }
        if not all(history.rows for history in self.histories.values()):
            self._record(trainer, pl_module, trainer.current_epoch)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: object
    ) -> None:
        if trainer.global_step in self._early:
            self._record(trainer, pl_module, epoch=-1)

    def epoch_done(self, trainer: Trainer, module: LightningModule, *, is_last: bool) -> None:
        if is_last or is_moment(trainer.current_epoch):
            self._record(trainer, module, trainer.current_epoch)
        super().epoch_done(trainer, module, is_last=is_last)

    def draw(self, trainer: Trainer, module: LightningModule, when: str) -> dict[str, Picture]:
        pictures = {}
        for name, history in self.histories.items():
            arrays = history.arrays()
            moments = list(map(_moment, arrays["step"].tolist(), arrays["epoch"].tolist()))
            title = f"Filters of {name} while they were learned, {when}"
            figure = filter_history_figure(arrays["weights"], moments, title=title)
            pictures[f"filter_history_{name}"] = Picture(figure, {})
        return pictures

    def _record(self, trainer: Trainer, module: LightningModule, epoch: int) -> None:
        """Add the present weights after `epoch` epochs; -1 within one."""
        if not draws(trainer):
            return
        for name, layer in self.chosen(module).items():
            weights = layer.weight.detach().float().cpu().numpy().copy()
            self.histories[name].add(trainer.global_step, epoch=epoch, weights=weights)
            self.histories[name].save()


def is_moment(epoch: int) -> bool:
    """Whether the filters are recorded at the end of an epoch, counted from 1."""
    return epoch % 10 ** max(0, len(str(epoch)) - 2) == 0


def _moment(step: int, epoch: int) -> str:
    if step == 0:
        return "start"
    return f"step\n{step}" if epoch < 0 else f"epoch\n{epoch}"

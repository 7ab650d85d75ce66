"""Figure of the filters throughout training."""

from pytorch_lightning import LightningModule, Trainer

from simplecnn.callbacks.image_callback import (
    Figures,
    History,
    LayerCallback,
    log_spaced,
    should_draw,
    steps_per_epoch,
)
from simplecnn.figures.filter_history import filter_history_figure
from simplecnn.models.activations import network_of, reads_color


class FilterHistory(LayerCallback):
    """Draw snapshots of the filters of convolutions from the first step to the last.

    Snapshots are taken before the first step, at `early_steps` log-spaced steps of the first epoch,
    and after every epoch (from epoch 100 on after every 10th, from epoch 1,000 on after every
    100th) including the last. `filter_history_<layer>.npz` holds all of them.
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
            for name in self.selected(pl_module)
        }
        if not all(history.rows for history in self.histories.values()):
            self._record(trainer, pl_module, trainer.current_epoch)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: object
    ) -> None:
        if trainer.global_step in self._early:
            self._record(trainer, pl_module, epoch=-1)

    def epoch_done(self, trainer: Trainer, module: LightningModule, *, is_last: bool) -> None:
        if is_last or is_snapshot_epoch(trainer.current_epoch):
            self._record(trainer, module, trainer.current_epoch)
        super().epoch_done(trainer, module, is_last=is_last)

    def draw(self, trainer: Trainer, module: LightningModule, when: str) -> Figures:
        for name, layer in self.selected(module).items():
            arrays = self.histories[name].arrays()
            labels = list(map(_label, arrays["step"].tolist(), arrays["epoch"].tolist()))
            title = f"Filters of {name} during training, {when}"
            figure = filter_history_figure(
                arrays["weights"],
                labels,
                title=title,
                in_color=reads_color(network_of(module), layer),
            )
            yield f"filter_history_{name}", figure, {}

    def _record(self, trainer: Trainer, module: LightningModule, epoch: int) -> None:
        """Add a snapshot; `epoch` is the number of finished epochs, or -1 within an epoch."""
        if not should_draw(trainer):
            return
        for name, layer in self.selected(module).items():
            weights = layer.weight.detach().float().cpu().numpy().copy()
            self.histories[name].add(trainer.global_step, epoch=epoch, weights=weights)
            self.histories[name].save()


def is_snapshot_epoch(epoch: int) -> bool:
    """Whether a snapshot is taken after this epoch, counted from 1."""
    return epoch % 10 ** max(0, len(str(epoch)) - 2) == 0


def _label(step: int, epoch: int) -> str:
    if step == 0:
        return "start"
    return f"step\n{step}" if epoch < 0 else f"epoch\n{epoch}"

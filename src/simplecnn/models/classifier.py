"""The LightningModule: a network, its loss, its metrics, its optimizer."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from simplecnn.config.build import build, find_class
from simplecnn.errors import RunError
from simplecnn.models.metrics import LossAndAccuracy

Config = Mapping[str, Any]
Batch = tuple[Tensor, Tensor]
ADAM: Config = {"_target_": "torch.optim.Adam", "lr": 1e-3}
STAGES = ("train/", "val/", "test/")


class Classifier(pl.LightningModule):
    """Any network from images (N, C, H, W) to logits (N, num_classes), trained by cross-entropy.

    `network`, `optimizer` and `scheduler` are configurations, plain dicts with a `_target_`, not
    objects: a checkpoint holds them and is enough to build the network again
    (`Classifier.load_from_checkpoint(path)`).

    scheduler_interval: whether the scheduler steps once an `epoch` or once a `step`.
    scheduler_monitor: the metric that ReduceLROnPlateau waits for.
    class_weights: how much an image of each class counts in the loss; None: all the same. The
        configuration says `balanced` instead: inversely to how many images it trains on. With
        weights, the mean accuracy of the classes is logged too (`macro_acc`).
    compile: whether torch.compile compiles the network, or the mode in which it does:
        `reduce-overhead` (CUDA graphs), `max-autotune`.

    Logs loss and accuracy (`acc`, 0 to 1) of `train/`, `val/` and `test/`, once an epoch. A
    subclass gives another `self.loss` (logits, labels), or more metrics by `configure_metrics`.
    """

    def __init__(
        self,
        network: Config,
        optimizer: Config = ADAM,
        scheduler: Config | None = None,
        *,
        scheduler_interval: Literal["epoch", "step"] = "epoch",
        scheduler_monitor: str | None = None,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
        compile: bool | str = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.network: nn.Module = build(network)
        if compile:  # in place: the keys of a checkpoint stay the same
            self.network.compile(mode=None if compile is True else compile)
        weight = None if class_weights is None else torch.tensor(class_weights)
        self.loss: nn.Module = nn.CrossEntropyLoss(weight, label_smoothing=label_smoothing)
        self.means: Any = nn.ModuleDict({stage: LossAndAccuracy() for stage in STAGES})
        self.metrics: Any = nn.ModuleDict()
        for stage in STAGES:
            metrics: dict[str, Any] = self.configure_metrics()
            if class_weights is not None:
                metrics["macro_acc"] = MulticlassAccuracy(len(class_weights), average="macro")
            self.metrics[stage] = MetricCollection(metrics, compute_groups=False)

    def configure_metrics(self) -> dict[str, Metric]:
        """Further metrics of (logits, labels) by name; called once for each stage."""
        return {}

    def setup(self, stage: str) -> None:
        for module in self.modules():
            if isinstance(module, Metric):  # spawned processes share the memory of the first sums
                module.reset()

    @property
    def lr(self) -> float:
        """The learning rate of the optimizer, which Lightning's LearningRateFinder sets."""
        return self.hparams["optimizer"]["lr"]

    @lr.setter
    def lr(self, value: float) -> None:
        self.hparams["optimizer"] = {**self.hparams["optimizer"], "lr": value}

    def forward(self, images: Tensor) -> Tensor:
        # Channels last in memory, and all layers follow: on a CPU they are 1.4 times as fast. Not
        # the weights, which torch's pruning takes to be contiguous.
        return self.network(images.clone(memory_format=torch.channels_last))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss, _ = self._step(batch, "train/")
        return loss

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """The logits (N, num_classes), for callbacks to look at."""
        stages = self._validation_stages()
        if dataloader_idx >= len(stages):
            raise RunError(
                f"The data have more validation loaders than the stages {', '.join(stages)}, which "
                f"Classifier logs: give one loader, or write a LightningModule of your own."
            )
        _, logits = self._step(batch, stages[dataloader_idx])
        return logits

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, "test/")

    def _step(self, batch: Batch, stage: str) -> tuple[Tensor, Tensor]:
        images, labels = batch
        logits = self(images)
        loss = self.loss(logits, labels)
        self.means[stage].update(loss, logits, labels)
        self.metrics[stage].update(logits, labels)
        return loss, logits

    def _validation_stages(self) -> list[str]:
        """What each validation loader holds: our data may run the test set along, as a second."""
        names = getattr(self.trainer.datamodule, "validation_stages", ("val",))
        return [f"{name}/" for name in names]

    # Metrics are logged when the epoch ends: self.log in each step costs up to a millisecond.

    def on_train_epoch_end(self) -> None:
        self._log("train/")

    def on_validation_epoch_end(self) -> None:
        for stage in self._validation_stages():
            self._log(stage)

    def on_test_epoch_end(self) -> None:
        self._log("test/")

    def _log(self, stage: str) -> None:
        if not self.means[stage].update_called:  # by a subclass with a step of its own
            return
        for metrics in (self.means[stage], self.metrics[stage]):
            values = {f"{stage}{key}": value for key, value in metrics.compute().items()}
            self.log_dict(values, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)
            metrics.reset()

    def configure_optimizers(self) -> Any:
        optimizer = build(self.hparams["optimizer"], _partial_=True)(self.network.parameters())
        if not self.hparams["scheduler"]:
            return optimizer
        scheduler = dict(self.hparams["scheduler"])
        if "total_steps" in inspect.signature(find_class(scheduler["_target_"])).parameters:
            scheduler.setdefault("total_steps", int(self.trainer.estimated_stepping_batches))
        monitor = self.hparams["scheduler_monitor"]
        # A metric of the validation is there only after epochs with one.
        waits = monitor and not monitor.startswith("train/")
        return {
            "optimizer": optimizer,
            "lr_scheduler": {
                "scheduler": build(scheduler, _partial_=True)(optimizer),
                "interval": self.hparams["scheduler_interval"],
                "monitor": monitor,
                "frequency": (self.trainer.check_val_every_n_epoch or 1) if waits else 1,
            },
        }

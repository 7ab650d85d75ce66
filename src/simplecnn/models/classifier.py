"""The LightningModule: a network with its loss, metrics, optimizer and learning rate schedule."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from simplecnn.config.build import build
from simplecnn.config.targets import find_class
from simplecnn.models.metrics import LossAndAccuracy, MacroAccuracy

Config = Mapping[str, Any]
Batch = tuple[Tensor, Tensor]
ADAM: Config = {"_target_": "torch.optim.Adam", "lr": 1e-3}
STAGES = ("train/", "val/", "test/")  # with a slash: nn.ModuleDict rejects the key "train"


class Classifier(pl.LightningModule):
    """Train a network from images (N, C, H, W) to logits (N, num_classes) by cross-entropy.

    `network`, `optimizer` and `scheduler` are configurations, plain dicts with a `_target_`, which
    are saved as hyperparameters: a checkpoint is enough to rebuild the network, by
    `Classifier.load_from_checkpoint(path)`.

    Loss and accuracy (`acc`, 0 to 1) are logged once per epoch, as `train/loss`, `val/acc` and so
    on; those of a second data loader as `val/dataloader_idx_1/loss`. Subclasses may assign another
    `self.loss`, a module called with (logits, labels), and add metrics in `configure_metrics`.

    Args:
        scheduler_interval: step the scheduler every `epoch` or every `step`.
        scheduler_monitor: the metric that ReduceLROnPlateau monitors.
        class_weights: the weight of each class in the loss; None weights all classes equally. If
            given, the macro accuracy (`macro_acc`), the mean over classes, is logged too. Each of
            several processes divides by the weights of its own images.
        compile: compile the network by torch.compile; a string is its mode, such as
            `reduce-overhead` (CUDA graphs) or `max-autotune`.
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
        if compile:  # in place, which leaves the keys of the state dict unchanged
            self.network.compile(mode=None if compile is True else compile)
        weight = None if class_weights is None else torch.tensor(class_weights).float()
        self.loss: nn.Module = nn.CrossEntropyLoss(weight, label_smoothing=label_smoothing)
        self._num_weights = None if class_weights is None else len(class_weights)
        self.loss_and_accuracy: Any = nn.ModuleDict()
        self.metrics: Any = nn.ModuleDict()
        for stage in STAGES:
            self._add_metrics(stage)

    def configure_metrics(self) -> dict[str, Metric]:
        """Return additional metrics of (logits, labels) by name; called once per stage."""
        return {}

    def _add_metrics(self, stage: str) -> None:
        metrics: dict[str, Any] = self.configure_metrics()
        if self._num_weights is not None:
            metrics["macro_acc"] = MacroAccuracy(self._num_weights)
        self.loss_and_accuracy[stage] = LossAndAccuracy().to(self.device)
        self.metrics[stage] = MetricCollection(metrics, compute_groups=False).to(self.device)

    def setup(self, stage: str) -> None:
        # Spawned processes share the memory of the initial metric states: reset allocates new ones.
        for module in self.modules():
            if isinstance(module, Metric):
                module.reset()

    @property
    def lr(self) -> float:
        """The learning rate of the optimizer, which Lightning's LearningRateFinder sets."""
        return self.hparams["optimizer"]["lr"]

    @lr.setter
    def lr(self, value: float) -> None:
        self.hparams["optimizer"] = {**self.hparams["optimizer"], "lr": value}

    def forward(self, images: Tensor) -> Tensor:
        # All layers follow the memory format of their input; channels-last is 1.4 times as fast on
        # a CPU. Weights stay contiguous, as torch.nn.utils.prune expects them.
        return self.network(images.clone(memory_format=torch.channels_last))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss, _ = self._step(batch, "train/")
        return loss

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Return the logits (N, num_classes), which callbacks receive."""
        # The data modules of simplecnn may serve the test set as the second loader.
        names = getattr(self.trainer.datamodule, "validation_stages", ("val",))
        _, logits = self._step(batch, self._stage(names, dataloader_idx))
        return logits

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._step(batch, self._stage(("test",), dataloader_idx))

    def _stage(self, names: Sequence[str], dataloader_idx: int) -> str:
        """The stage of a loader: that of its name, or of its number if there are fewer names."""
        if dataloader_idx < len(names):
            return f"{names[dataloader_idx]}/"
        stage = f"{names[0]}/dataloader_idx_{dataloader_idx}/"
        if stage not in self.metrics:
            self._add_metrics(stage)
        return stage

    def _step(self, batch: Batch, stage: str) -> tuple[Tensor, Tensor]:
        images, labels = batch
        logits = self(images)
        loss = self.loss(logits, labels)
        weighted = isinstance(self.loss, nn.CrossEntropyLoss)
        weights = self.loss.weight if weighted else None
        self.loss_and_accuracy[stage].update(loss, logits, labels, weights)
        self.metrics[stage].update(logits, labels)
        return loss, logits

    # Metrics are logged at the end of the epoch: self.log in every step costs up to 1 ms.

    def on_train_epoch_end(self) -> None:
        self._log("train/")

    def on_validation_epoch_end(self) -> None:
        for stage in self.metrics:
            if stage != "train/":
                self._log(stage)

    on_test_epoch_end = on_validation_epoch_end

    def _log(self, stage: str) -> None:
        if not self.loss_and_accuracy[stage].update_called:
            return  # this loop has no such loader, or a subclass overrides the step
        for metrics in (self.loss_and_accuracy[stage], self.metrics[stage]):
            values = {f"{stage}{key}": value for key, value in metrics.compute().items()}
            self.log_dict(values, batch_size=1, sync_dist=True, add_dataloader_idx=False)
            metrics.reset()

    def configure_optimizers(self) -> Any:
        optimizer = build(self.hparams["optimizer"], _partial_=True)(self.network.parameters())
        if not self.hparams["scheduler"]:
            return optimizer
        scheduler = dict(self.hparams["scheduler"])
        if "total_steps" in inspect.signature(find_class(scheduler["_target_"])).parameters:
            scheduler.setdefault("total_steps", int(self.trainer.estimated_stepping_batches))
        monitor = self.hparams["scheduler_monitor"]
        frequency = 1
        if monitor and not monitor.startswith("train/"):
            # Validation metrics exist only after epochs with a validation.
            frequency = self.trainer.check_val_every_n_epoch or 1
        return {
            "optimizer": optimizer,
            "lr_scheduler": {
                "scheduler": build(scheduler, _partial_=True)(optimizer),
                "interval": self.hparams["scheduler_interval"],
                "monitor": monitor,
                "frequency": frequency,
            },
        }

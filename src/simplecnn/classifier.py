"""The LightningModule: a network, its loss, its metrics, its optimizer."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import Metric

from simplecnn.targets import build, signature

Config = Mapping[str, Any]
ADAM: Config = {"_target_": "torch.optim.Adam", "lr": 1e-3}


class Classifier(pl.LightningModule):
    """Any network from images (N, C, H, W) to logits (N, num_classes), trained by cross-entropy.

    `network`, `optimizer` and `scheduler` are configurations, plain dicts with a `_target_`, not
    objects: a checkpoint holds them and is enough to build the network again
    (`Classifier.load_from_checkpoint(path)`).

    Logs loss and accuracy (`acc`, 0 to 1) of `train/`, `val/` and `test/`, once an epoch.
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
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        # Channels last in memory: convolution and pooling on the CPU are 1.4 times as fast.
        self.network: nn.Module = build(network).to(memory_format=torch.channels_last)
        if compile:
            self.network.compile()  # in place: the keys of a checkpoint stay the same
        self.loss = partial(functional.cross_entropy, label_smoothing=label_smoothing)
        self.metrics = nn.ModuleDict({f"{s}_metrics": LossAndAccuracy() for s in STAGES})

    @property
    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.network.parameters())

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    def setup(self, stage: str) -> None:
        # Lightning's automatic optimization costs half a millisecond a step. It is left to it
        # where the Trainer is asked for what only it does.
        trainer = self.trainer
        self.automatic_optimization = bool(
            trainer.gradient_clip_val
            or trainer.accumulate_grad_batches != 1
            or trainer.precision not in ("32-true", "bf16-mixed", "bf16-true", "64-true")
        )

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss, _ = self._step(batch, "train")
        if not self.automatic_optimization:
            self._optimize(loss)
        if self.trainer.is_last_batch:  # now, so that callbacks see it at the end of the epoch
            self._log("train")
        return loss

    def _optimize(self, loss: Tensor) -> None:
        """What Lightning does after a training step, with the bare optimizer."""
        optimizer = self.optimizers()
        optimizer.optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer._on_before_step()  # Lightning counts the steps
        optimizer.optimizer.step()
        optimizer._on_after_step()
        if self.hparams["scheduler"] and self.hparams["scheduler_interval"] == "step":
            self.lr_schedulers().step()

    def on_train_epoch_end(self) -> None:
        scheduler = self.hparams["scheduler"]
        if self.automatic_optimization or not scheduler:
            return
        if self.hparams["scheduler_interval"] == "epoch":
            monitor = self.hparams["scheduler_monitor"]
            metric = () if monitor is None else (self.trainer.callback_metrics[monitor],)
            self.lr_schedulers().step(*metric)

    def validation_step(
        self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> Tensor:
        """The logits (N, num_classes), for callbacks to look at."""
        stages = getattr(self.trainer.datamodule, "validation_stages", ("val",))
        return self._step(batch, stages[dataloader_idx])[1]

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._step(batch, "test")

    def on_validation_epoch_end(self) -> None:
        for stage in getattr(self.trainer.datamodule, "validation_stages", ("val",)):
            self._log(stage)

    def on_test_epoch_end(self) -> None:
        self._log("test")

    def configure_optimizers(self) -> Any:
        optimizer = build(self.hparams["optimizer"], _partial_=True)(self.network.parameters())
        scheduler: Config | None = self.hparams["scheduler"]
        if not scheduler:
            return optimizer
        lasts = {}
        accepted = signature(scheduler["_target_"])
        if accepted and "total_steps" in accepted.parameters:
            lasts["total_steps"] = int(self.trainer.estimated_stepping_batches)
        entry = {"scheduler": build({**lasts, **scheduler}, _partial_=True)(optimizer)}
        if self.automatic_optimization:  # else we step it ourselves
            entry["interval"] = self.hparams["scheduler_interval"]
            entry["monitor"] = self.hparams["scheduler_monitor"]
        return {"optimizer": optimizer, "lr_scheduler": entry}

    def _step(self, batch: tuple[Tensor, Tensor], stage: str) -> tuple[Tensor, Tensor]:
        images, labels = batch
        logits = self.network(images)
        loss = self.loss(logits, labels)
        self._metrics(stage).update(loss.detach(), logits.detach(), labels)
        return loss, logits

    def _metrics(self, stage: str) -> "LossAndAccuracy":
        metrics = self.metrics[f"{stage}_metrics"]
        assert isinstance(metrics, LossAndAccuracy)
        return metrics

    def _log(self, stage: str) -> None:
        metrics = self._metrics(stage)
        values = metrics.compute()
        metrics.reset()
        self.log_dict(
            {f"{stage}/{name}": value for name, value in values.items()},
            on_step=False,
            on_epoch=True,
            batch_size=1,
            sync_dist=True,
        )


STAGES = ("train", "val", "test")


class LossAndAccuracy(Metric):
    """Mean loss and accuracy over all images seen, summed on the device: no wait in a step."""

    full_state_update = False
    loss_sum: Tensor
    num_correct: Tensor
    num_images: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("loss_sum", "num_correct", "num_images"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: its mean loss, its logits (N, num_classes), its labels (N,)."""
        # In place: an assignment to an attribute of a module costs more than the addition.
        self.loss_sum.add_(loss, alpha=len(labels))
        self.num_correct.add_((logits.argmax(1) == labels).sum())
        self.num_images.add_(len(labels))

    def compute(self) -> dict[str, Tensor]:
        return {
            "loss": (self.loss_sum / self.num_images).float(),
            "acc": (self.num_correct / self.num_images).float(),
        }

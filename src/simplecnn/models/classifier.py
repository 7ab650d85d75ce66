"""The LightningModule: a network, its loss, its metrics, its optimizer."""

import atexit
import gc
import inspect
import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import Metric

from simplecnn.config.build import build, find_class
from simplecnn.config.devices import num_cuda_devices
from simplecnn.errors import InputError
from simplecnn.models.cores import Cores, can_split
from simplecnn.models.cuda_graph import GraphedStep
from simplecnn.models.simple_cnn import SimpleCNN

if not num_cuda_devices():
    # Set by Lightning. Every step of an optimizer would look for NVIDIA's driver: 0.3 ms.
    os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)

log = logging.getLogger(__name__)
Config = Mapping[str, Any]
ADAM: Config = {"_target_": "torch.optim.Adam", "lr": 1e-3}


class Classifier(pl.LightningModule):
    """Any network from images (N, C, H, W) to logits (N, num_classes), trained by cross-entropy.

    `network`, `optimizer` and `scheduler` are configurations, plain dicts with a `_target_`, not
    objects: a checkpoint holds them and is enough to build the network again
    (`Classifier.load_from_checkpoint(path)`).

    With `split_batch`, on a CPU, each core computes its share of a training batch (`cores`), where
    that gives the same numbers to rounding and nobody asks Lightning for more: neither mixed
    precision nor clipping nor accumulation, no callback that looks at gradients, one process.

    With `blocked_layout`, on a CPU, a SimpleCNN trains in oneDNN's own layout of memory
    (`network`), under the same conditions, to rounding as well.

    With `cuda_graph`, on CUDA, the whole step is captured in a graph and replayed (`cuda_graph`).

    Where the data module gives batches of several steps (`steps_together`), `training_step` takes
    them one after the other, and calls `between_steps(trainer, module)` of the callbacks that have
    it between two of them. With "auto", STEPS_TOGETHER of them make a batch, unless the Trainer is
    asked to count batches.

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
        split_batch: bool = True,
        blocked_layout: bool = True,
        cuda_graph: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        # Channels last in memory: convolution and pooling on the CPU are 1.4 times as fast.
        self.network: nn.Module = build(network).to(memory_format=torch.channels_last)
        if compile:
            self.network.compile()  # in place: the keys of a checkpoint stay the same
        self.loss = partial(functional.cross_entropy, label_smoothing=label_smoothing)
        self.cores: Cores | None = None
        self.graph: GraphedStep | None = None
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []  # loss, logits, labels of late steps
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
        if trainer.world_size > 1:
            atexit.register(leave_group)
        self.automatic_optimization = bool(
            trainer.gradient_clip_val
            or trainer.accumulate_grad_batches != 1
            or trainer.precision not in ("32-true", "bf16-mixed", "bf16-true", "64-true")
        )
        datamodule = trainer.datamodule
        if getattr(datamodule, "steps_together", None) == "auto":
            alone = self.automatic_optimization or trainer.world_size > 1 or counts_batches(trainer)
            datamodule.steps_in_batch = 1 if alone else STEPS_TOGETHER
        if not self._images_per_step():
            return
        if self.automatic_optimization:
            raise InputError(
                "data.steps_together is more than 1: Lightning clips and accumulates gradients of "
                "one step a batch only. Type data.steps_together=1."
            )
        if trainer.world_size > 1:
            raise InputError(
                f"data.steps_together is more than 1: {trainer.world_size} processes take one "
                "step a batch. Type data.steps_together=1."
            )

    def on_fit_start(self) -> None:
        self._seen.clear()
        keep_freed_memory()
        # What `manual_backward` adds costs a fifth of a millisecond, mostly where nothing is asked.
        trainer = self.trainer
        exact = trainer.precision in ("32-true", "64-true")
        self._plain_backward = exact and trainer.world_size == 1
        for listener in [self, *trainer.callbacks]:
            for hook in ("on_before_backward", "on_after_backward"):
                if is_overridden(hook, listener):
                    self._plain_backward = False
        own = self._plain_backward and not self.automatic_optimization
        self.cores = self.split_among_cores() if own and self.hparams["split_batch"] else None
        if isinstance(self.network, SimpleCNN):
            self.network.blocked = own and self.hparams["blocked_layout"]
        self._between = [c.between_steps for c in trainer.callbacks if hasattr(c, "between_steps")]

    def on_train_start(self) -> None:  # after the optimizer's state has been restored
        self.graph, self._num_graphed = None, 0
        if self.hparams["cuda_graph"]:
            self.graph = self._captured_step()

    def split_among_cores(self) -> Cores | None:
        """How a batch is shared among the cores, or None where it is computed as a whole."""
        num_cores = torch.get_num_threads()
        if self.device.type != "cpu" or num_cores == 1 or not can_split(self.network):
            return None
        return Cores(self.network, self.loss, num_cores=num_cores)

    def _captured_step(self) -> GraphedStep | None:
        if self.device.type != "cuda":
            log.warning("model.cuda_graph has no effect on %s.", self.device.type.upper())
            return None
        if self.automatic_optimization or self.trainer.world_size > 1 or not self._plain_backward:
            raise InputError(
                "model.cuda_graph captures steps of one process in float32, without clipping, "
                "accumulation or callbacks that look at gradients: type model.cuda_graph=false."
            )
        optimizer = self.optimizers().optimizer
        scheduler = self.hparams["scheduler"] or {}
        if "max_lr" in scheduler and scheduler.get("cycle_momentum", True):
            raise InputError(
                "model.cuda_graph captures the momentum as it is: "
                "type +model.scheduler.cycle_momentum=false."
            )
        try:
            return GraphedStep(self.network, self.loss, optimizer)
        except ValueError as error:
            raise InputError(str(error)) from None

    def teardown(self, stage: str) -> None:
        if self.cores:
            self.cores.close()
            self.cores = None

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        size = self._images_per_step() or len(images)
        steps = zip(images.split(size), labels.split(size), strict=True)
        loss = self._train_on(*next(steps))
        for step in steps:
            for between in self._between:
                between(self.trainer, self)
            # What is logged has a step as its place, not a batch.
            self.trainer.fit_loop.epoch_loop._batches_that_stepped += 1
            loss = self._train_on(*step)
        last = self.trainer.is_last_batch
        if last or len(self._seen) >= NUM_SEEN_TOGETHER:
            self.gather_metrics()
        if last:  # now, so that callbacks see it at the end of the epoch
            self._log("train")
        return loss

    def _train_on(self, images: Tensor, labels: Tensor) -> Tensor:
        """One step. With automatic optimization, Lightning goes on from the loss."""
        if self.graph:
            loss = self.graph(images, labels)
            self._num_graphed += len(labels)
            self._count_step()
            return loss
        if self.cores:
            loss, logits = self.cores.backward(images, labels)
        else:
            logits = self.network(images)
            loss = self.loss(logits, labels)
            if not self.automatic_optimization:
                self._backward(loss)
        self._seen.append((loss.detach(), logits.detach(), labels))
        if not self.automatic_optimization:
            self.optimizers().optimizer.step()
            self._count_step()
        return loss

    def _images_per_step(self) -> int | None:
        """How many images of a batch make a step; None: all of them."""
        datamodule = self.trainer.datamodule
        return None if getattr(datamodule, "steps_in_batch", 1) == 1 else datamodule.batch_size

    def gather_metrics(self) -> None:
        """Add the steps that have not been counted yet to the metrics of the epoch."""
        metrics = self.stage_metrics("train")
        if self._seen:
            metrics.update_all(self._seen)
            self._seen.clear()
        if self.graph and self._num_graphed:
            metrics.add_sums(self.graph.sums[0], self.graph.sums[1], self._num_graphed)
            self.graph.sums.zero_()
            self._num_graphed = 0

    def _backward(self, loss: Tensor) -> None:
        """What Lightning does between a training step and that of the optimizer."""
        self.optimizers().optimizer.zero_grad()
        if self._plain_backward:
            loss.backward()
        else:
            self.manual_backward(loss)

    def _count_step(self) -> None:
        """Tell Lightning of a step of the bare optimizer, and take one of the schedule."""
        optimizer = self.optimizers()
        optimizer._on_before_step()
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
        return self._look(batch, stages[dataloader_idx])

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._look(batch, "test")

    def on_validation_start(self) -> None:
        if self.cores:
            self.cores.release()

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
        accepted = inspect.signature(find_class(scheduler["_target_"]))
        if accepted and "total_steps" in accepted.parameters:
            lasts["total_steps"] = self._num_steps()
        entry = {"scheduler": build({**lasts, **scheduler}, _partial_=True)(optimizer)}
        if self.automatic_optimization:  # else we step it ourselves
            entry["interval"] = self.hparams["scheduler_interval"]
            entry["monitor"] = self.hparams["scheduler_monitor"]
        return {"optimizer": optimizer, "lr_scheduler": entry}

    def _num_steps(self) -> int:
        """Optimizer steps of the whole run."""
        num_batches = int(self.trainer.estimated_stepping_batches)
        if not self._images_per_step():
            return num_batches
        return num_batches // int(self.trainer.num_training_batches) * steps_per_epoch(self.trainer)

    def _look(self, batch: tuple[Tensor, Tensor], stage: str) -> Tensor:
        images, labels = batch
        logits = self.network(images)
        self.stage_metrics(stage).update(self.loss(logits, labels), logits, labels)
        return logits

    def stage_metrics(self, stage: str) -> "LossAndAccuracy":
        metrics = self.metrics[f"{stage}_metrics"]
        assert isinstance(metrics, LossAndAccuracy)
        return metrics

    def _log(self, stage: str) -> None:
        metrics = self.stage_metrics(stage)
        values = metrics.compute()
        metrics.reset()
        self.log_dict(
            {f"{stage}/{name}": value for name, value in values.items()},
            on_step=False,
            on_epoch=True,
            batch_size=1,
            sync_dist=True,
        )


def leave_group() -> None:
    """End the threads of gloo, which Lightning leaves running to the end of the interpreter.

    One that still drops its last tensors while the interpreter ends takes the process with it
    (SIGABRT), and a run of several processes that was done would have failed.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        gc.collect()  # what is left of DDP has a share in the group


def keep_freed_memory() -> None:
    """Have the allocator of Linux (glibc) keep what is freed, up to 62 MB, for the next step.

    Else it returns maps of this size to the system and gets them back page by page, each step.
    It goes by the largest piece that it has seen freed; the largest it looks at has 32 MiB.
    """
    torch.empty(31 * 2**18)


def counts_batches(trainer: pl.Trainer) -> bool:
    """Whether something that the Trainer is asked for depends on what a batch is."""
    return (
        trainer.limit_train_batches != 1.0
        or isinstance(trainer.limit_train_batches, int)
        or trainer.overfit_batches > 0
        or trainer.max_steps != -1
        or trainer.val_check_interval != 1.0
        or isinstance(trainer.val_check_interval, int)
    )


def steps_in_batch(trainer: pl.Trainer) -> int:
    """How many training steps a batch holds; the last batch of an epoch may hold fewer."""
    return int(getattr(trainer.train_dataloader, "steps_together", 1))


def steps_per_epoch(trainer: pl.Trainer) -> int:
    """Optimizer steps of an epoch."""
    num_batches, together = int(trainer.num_training_batches), steps_in_batch(trainer)
    if together == 1:
        return -(-num_batches // trainer.accumulate_grad_batches)
    loader: Any = trainer.train_dataloader
    return min(num_batches * together, loader.num_steps)


STAGES = ("train", "val", "test")
STEPS_TOGETHER = 8  # what Lightning does in a batch is then 1 % of its steps
NUM_SEEN_TOGETHER = 128  # training steps whose loss and accuracy are taken together


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

    def update_all(self, seen: Sequence[tuple[Tensor, Tensor, Tensor]]) -> None:
        """Add many batches at once: mean loss, logits and labels of each."""
        losses, logits, labels = zip(*seen, strict=True)
        sizes = torch.tensor([len(part) for part in labels], device=logits[0].device)
        mean = (torch.stack(losses).double() * sizes).sum() / sizes.sum()
        self.update(mean, torch.cat(logits), torch.cat(labels))

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: its mean loss, its logits (N, num_classes), its labels (N,)."""
        # In place: an assignment to an attribute of a module costs more than the addition.
        self.loss_sum.add_(loss, alpha=len(labels))
        self.num_correct.add_((logits.argmax(1) == labels).sum())
        self.num_images.add_(len(labels))

    def add_sums(self, loss_sum: Tensor, num_correct: Tensor, num_images: int) -> None:
        """Add sums over many images."""
        self.loss_sum.add_(loss_sum)
        self.num_correct.add_(num_correct)
        self.num_images.add_(num_images)
        self._update_count += 1
        self._computed = None

    def compute(self) -> dict[str, Tensor]:
        return {
            "loss": (self.loss_sum / self.num_images).float(),
            "acc": (self.num_correct / self.num_images).float(),
        }

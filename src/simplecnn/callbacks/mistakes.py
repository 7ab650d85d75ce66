"""Pictures of the most confident mistakes on the validation images."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from simplecnn.callbacks.history import History
from simplecnn.callbacks.image_callback import (
    SPLITS,
    ImageCallback,
    Picture,
    draws,
    is_watched,
    watched_split,
    when_validated,
)
from simplecnn.callbacks.probes import class_names
from simplecnn.figures.mistakes import mistakes_figure


class Mistakes(ImageCallback):
    """The `number` most confident mistakes after an epoch: which are new, which persist.

    They come from the validation pass itself, where `validation_step` returns logits (N, classes).
    `mistakes_<split>_history.npz` holds for each epoch the predicted class of every image and
    whether it is wrong, in the order of the pass.
    """

    def __init__(self, dirpath: str, number: int = 40, every_n_epochs: int = 10) -> None:
        super().__init__(dirpath, every_n_epochs)
        self.number = number
        self.history: History | None = None  # on rank zero only
        self._answers: list[dict[str, Tensor]] = []  # of this pass: of all images
        self._worst: list[dict[str, Tensor]] = []  # of the most confident mistakes
        self._num_classes = 0
        self._shown: dict[str, NDArray] = {}
        self._validated_at = self._drawn_from = -1  # steps of the last pass, and of the one drawn

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if draws(trainer):
            name = f"mistakes_{watched_split(trainer)}_history.npz"
            self.history = History(self.dirpath / name)
            self.history.resume(trainer.global_step)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if is_watched(trainer, outputs, dataloader_idx):
            with self.timed():
                self._add(outputs, *batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._answers:
            return
        with self.timed():
            parts = _of_all_processes(trainer, (_arrays(self._answers), _arrays(self._worst)))
            self._answers, self._worst = [], []
            if self.history is None:  # not rank zero
                return
            first = 0
            for answers, worst in parts:
                worst["places"] += first
                first += len(answers["wrong"])
            answers, worst = (_joined([part[i] for part in parts]) for i in (0, 1))
            self._validated_at = trainer.global_step
            self._shown = self._compare(answers, worst)
            self.history.add(trainer.global_step, **answers)
            self.history.save()

    def draw(self, trainer: Trainer, module: LightningModule, when: str) -> dict[str, Picture]:
        if not self._shown or self._drawn_from == self._validated_at:
            return {}  # no pass since the last picture
        self._drawn_from = self._validated_at
        shown, split = self._shown, watched_split(trainer)
        num_wrong, num_new, num_fixed, num_images = (
            int(shown[f"num_{name}"]) for name in ("wrong", "new", "fixed", "images")
        )
        title = (
            f"The {len(shown['labels'])} most confident mistakes on {num_images:,} {SPLITS[split]} "
            f"images, {when_validated(trainer, self._validated_at, when)}\n{num_wrong} wrong"
        )
        if shown["compared"]:
            title += (
                f": {num_new} new since the pass before (orange), {num_wrong - num_new} persist "
                f"(gray); {num_fixed} are no longer wrong"
            )
        figure = mistakes_figure(
            shown["images"],
            shown["labels"],
            shown["classes"],
            shown["probabilities"],
            shown["new"] & shown["compared"],
            class_names=class_names(trainer, self._num_classes),
            title=title,
        )
        return {f"mistakes_{split}": Picture(figure, shown)}

    def _add(self, logits: Tensor, images: Tensor, labels: Tensor) -> None:
        """Keep what is needed of a batch; nothing here waits for the device."""
        self._num_classes = logits.shape[1]
        top = logits.float().softmax(1).topk(2)
        predictions = top.indices[:, 0]
        wrong = predictions != labels
        confidence = torch.where(wrong, top.values[:, 0], -1.0)
        worst = confidence.topk(min(self.number, len(labels))).indices
        first = sum(len(batch["wrong"]) for batch in self._answers)
        self._answers.append({"predictions": predictions, "wrong": wrong})
        self._worst.append(
            {
                "images": images[worst],
                "labels": labels[worst],
                "classes": top.indices[worst],
                "probabilities": top.values[worst],
                "confidence": confidence[worst],
                "places": worst + first,
            }
        )

    def _compare(
        self, answers: dict[str, NDArray], worst: dict[str, NDArray]
    ) -> dict[str, NDArray]:
        """The most confident mistakes of all processes, compared with the pass before."""
        assert self.history is not None
        wrong, rows = answers["wrong"], self.history.rows
        before = [step for step in rows if step < self._validated_at]
        if before and len(rows[max(before)]["wrong"]) != len(wrong):  # of other images
            rows.clear()
            before = []
        was_wrong = rows[max(before)]["wrong"] if before else np.zeros_like(wrong)
        order = np.argsort(-worst["confidence"], kind="stable")[: self.number]
        order = order[worst["confidence"][order] >= 0]
        shown = {name: values[order] for name, values in worst.items() if name != "confidence"}
        return shown | {
            "new": ~was_wrong[shown["places"]],
            "compared": np.array(bool(before)),
            "num_images": np.array(len(wrong)),
            "num_wrong": wrong.sum(),
            "num_new": (wrong & ~was_wrong).sum(),
            "num_fixed": (was_wrong & ~wrong).sum(),
        }


def _arrays(batches: list[dict[str, Tensor]]) -> dict[str, NDArray]:
    """Batches of tensors, one after the other, as arrays."""
    tensors = {name: torch.cat([batch[name] for batch in batches]).cpu() for name in batches[0]}
    # NumPy has no bfloat16.
    return {k: (v.float() if v.is_floating_point() else v).numpy() for k, v in tensors.items()}


def _joined(parts: list[dict[str, NDArray]]) -> dict[str, NDArray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _of_all_processes(trainer: Trainer, part: Any) -> list[Any]:
    """What every process of the run hands in, in their order; all of them must call this."""
    if trainer.world_size == 1:
        return [part]
    parts: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(parts, part)
    return parts

"""Pictures of the most confident mistakes on the validation images."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from simplecnn.callbacks.confusion import is_logits
from simplecnn.callbacks.history import History
from simplecnn.callbacks.image_callback import (
    SPLITS,
    ImageCallback,
    Picture,
    draws,
    gather,
    in_training,
    watched_split,
    when_validated,
)
from simplecnn.callbacks.probes import class_names
from simplecnn.figures.mistakes import mistakes_figure


class Mistakes(ImageCallback):
    """The `number` most confident mistakes after an epoch: which are new, which persist.

    They come from the validation pass itself, where `validation_step` returns logits (N, classes).
    `mistakes_<split>_history.npz` holds for each epoch what every image was taken for and whether
    that was wrong, in the order of the pass.
    """

    def __init__(self, dirpath: str, number: int = 40, every_n_epochs: int = 10) -> None:
        super().__init__(dirpath, every_n_epochs)
        self.number = number
        self.all: History | None = None  # on rank zero alone
        self._answers: list[dict[str, Tensor]] = []
        self._worst: list[dict[str, Tensor]] = []
        self._num_classes = 0
        self._shown: dict[str, NDArray] = {}
        self._seen_at = self._drawn_of = -1  # steps: of the last pass, and of the pass drawn last

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if draws(trainer):
            self.all = History(self.dirpath / f"mistakes_{watched_split(trainer)}_history.npz")
            self.all.resume(trainer.global_step)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if dataloader_idx or not in_training(trainer) or not is_logits(outputs):
            return
        with self.timed():
            self._add(outputs, *batch)

    def _add(self, logits: Tensor, images: Tensor, labels: Tensor) -> None:
        """Keep what is needed of a batch."""
        self._num_classes = logits.shape[1]
        top = logits.float().softmax(1).topk(2)
        predictions = top.indices[:, 0]
        wrong = predictions != labels
        confidence = torch.where(wrong, top.values[:, 0], -1.0)
        worst = confidence.topk(min(self.number, len(labels))).indices
        place = sum(len(a["wrong"]) for a in self._answers)
        self._answers.append({"predictions": predictions, "wrong": wrong})
        self._worst.append(
            {
                "images": images[worst],
                "labels": labels[worst],
                "classes": top.indices[worst],
                "probabilities": top.values[worst],
                "confidence": confidence[worst],
                "places": worst + place,
            }
        )

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._answers:
            return
        with self.timed():
            answers, worst = _to_numpy(self._answers), _to_numpy(self._worst)
            self._answers, self._worst = [], []
            parts = gather(trainer, (answers, worst))
            if self.all is None:  # not rank zero
                return
            places = np.cumsum([0] + [len(part[0]["wrong"]) for part in parts])
            for part, first in zip(parts, places, strict=False):
                part[1]["places"] += first
            answers, worst = (
                _concatenate([p[0] for p in parts]),
                _concatenate([p[1] for p in parts]),
            )
            self._shown = self._compare(answers, worst, trainer.global_step)
            self._seen_at = trainer.global_step
            self.all.add(trainer.global_step, **answers)
            self.all.save()

    def draw(self, trainer: Trainer, module: LightningModule, when: str) -> dict[str, Picture]:
        if not self._shown or self._drawn_of == self._seen_at:  # no pass since the last picture
            return {}
        shown, split = self._shown, watched_split(trainer)
        self._drawn_of = self._seen_at
        counts = {key: int(shown[key]) for key in ("num_wrong", "num_new", "num_fixed")}
        total = int(shown["num_images"])
        title = (
            f"The {len(shown['labels'])} most confident mistakes on {total:,} {SPLITS[split]} "
            f"images, {when_validated(trainer, self._seen_at, when)}\n{counts['num_wrong']} wrong"
        )
        if shown["compared"]:
            persisting = counts["num_wrong"] - counts["num_new"]
            title += (
                f": {counts['num_new']} new since the pass before (orange), {persisting} persist "
                f"(grey), {counts['num_fixed']} others were put right"
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

    def _compare(
        self, answers: dict[str, NDArray], worst: dict[str, NDArray], step: int
    ) -> dict[str, NDArray]:
        """The most confident mistakes of all processes, compared with the pass before."""
        assert self.all is not None
        wrong = answers["wrong"]
        before = [row["wrong"] for then, row in sorted(self.all.rows.items()) if then < step]
        if any(len(row) != len(wrong) for row in before):  # other images: nothing to compare with
            self.all.rows.clear()
            before = []
        was_wrong = before[-1] if before else np.zeros_like(wrong)
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


def _to_numpy(batches: list[dict[str, Tensor]]) -> dict[str, NDArray]:
    """Batches of tensors as arrays: the first wait for the device."""
    joined = {name: torch.cat([batch[name] for batch in batches]).cpu() for name in batches[0]}
    # NumPy has no bfloat16.
    return {k: (v.float() if v.is_floating_point() else v).numpy() for k, v in joined.items()}


def _concatenate(parts: list[dict[str, NDArray]]) -> dict[str, NDArray]:
    """The arrays of several processes, one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

"""Pictures of the most confident mistakes on the validation images."""

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from simplecnn.callbacks.image_callback import (
    Picture,
    ValidationCallback,
    split_name,
    watched_split,
)
from simplecnn.callbacks.probes import class_names
from simplecnn.figures.mistakes import mistakes_figure


class Mistakes(ValidationCallback):
    """The `number` most confident mistakes of a validation pass: which are new, which persist.

    Of several processes, those of rank zero. A checkpoint holds `answers`: of the pass before it,
    the predicted class of every image and whether it is wrong, (N,) in the order of the pass, and
    the `step` of that pass; and what of it is not drawn yet.
    """

    def __init__(self, dirpath: str, number: int = 40, every_n_epochs: int = 10) -> None:
        super().__init__(dirpath, every_n_epochs)
        self.number = number
        self.answers: dict[str, Tensor] = {}
        self._answers: list[dict[str, Tensor]] = []  # by batch, of the pass under way
        self._worst: list[dict[str, Tensor]] = []  # the most confident mistakes of each batch
        self._shown: dict[str, Tensor] = {}  # those of the last pass, until they are drawn
        self._num_classes = 0

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        return {"answers": self.answers, "shown": self._shown}

    def load_state_dict(self, state_dict: dict[str, dict[str, Tensor]]) -> None:
        self.answers, self._shown = state_dict.get("answers", {}), state_dict.get("shown", {})
        self.validated_at = int(self.answers.get("step", -1))

    def add(self, logits: Tensor, images: Tensor, labels: Tensor) -> None:
        self._num_classes = logits.shape[1]
        top = logits.float().softmax(1).topk(2)
        predictions = top.indices[:, 0]
        wrong = predictions != labels
        confidence = torch.where(wrong, top.values[:, 0], -1.0)
        worst = confidence.topk(min(self.number, len(labels))).indices
        num_before = sum(len(batch["wrong"]) for batch in self._answers)
        self._answers.append({"predictions": predictions.int(), "wrong": wrong})
        self._worst.append(
            {
                "images": images[worst],
                "labels": labels[worst],
                "classes": top.indices[worst],
                "probabilities": top.values[worst],
                "confidence": confidence[worst],
                "places": worst + num_before,
            }
        )

    def finish(self) -> None:
        """Compare the answers with those of the pass before."""
        before, answers, worst = self.answers, _joined(self._answers), _joined(self._worst)
        self.answers, self._answers, self._worst = answers, [], []
        self.answers["step"] = torch.tensor(self.validated_at)
        wrong = answers["wrong"]
        compared = len(before.get("wrong", ())) == len(wrong)  # else it was of other images
        was_wrong = before["wrong"] if compared else torch.zeros_like(wrong)
        confidence = worst.pop("confidence")
        order = confidence.argsort(descending=True, stable=True)[: self.number]
        order = order[confidence[order] >= 0]
        self._shown = {name: values[order] for name, values in worst.items()}
        self._shown |= {
            "new": ~was_wrong[self._shown["places"]],
            "compared": torch.tensor(compared),
            "num_images": torch.tensor(len(wrong)),
            "num_wrong": wrong.sum(),
            "num_new": (wrong & ~was_wrong).sum(),
            "num_fixed": (was_wrong & ~wrong).sum(),
        }

    def draw(self, trainer: Trainer, module: LightningModule, when: str) -> dict[str, Picture]:
        if not self._shown:
            return {}  # no pass since the last picture
        shown = {name: values.numpy() for name, values in self._shown.items()}
        self._shown = {}
        number, fixed = len(shown["labels"]), shown["num_fixed"]
        old = shown["num_wrong"] - shown["num_new"]
        which = "most confident mistake" if number == 1 else f"{number} most confident mistakes"
        title = (
            f"The {which} on {shown['num_images']:,} "
            f"{split_name(trainer)} images, {self.when_validated(trainer, when)}\n"
            f"{shown['num_wrong']} wrong"
        )
        if shown["compared"]:
            title += (
                f": {shown['num_new']} new since the pass before (orange), "
                f"{old} {'persists' if old == 1 else 'persist'} (gray); "
                f"{fixed} {'is' if fixed == 1 else 'are'} no longer wrong"
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
        return {f"mistakes_{watched_split(trainer)}": Picture(figure, shown)}


def _joined(batches: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The batches one after the other, on the CPU."""
    tensors = {name: torch.cat([batch[name] for batch in batches]).cpu() for name in batches[0]}
    # NumPy has no bfloat16.
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}

"""Figures of the most confident mistakes on the validation images."""

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from simplecnn.callbacks.image_callback import (
    Figures,
    ValidationCallback,
    split_name,
    validation_split,
)
from simplecnn.callbacks.probes import class_names
from simplecnn.figures.mistakes import mistakes_figure


class Mistakes(ValidationCallback):
    """Draw the `number` most confident mistakes of rank zero's last validation pass.

    Mistakes that are new since the previous pass are marked. For that, checkpoints hold `answers`
    (of every image its predicted class and whether it is wrong, (N,) in the order of the pass, and
    the `step` of the pass) and `shown`, the mistakes that have not been drawn yet.
    """

    def __init__(self, dirpath: str, number: int = 40, every_n_epochs: int = 10) -> None:
        super().__init__(dirpath, every_n_epochs)
        self.number = number
        self.answers: dict[str, Tensor] = {}
        self._answers: list[dict[str, Tensor]] = []  # of the current pass, by batch
        self._worst: list[dict[str, Tensor]] = []  # the most confident mistakes of each batch
        self._shown: dict[str, Tensor] = {}  # those of the last pass, until drawn
        self._num_classes = 0

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        return {"answers": self.answers, "shown": self._shown}

    def load_state_dict(self, state_dict: dict[str, dict[str, Tensor]]) -> None:
        self.answers, shown = state_dict.get("answers", {}), state_dict.get("shown", {})
        self._shown = shown if "num_classes" in shown else {}  # earlier versions did not save it
        self.validated_at = int(self.answers.get("step", -1))

    def add(self, logits: Tensor, images: Tensor, labels: Tensor) -> None:
        self._num_classes = logits.shape[1]
        # Of equal logits, which bfloat16 often has, the first one is predicted, as by argmax.
        classes = logits.argsort(dim=1, descending=True, stable=True)[:, :2]
        probabilities = logits.float().softmax(1).gather(1, classes)
        predictions = classes[:, 0]
        wrong = predictions != labels
        confidence = torch.where(wrong, probabilities[:, 0], -1.0)
        worst = confidence.topk(min(self.number, len(labels))).indices
        num_before = sum(len(batch["wrong"]) for batch in self._answers)
        self._answers.append({"predictions": predictions.int(), "wrong": wrong})
        self._worst.append(
            {
                "images": images[worst],
                "labels": labels[worst],
                "classes": classes[worst],
                "probabilities": probabilities[worst],
                "confidence": confidence[worst],
                "places": worst + num_before,
            }
        )

    def finish(self) -> None:
        """Compare the answers with those of the previous pass."""
        previous, answers = self.answers, _concatenate(self._answers)
        worst = _concatenate(self._worst)
        self.answers, self._answers, self._worst = answers, [], []
        self.answers["step"] = torch.tensor(self.validated_at)
        wrong = answers["wrong"]
        compared = len(previous.get("wrong", ())) == len(wrong)  # otherwise of other images
        was_wrong = previous["wrong"] if compared else torch.zeros_like(wrong)
        confidence = worst.pop("confidence")
        order = confidence.argsort(descending=True, stable=True)[: self.number]
        order = order[confidence[order] >= 0]
        self._shown = {name: values[order] for name, values in worst.items()}
        self._shown |= {
            "new": ~was_wrong[self._shown["places"]],
            "compared": torch.tensor(compared),
            "num_images": torch.tensor(len(wrong)),
            "num_classes": torch.tensor(self._num_classes),
            "num_wrong": wrong.sum(),
            "num_new": (wrong & ~was_wrong).sum(),
            "num_fixed": (was_wrong & ~wrong).sum(),
        }

    def draw(self, trainer: Trainer, module: LightningModule, when: str) -> Figures:
        if not self._shown:
            return  # no validation since the last figure
        shown = {name: values.numpy() for name, values in self._shown.items()}
        self._shown = {}
        number, num_new = len(shown["labels"]), shown["num_new"]
        subject = "most confident mistake" if number == 1 else f"{number} most confident mistakes"
        title = (
            f"The {subject} on {shown['num_images']:,} "
            f"{split_name(trainer)} images (true → predicted class), "
            f"{self.when_validated(trainer, when)}\n"
            f"{shown['num_wrong']} wrong"
        )
        if shown["compared"]:
            title += (
                f": {num_new} new since the previous validation (orange), "
                f"{shown['num_wrong'] - num_new} persistent (gray), "
                f"{shown['num_fixed']} corrected"
            )
        figure = mistakes_figure(
            shown["images"],
            shown["labels"],
            shown["classes"],
            shown["probabilities"],
            shown["new"] & shown["compared"],
            class_names=class_names(trainer, int(shown["num_classes"])),
            title=title,
        )
        yield f"mistakes_{validation_split(trainer)}", figure, shown


def _concatenate(batches: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Concatenate the batches on the CPU, in dtypes that NumPy has."""
    tensors = {name: torch.cat([batch[name] for batch in batches]).cpu() for name in batches[0]}
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}

"""What training is compared with: the tutorial, Lightning as usually written, a template.

Each is written down from its description, with the tutorial's network, Adam at 1e-3 and MNIST by
torchvision: a PIL image, a transform and a collation for each digit. The digits themselves are in
memory already.
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    EarlyStopping,
    ModelCheckpoint,
    RichProgressBar,
    TQDMProgressBar,
)
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import ConcatDataset, DataLoader, random_split
from torchmetrics import Accuracy, MaxMetric, MeanMetric
from torchvision import datasets, transforms

HAS_RICH = find_spec("rich") is not None


class TutorialCNN(nn.Module):
    """The tutorial's network, in its own order of operations and memory layout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, kernel_size=3, padding=1)
        self.conv3 = nn.Conv2d(32, 64, kernel_size=3, padding=1)
        self.pool = nn.MaxPool2d(2, 2)
        self.fc1 = nn.Linear(576, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, images: Tensor) -> Tensor:
        for convolution in (self.conv1, self.conv2, self.conv3):
            images = self.pool(functional.relu(convolution(images)))
        return self.fc2(functional.relu(self.fc1(images.flatten(1))))


def torchvision_mnist(images: Tensor, labels: Tensor, *, normalize: bool = False) -> datasets.MNIST:
    """torchvision's own data set, `__getitem__` and all, around uint8 digits in memory."""
    dataset = datasets.MNIST.__new__(datasets.MNIST)
    dataset.data, dataset.targets = images.cpu(), labels.cpu()
    dataset.transform, dataset.target_transform = transforms.ToTensor(), None
    if normalize:
        mean_and_std = transforms.Normalize((0.1307,), (0.3081,))
        dataset.transform = transforms.Compose([transforms.ToTensor(), mean_and_std])
    return dataset


def train_tutorial(
    train: tuple[Tensor, Tensor],
    *,
    batch_size: int,
    device: torch.device,
    test: tuple[Tensor, Tensor] | None = None,
    step_done: Callable[[], bool] = lambda: False,
    epoch_done: Callable[[float], bool] = lambda accuracy: False,
) -> None:
    """The tutorial's loop, until `step_done` or `epoch_done` (given the test accuracy) say so."""
    network = TutorialCNN().to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    loader = DataLoader(torchvision_mnist(*train), batch_size=batch_size, shuffle=True)
    test_loader = DataLoader(torchvision_mnist(*test), batch_size=1000) if test else None
    total = 0.0
    while True:
        network.train()
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            optimizer.zero_grad()
            loss = functional.cross_entropy(network(images), labels)
            loss.backward()
            optimizer.step()
            total += loss.item()
            if step_done():
                return
        if test_loader is None:
            continue
        network.eval()
        num_correct = 0
        with torch.no_grad():
            for images, labels in test_loader:
                found = network(images.to(device)).argmax(1)
                num_correct += int((found == labels.to(device)).sum())
        if epoch_done(num_correct / len(test_loader.dataset)):  # type: ignore[arg-type]
            return


class Usual(pl.LightningModule):
    """Lightning as most people write it: loss and accuracy logged at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.network = TutorialCNN()
        self.accuracy = Accuracy(task="multiclass", num_classes=10)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self.network(images)
        loss = functional.cross_entropy(logits, labels)
        self.accuracy(logits, labels)
        self.log("train_loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log("train_acc", self.accuracy, on_step=True, on_epoch=True, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class Template(pl.LightningModule):
    """lightning-hydra-template's MNIST module, with SimpleCNN as its network."""

    def __init__(self) -> None:
        super().__init__()
        self.net = TutorialCNN()
        self.criterion = nn.CrossEntropyLoss()
        self.train_acc = Accuracy(task="multiclass", num_classes=10)
        self.val_acc = Accuracy(task="multiclass", num_classes=10)
        self.train_loss, self.val_loss = MeanMetric(), MeanMetric()
        self.val_acc_best = MaxMetric()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss, predicted, labels = self._step(batch)
        self.train_loss(loss)
        self.train_acc(predicted, labels)
        self.log("train/loss", self.train_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("train/acc", self.train_acc, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        loss, predicted, labels = self._step(batch)
        self.val_loss(loss)
        self.val_acc(predicted, labels)
        self.log("val/loss", self.val_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("val/acc", self.val_acc, on_step=False, on_epoch=True, prog_bar=True)

    def on_validation_epoch_end(self) -> None:
        self.val_acc_best(self.val_acc.compute())
        self.log("val/acc_best", self.val_acc_best.compute(), sync_dist=True, prog_bar=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-3)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=10)
        entry = {"scheduler": scheduler, "monitor": "val/loss", "interval": "epoch"}
        return {"optimizer": optimizer, "lr_scheduler": entry}

    def _step(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        images, labels = batch
        logits = self.net(images)
        return self.criterion(logits, labels), logits.argmax(dim=1), labels


def fit_usual(
    train: tuple[Tensor, Tensor], *, batch_size: int, watch: pl.Callback, **options: Any
) -> None:
    """Train `Usual` for some steps, with Lightning's default bar, checkpoint and TensorBoard.

    `options` are those of `_trainer`.
    """
    loader = DataLoader(torchvision_mnist(*train), batch_size=batch_size, shuffle=True)
    callbacks = [TQDMProgressBar(), ModelCheckpoint(), watch]
    _trainer(callbacks, **options).fit(Usual(), loader)


def fit_template(
    train: tuple[Tensor, Tensor], *, batch_size: int, watch: pl.Callback, **options: Any
) -> None:
    """Train `Template` for some steps, with the template's data, callbacks and TensorBoard.

    Its splits are drawn from the joined sets, so that each digit passes two wrappers. Its bar is
    Rich's; where the package rich is missing, it is the lighter tqdm. `options` are those of
    `_trainer`.
    """
    digits: ConcatDataset[Any] = ConcatDataset([torchvision_mnist(*train, normalize=True)])
    num_val = len(digits) // 12
    training, validation = random_split(
        digits, [len(digits) - num_val, num_val], torch.Generator().manual_seed(42)
    )
    callbacks = [
        RichProgressBar() if HAS_RICH else TQDMProgressBar(),
        ModelCheckpoint(monitor="val/acc", mode="max", save_last=True),
        EarlyStopping(monitor="val/acc", patience=100, mode="max"),
        watch,
    ]
    _trainer(callbacks, **options).fit(
        Template(),
        DataLoader(training, batch_size=batch_size, shuffle=True),
        DataLoader(validation, batch_size=batch_size),
    )


def _trainer(
    callbacks: Sequence[pl.Callback], *, device: torch.device, num_steps: int, folder: str
) -> pl.Trainer:
    return pl.Trainer(
        accelerator=device.type,
        devices=1,
        max_epochs=1,
        limit_train_batches=num_steps,
        limit_val_batches=10,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        logger=TensorBoardLogger(folder),
        callbacks=list(callbacks),
        enable_model_summary=False,
    )

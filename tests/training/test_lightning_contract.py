"""Lightning's documented behavior holds in a run: hooks, callbacks, loggers, Trainer flags."""

import copy
import csv
import json
import logging
import math
import re
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from children import assert_same, fork, wait_for_exit
from conftest import compose_run
from pytorch_lightning.callbacks import ModelCheckpoint, ThroughputMonitor
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torchmetrics.classification import MulticlassAccuracy

from simplecnn.api import load
from simplecnn.checkpoint_file import read_checkpoint, write_checkpoint
from simplecnn.config.arguments import check_classes
from simplecnn.errors import InputError, RunError
from simplecnn.inference.evaluate import add_result, evaluate
from simplecnn.inference.export import export
from simplecnn.inference.networks import load_network, logits
from simplecnn.inference.trained_run import TrainedRun
from simplecnn.models.classifier import Classifier
from simplecnn.run_directory import RunDirectory
from simplecnn.training.loggers import next_logged_step, rewind
from simplecnn.training.run import load_weights, train

CALLBACKS = "pytorch_lightning.callbacks"
LIGHTNING = [
    f"{CALLBACKS}.{name}"
    for name in (
        *("DeviceStatsMonitor", "EMAWeightAveraging", "EarlyStopping", "LearningRateFinder"),
        *("GradientAccumulationScheduler", "ModelCheckpoint", "ModelPruning", "ModelSummary"),
        *("OnExceptionCheckpoint", "RichModelSummary", "RichProgressBar", "Timer"),
        *("StochasticWeightAveraging", "WeightAveraging"),
    )
]
CUSTOM = ["Watch", "Hooks", "MyThroughputMonitor", "Fails", "Stops", "Slow", "Untested",
          "Unreadable", "Saves", "Streams", "TwoLoaders", "Named", "NamedStreams", "Weighted",
          "WeightedStreams", "TwoOptimizers"]  # fmt: skip
STAGES = ("train", "val", "test")
STEPS = 8  # per epoch of compose_run
NO_PICTURES = "callbacks=[checkpoint,lr_monitor,progress]"


# Custom callbacks. They store what they observe on the class: the configuration creates them.


class Watch(pl.Callback):
    """Records weights and learning rates, and changes nothing."""

    weights: list[torch.Tensor] = []  # of the first convolution after each step
    rates: list[float] = []
    batch_ends: list[int] = []
    trainer: pl.Trainer

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        Watch.trainer = trainer
        if stage == "fit":
            Watch.weights, Watch.rates, Watch.batch_ends = [], [], []

    def on_before_backward(self, trainer, pl_module, loss) -> None:
        assert loss.requires_grad and loss.ndim == 0

    def on_after_backward(self, trainer, pl_module) -> None:
        assert all(p.grad is not None for p in pl_module.parameters())

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        Watch.rates.append(optimizer.param_groups[0]["lr"])

    def on_before_zero_grad(self, trainer, pl_module, optimizer) -> None:
        sum(float(p.detach().sum()) for p in pl_module.parameters())

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        Watch.weights.append(first_weight(pl_module).detach().clone())
        Watch.batch_ends.append(batch_idx)


class Hooks(pl.Callback):
    """Records the hooks of each step in the order in which they are called."""

    calls: list[str] = []

    def on_fit_start(self, trainer, pl_module) -> None:
        Hooks.calls = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.calls.append("batch_start")

    def on_before_zero_grad(self, *_: Any) -> None:
        self.calls.append("zero_grad")

    def on_before_backward(self, *_: Any) -> None:
        self.calls.append("before_backward")

    def on_after_backward(self, *_: Any) -> None:
        self.calls.append("after_backward")

    def on_before_optimizer_step(self, *_: Any) -> None:
        self.calls.append("optimizer_step")

    def on_train_batch_end(self, *_: Any) -> None:
        self.calls.append("batch_end")


class MyThroughputMonitor(ThroughputMonitor):
    def __init__(self) -> None:
        super().__init__(batch_size_fn=lambda batch: len(batch[0]), window_size=4)


class Fails(pl.Callback):
    def on_train_batch_end(self, trainer, *_: Any) -> None:
        if trainer.global_step == 11:
            raise ArithmeticError("an error in a custom callback")


class Stops(pl.Callback):
    def on_train_batch_end(self, trainer, *_: Any) -> None:
        trainer.should_stop |= trainer.global_step == 11


class Slow(pl.Callback):
    """Takes an hour in the second epoch, by the clock of the Timer."""

    seconds = 0.0

    def on_fit_start(self, trainer, pl_module) -> None:
        Slow.seconds = 0.0

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        if trainer.current_epoch == 1:
            Slow.seconds += 3600


class Unreadable(pl.Callback):
    def state_dict(self) -> dict[str, Any]:
        return {"path": Path("x")}


# Custom modules and data modules.


class Saves(Classifier):
    def __init__(self, *args: Any, widths: list[int] = [8, 16], **kwargs: Any) -> None:  # noqa: B006
        super().__init__(*args, **kwargs)
        self.save_hyperparameters()


class Stream(torch.utils.data.IterableDataset):
    classes = tuple("abcdefghij")

    def __init__(self, label: int | None = None) -> None:
        self.label = label

    def __iter__(self) -> Any:
        for i in range(160):
            yield torch.rand(1, 28, 28), i % 10 if self.label is None else self.label


class Streams(pl.LightningDataModule):
    """Batches of an IterableDataset, which has no length; no test data."""

    num_classes = 10

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(Stream(), batch_size=20)

    val_dataloader = train_dataloader


class TwoLoaders(Streams):
    """Trains on the label 3; the second loader of validation and test has the label 4."""

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(Stream(3), batch_size=20)

    def val_dataloader(self) -> Any:
        return [self.train_dataloader(), torch.utils.data.DataLoader(Stream(4), batch_size=20)]

    def test_dataloader(self) -> Any:
        return dict(zip(("same", "other"), self.val_dataloader(), strict=True))


# Runs.


@pytest.fixture(autouse=True)
def allowed_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    loggers = "pytorch_lightning.loggers.CSVLogger,pytorch_lightning.loggers.TensorBoardLogger"
    custom = [f"{__name__}.{name}" for name in CUSTOM]
    monkeypatch.setenv("SIMPLECNN_TARGETS", ",".join([*LIGHTNING, *custom, loggers]))


def add(name: str, **arguments: Any) -> str:
    """The override that adds a callback of this module or of Lightning."""
    target = f"{__name__}.{name}" if name in CUSTOM else f"{CALLBACKS}.{name}"
    options = "".join(f",{key}:{value}" for key, value in arguments.items())
    return f"+callbacks.{name.lower()}={{_target_:{target}{options}}}"


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


def run(folder: Path, *overrides: str) -> dict[str, Any]:
    """Train and test; returns the record, with finite loss and accuracy of every stage."""
    train(compose_run(folder, *overrides), folder)
    record = record_of(folder)
    assert record["status"] == "finished"
    assert {f"{s}/{m}" for s in STAGES for m in ("loss", "acc")} <= set(record["metrics"])
    assert all(math.isfinite(value) for value in record["metrics"].values())
    return record


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs without pictures."""
    folder = tmp_path_factory.mktemp("runs") / "plain"
    run(folder, NO_PICTURES)
    return folder


def rows_of(path: Path, column: str) -> dict[int, float]:
    """The values of one column of a metrics.csv, by step."""
    with path.open(newline="") as file:
        return {int(r["step"]): float(r[column]) for r in csv.DictReader(file) if r.get(column)}


def checkpoint(folder: Path, name: str = "last") -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def first_weight(module: pl.LightningModule) -> torch.Tensor:
    return module.network.conv1.weight


# Unusual modules, data and callbacks.


def test_hyperparameters_of_any_type_are_saved(tmp_path):
    run(tmp_path / "a", f"model._target_={__name__}.Saves", NO_PICTURES)


def test_data_without_a_length_and_without_test_data(tmp_path):
    overrides = [f"data._target_={__name__}.Streams", "callbacks=default"]
    train(compose_run(tmp_path / "a", *overrides), tmp_path / "a")
    record = record_of(tmp_path / "a")
    assert record["status"] == "finished" and {"train/acc", "val/acc"} == {
        name for name in record["metrics"] if name.endswith("acc")
    }
    assert list((tmp_path / "a" / "images").glob("maps_conv1*.png"))
    # The length is not known before the end, as these callbacks must know.
    overrides[-1] = "callbacks=[checkpoint,progress,curves,health,filter_history]"
    overrides.append("+trainer.limit_train_batches=1.0")
    train(compose_run(tmp_path / "c", *overrides), tmp_path / "c")
    assert record_of(tmp_path / "c")["num_epochs"] == 2
    assert list((tmp_path / "c" / "images").glob("curves.png"))


def test_each_loader_has_metrics_of_its_own(tmp_path):
    monitor = "monitor=val/dataloader_idx_1/acc"
    config = compose_run(tmp_path, f"data._target_={__name__}.TwoLoaders", NO_PICTURES, monitor)
    train(config, tmp_path)
    record = record_of(tmp_path)
    expected = {f"{stage}/{loader}{name}" for stage in ("val", "test")
                for loader in ("", "dataloader_idx_1/") for name in ("loss", "acc")}  # fmt: skip
    assert expected <= record["metrics"].keys()
    assert record["metrics"]["test/acc"] == 1 and record["best"] == {"value": 0.0, "epoch": 1}
    rows = rows_of(tmp_path / "metrics.csv", "val/dataloader_idx_1/acc")
    assert list(rows.values()) == [0.0, 0.0]


class Named(Classifier):
    """Its batches are dicts."""

    def training_step(self, batch, batch_idx) -> Any:
        return super().training_step((batch["image"], batch["label"]), batch_idx)

    def validation_step(self, batch, batch_idx, dataloader_idx=0) -> Any:
        return super().validation_step((batch["image"], batch["label"]), batch_idx)


class Weighted(Classifier):
    """Its batches have a third part."""

    def training_step(self, batch, batch_idx) -> Any:
        return super().training_step(batch[:2], batch_idx)

    def validation_step(self, batch, batch_idx, dataloader_idx=0) -> Any:
        return super().validation_step(batch[:2], batch_idx)


def as_dict(examples: Any) -> dict[str, torch.Tensor]:
    images, labels = torch.utils.data.default_collate(examples)
    return {"image": images, "label": labels}


class NamedStreams(Streams):
    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(Stream(), batch_size=20, collate_fn=as_dict)

    val_dataloader = train_dataloader


class WeightedStreams(Streams):
    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(Stream(), batch_size=20, collate_fn=self.weighted)

    def weighted(self, examples: Any) -> Any:
        return *torch.utils.data.default_collate(examples), torch.ones(20)

    val_dataloader = train_dataloader


@pytest.mark.parametrize("batches", ["Named", "Weighted"])
def test_batches_other_than_images_and_labels_are_trained(batches, tmp_path):
    overrides = [f"model._target_={__name__}.{batches}",
                 f"data._target_={__name__}.{batches}Streams",
                 "model.network.image_size=28", "model.network.in_channels=1",
                 "model.network.num_classes=10", "callbacks=default"]  # fmt: skip
    train(compose_run(tmp_path / "a", *overrides), tmp_path / "a")
    assert record_of(tmp_path / "a")["status"] == "finished"
    assert not list((tmp_path / "a" / "images").glob("mistakes*"))


class TwoOptimizers(Classifier):
    """Lightning then counts two global steps per batch, but logs one step."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()
            optimizer.zero_grad()
        return loss

    def configure_optimizers(self) -> Any:
        parameters = list(self.parameters())
        return [torch.optim.SGD(parameters[:2], lr=0.01), torch.optim.SGD(parameters[2:], lr=0.01)]


def test_a_resume_with_two_optimizers_hides_the_steps_logged_since(tmp_path):
    overrides = [f"model._target_={__name__}.TwoOptimizers", "+trainer.log_every_n_steps=1",
                 "callbacks=[checkpoint,curves]", "test=false"]  # fmt: skip
    train(compose_run(tmp_path / "a", *overrides), tmp_path / "a")
    saved = checkpoint(tmp_path / "a")
    assert saved["global_step"] == 2 * 2 * STEPS
    assert next_logged_step(saved) == 2 * STEPS
    csv_path = tmp_path / "a" / "metrics.csv"
    assert max(rows_of(csv_path, "train/loss")) == 2 * STEPS - 1
    events = EventAccumulator(str(tmp_path / "a")).Reload()
    assert [event.step for event in events.Images("pictures/curves")] == [2 * STEPS - 1]
    rewind(tmp_path / "a", STEPS, 2 * STEPS)
    assert max(rows_of(csv_path, "train/loss")) == STEPS - 1


def test_the_best_checkpoint_follows_the_monitor_of_the_run(tmp_path):
    """Maximizing the loss, the first epoch is the best; an earlier callback monitors accuracy."""
    elsewhere = tmp_path / "elsewhere"
    overrides = ["monitor=val/loss", "mode=max", NO_PICTURES,
                 "+callbacks.best.save_weights_only=true",
                 f"callbacks.best.dirpath={elsewhere}"]  # fmt: skip
    config = compose_run(tmp_path / "a", *overrides)
    accurate = {**config["callbacks"]["best"], "monitor": "val/acc", "filename": "accurate"}
    config["callbacks"] = {"accurate": accurate, **config["callbacks"]}
    best = train(config, tmp_path / "a")
    losses = rows_of(tmp_path / "a" / "metrics.csv", "val/loss")
    assert best == pytest.approx(losses[STEPS - 1], abs=1e-5) and losses[STEPS - 1] > losses[15]
    assert record_of(tmp_path / "a")["best"]["epoch"] == 1
    assert sorted(p.name for p in elsewhere.iterdir()) == ["accurate.ckpt", "best.ckpt"]


class WithCallbacks(Classifier):
    """Its callback replaces that of the configuration, as of the same type in Lightning."""

    def configure_callbacks(self):
        return [ModelCheckpoint(monitor="train/loss", filename="lowest")]


def test_a_checkpoint_callback_of_the_module_is_named(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("SIMPLECNN_TARGETS", f"{__name__}.WithCallbacks")
    caplog.set_level(logging.INFO)
    config = compose_run(tmp_path, NO_PICTURES)
    config["model"]["_target_"] = f"{__name__}.WithCallbacks"
    train(config, tmp_path)
    assert "the best checkpoint is that of min train/loss" in caplog.messages
    assert record_of(tmp_path)["best"] is None and list(tmp_path.rglob("lowest.ckpt"))


def test_state_that_cannot_be_loaded_fails_at_the_first_checkpoint(tmp_path):
    with pytest.raises(RunError, match="must return tensors and plain values, not pathlib"):
        train(compose_run(tmp_path / "a", add("Unreadable"), NO_PICTURES), tmp_path / "a")
    record = record_of(tmp_path / "a")
    assert record["status"] == "failed" and record["num_epochs"] == 0
    assert not list((tmp_path / "a" / "checkpoints").glob("*.ckpt"))


def test_objects_among_the_hyperparameters_are_not_in_the_checkpoint(tmp_path):
    objects = {"net": torch.nn.ReLU(), "optimizer": partial(torch.optim.Adam, lr=0.1)}
    content = {"state_dict": {}, "hyper_parameters": {"width": 3, **objects}}
    write_checkpoint(content, tmp_path / "a.ckpt", checked=True)
    assert read_checkpoint(tmp_path / "a.ckpt")["hyper_parameters"] == {"width": 3}


class TemplateModule(pl.LightningModule):
    """A module by the conventions of lightning-hydra-template, which knows nothing of simplecnn."""

    def __init__(self, net, optimizer, scheduler):
        super().__init__()
        self.save_hyperparameters(logger=False, ignore=["net"])
        self.net = net
        self.accuracy = MulticlassAccuracy(10, average="micro")

    def forward(self, images):
        return self.net(images)

    def training_step(self, batch, batch_idx):
        loss = torch.nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.accuracy(self(batch[0]), batch[1])
        self.log("val/acc", self.accuracy)

    def configure_optimizers(self):
        optimizer = self.hparams.optimizer(params=self.trainer.model.parameters())
        scheduler = self.hparams.scheduler(optimizer=optimizer)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "monitor": "train/loss"},
        }


def test_a_module_of_lightning_hydra_template_trains_continues_and_evaluates(tmp_path, monkeypatch):
    monkeypatch.setenv("SIMPLECNN_TARGETS", f"{__name__}.TemplateModule")

    def train_template(name: str, epochs: int, *overrides: str, width: int = 8) -> TrainedRun:
        folder = tmp_path / name
        config = compose_run(folder, NO_PICTURES, f"trainer.max_epochs={epochs}", *overrides)
        config["model"] = {
            "_target_": f"{__name__}.TemplateModule",
            "net": {"_target_": "simplecnn.models.simple_cnn.SimpleCNN", "channels": [4, width]},
            "optimizer": {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.01},
            "scheduler": {"_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau",
                          "_partial_": True, "mode": "min"},
        }  # fmt: skip
        check_classes(config)
        train(config, folder)
        return load(folder)

    first = train_template("first", 1)
    last = tmp_path / "first" / "checkpoints" / "last.ckpt"
    longer = train_template("longer", 2, f"ckpt_path={last}")
    assert longer.record["num_epochs"] == 2
    assert longer.metrics["val/acc"] > first.metrics["val/acc"] > 0.1
    assert evaluate(longer, data=None) > 0.1
    with pytest.raises(RunError, match="the weights of another model: size mismatch for net.conv2"):
        train_template("other", 2, f"ckpt_path={last}", width=9)


class WithoutForward(pl.LightningModule):
    """Standardizes the images in its steps: only the module knows how its layers are called."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(1352, 10)
        )

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self.net((0.5 - batch[0]) * 4), batch[1])

    validation_step = training_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class ForwardAroundNetwork(WithoutForward):
    def __init__(self):
        super().__init__()
        self.network = self.net

    def forward(self, images):
        return self.network((0.5 - images) * 4)


class LateLayers(WithoutForward):
    """Builds its layers in a hook; does not save the weights that it does not train."""

    strict_loading = False

    def __init__(self):
        pl.LightningModule.__init__(self)
        self.net = None

    def configure_model(self):
        if self.net is None:
            self.net = WithoutForward().net
            self.net[0].requires_grad_(False)

    def forward(self, images):
        return self.net((0.5 - images) * 4)

    test_step = validation_step = lambda self, batch, batch_idx: None

    def on_save_checkpoint(self, checkpoint):
        checkpoint["state_dict"].pop("net.0.bias")


class LateLayersOfSetup(LateLayers):
    strict_loading = True
    configure_model = WithoutForward.configure_model

    def setup(self, stage):
        LateLayers.configure_model(self)


class SeveralLoaders(ForwardAroundNetwork):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("val/acc", float(dataloader_idx))  # Lightning appends the number of the loader

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("test/acc", float(dataloader_idx))


class TwoOutputs(ForwardAroundNetwork):
    def forward(self, images):
        return self.network(images), images


class LearnedLoss(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(10))

    def forward(self, logits, labels):
        return torch.nn.functional.cross_entropy(logits + self.weight, labels)


class WithLearnedLoss(Classifier):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.loss = LearnedLoss()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Standardizes(Classifier):
    """A subclass that does more than to call its network."""

    def __init__(self, mean: float = 0.5, **arguments):
        super().__init__(**arguments)
        self.mean = mean

    def forward(self, images):
        return self.network((self.mean - images) * 4)


class Fixed(Classifier):
    """A subclass whose arguments are others than those of Classifier, or have other values."""

    def __init__(self, width: int, class_weights: str = "auto"):
        network = {"_target_": "simplecnn.models.simple_cnn.SimpleCNN", "channels": [4, width]}
        super().__init__(network, class_weights=[1.0] * 10)

    def forward(self, images):
        return self.network(1 - images)


def train_custom(folder, name, monkeypatch, *overrides):
    monkeypatch.setenv("SIMPLECNN_TARGETS", f"{__name__}.{name}")
    config = compose_run(folder, "trainer.max_epochs=1", "monitor=null", "test=false", *overrides)
    config["model"] = {"_target_": f"{__name__}.{name}"}
    train(config, folder)
    assert record_of(folder)["status"] == "finished"
    return load_network(folder / "checkpoints" / "last.ckpt")


def test_a_module_without_forward_is_trained_but_not_guessed(tmp_path, monkeypatch):
    network = train_custom(tmp_path, "WithoutForward", monkeypatch)
    drawn = {path.stem.split("_")[0] for path in (tmp_path / "images").glob("*.png")}
    assert {"filters", "filter", "health"} <= drawn and "maps" not in drawn
    with pytest.raises(InputError, match="WithoutForward has no forward: define it"):
        logits(network, torch.rand(1, 1, 28, 28))


def test_a_network_is_all_that_forward_does(tmp_path, monkeypatch):
    network = train_custom(tmp_path, "ForwardAroundNetwork", monkeypatch, NO_PICTURES)
    images = torch.rand(2, 1, 28, 28)
    with torch.no_grad():
        expected = network.network((0.5 - images) * 4)
    assert torch.equal(logits(network, images), expected)


def test_layers_that_configure_model_builds_are_loaded(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    network = train_custom(tmp_path / "a", "LateLayers", monkeypatch, NO_PICTURES)
    saved = checkpoint(tmp_path / "a")["state_dict"]
    assert saved and all(torch.equal(network.state_dict()[name], saved[name]) for name in saved)
    assert len(network.state_dict()) == len(saved) + 1
    assert record_of(tmp_path / "a")["num_parameters"] == 2 * 9 + 2 + 1352 * 10 + 10
    assert "0 parameters" not in caplog.text
    last = f"ckpt_path={tmp_path}/a/checkpoints/last.ckpt"
    config = compose_run(tmp_path / "b", NO_PICTURES, "monitor=null", "train=false", last)
    config["model"] = {"_target_": f"{__name__}.LateLayers"}
    train(config, tmp_path / "b")
    assert record_of(tmp_path / "b")["status"] == "finished"
    with pytest.raises(
        InputError, match=r"do not fit its network: Unexpected key\(s\).*net.0.weight"
    ):
        train_custom(tmp_path / "c", "LateLayersOfSetup", monkeypatch, NO_PICTURES)


def test_a_custom_module_with_several_loaders(tmp_path, monkeypatch, caplog):
    targets = f"{__name__}.SeveralLoaders,{__name__}.TwoLoaders"
    monkeypatch.setenv("SIMPLECNN_TARGETS", targets)
    monitor = "monitor=val/acc/dataloader_idx_1"
    config = compose_run(tmp_path, f"data._target_={__name__}.TwoLoaders", NO_PICTURES, monitor)
    config["model"] = {"_target_": f"{__name__}.SeveralLoaders"}
    train(config, tmp_path)
    assert record_of(tmp_path)["best"] == {"value": 1.0, "epoch": 1}
    assert record_of(tmp_path)["metrics"]["test/acc/dataloader_idx_1"] == 1.0
    assert record_of(tmp_path)["class_names"] == list("abcdefghij")
    evaluate(load(tmp_path), data=None)
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warnings == ["TwoLoaders has 2 test loaders: only the first is used."]


def test_a_subclass_of_classifier_is_evaluated_by_its_forward(tmp_path, monkeypatch):
    monkeypatch.setenv("SIMPLECNN_TARGETS", f"{__name__}.Standardizes")
    config = compose_run(tmp_path, NO_PICTURES)
    config["model"] |= {"_target_": f"{__name__}.Standardizes", "mean": 0.3}
    config["model"]["network"]["in_channels"] = None  # taken from the data
    train(config, tmp_path)
    run = load(tmp_path)
    assert run.network.mean == 0.3
    evaluate(run, data=None)
    (evaluated,) = json.loads((tmp_path / "evaluation.json").read_text()).values()
    assert evaluated["loss"] == pytest.approx(run.metrics["test/loss"], abs=1e-5)
    with pytest.raises(InputError, match="safetensors export requires a Classifier"):
        export(run, tmp_path / "a.safetensors")
    assert export(run, tmp_path / "a.pt2", "torch_export")["checked"]["num_images"] == 1000


def test_a_subclass_of_classifier_with_other_arguments_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setenv("SIMPLECNN_TARGETS", f"{__name__}.Fixed")
    config = compose_run(tmp_path, NO_PICTURES)
    config["model"] = {"_target_": f"{__name__}.Fixed", "width": 5}
    train(config, tmp_path)
    run = load(tmp_path)
    assert "test/macro_acc" in run.metrics
    assert evaluate(run, data=None) == pytest.approx(run.metrics["test/acc"], abs=1e-6)


def test_figures_of_a_network_with_two_outputs_are_left_out(tmp_path, monkeypatch):
    train_custom(tmp_path, "TwoOutputs", monkeypatch)
    assert list((tmp_path / "images").glob("filters_*")) and not list(tmp_path.glob("*/maps_*"))


def test_weights_of_a_loss_are_those_of_the_checkpoint(tmp_path, monkeypatch):
    """Those of a CrossEntropyLoss are of the data; a learned loss is part of the model."""
    monkeypatch.setenv("SIMPLECNN_TARGETS", f"{__name__}.WithLearnedLoss")
    config = compose_run(tmp_path, NO_PICTURES, "trainer.max_epochs=1")
    config["model"]["_target_"] = f"{__name__}.WithLearnedLoss"
    train(config, tmp_path)
    saved = checkpoint(tmp_path, "best")
    module = WithLearnedLoss(**saved["hyper_parameters"])
    load_weights(module, saved)
    assert torch.equal(module.loss.weight, saved["state_dict"]["loss.weight"])
    assert module.loss.weight.any()


# Hooks.


def test_gradient_accumulation_steps_every_second_batch(tmp_path):
    run(tmp_path / "a", NO_PICTURES, add("Hooks"), "+trainer.accumulate_grad_batches=2")
    counts = {name: Hooks.calls.count(name) for name in set(Hooks.calls)}
    assert counts == {"batch_start": 16, "batch_end": 16, "before_backward": 16,
                      "after_backward": 16, "optimizer_step": 8, "zero_grad": 8}  # fmt: skip
    assert checkpoint(tmp_path / "a")["global_step"] == 8


def test_every_hook_is_called_once_per_step_and_passive_callbacks_change_nothing(tmp_path):
    overrides = ["model.network.dropout=0.5", "data/augmentation=shift"]
    run(tmp_path / "plain", NO_PICTURES, *overrides)
    run(tmp_path / "watched", NO_PICTURES, *overrides, add("Watch"))
    run(tmp_path / "pictures", *overrides, add("Watch"), add("Hooks"))
    step = ["batch_start", "zero_grad", "before_backward", "after_backward", "optimizer_step",
            "batch_end"]  # fmt: skip
    assert Hooks.calls == step * (2 * STEPS)
    plain = checkpoint(tmp_path / "plain")
    for name in ("watched", "pictures"):
        other = checkpoint(tmp_path / name)
        for key in ("state_dict", "optimizer_states"):
            assert_same(other[key], plain[key], f"{name}: {key}")
        assert record_of(tmp_path / name)["metrics"] == record_of(tmp_path / "plain")["metrics"]


# Lightning's callbacks.


def test_ema_weight_averaging_updates_each_step(tmp_path):
    """The average is also tested: with `ckpt_path`, Lightning would test the last weights."""
    record = run(tmp_path / "a", NO_PICTURES, add("Watch"), add("EMAWeightAveraging", decay=0.8))
    average = Watch.weights[0].clone()  # the first update copies
    for weight in Watch.weights[1:]:
        average = 0.8 * average + 0.2 * weight
    saved = checkpoint(tmp_path / "a")
    assert int(saved["averaging_state"]["n_averaged"]) == 2 * STEPS
    torch.testing.assert_close(saved["state_dict"]["network.conv1.weight"], average)
    torch.testing.assert_close(
        saved["current_model_state"]["network.conv1.weight"], Watch.weights[-1]
    )
    directory = RunDirectory.open(tmp_path / "a")
    evaluate(TrainedRun(directory, directory.checkpoint("best")), data=None)
    (evaluated,) = json.loads((directory.path / "evaluation.json").read_text()).values()
    assert record["metrics"]["test/loss"] == pytest.approx(evaluated["loss"], abs=1e-5)


def test_weight_averaging_updates_each_step(tmp_path):
    run(tmp_path / "a", NO_PICTURES, add("Watch"), add("WeightAveraging"))
    saved = checkpoint(tmp_path / "a")
    assert int(saved["averaging_state"]["n_averaged"]) == 2 * STEPS
    average = torch.stack(Watch.weights).mean(0)
    torch.testing.assert_close(saved["state_dict"]["network.conv1.weight"], average)


def test_a_checkpoint_every_n_steps_is_saved_at_those_steps(tmp_path):
    folder = tmp_path / "a"
    every_third = add("ModelCheckpoint", dirpath=f"{folder}/steps", every_n_train_steps=3,
                      save_top_k=-1, filename="'{step}'")  # fmt: skip
    run(folder, NO_PICTURES, every_third, add("Watch"))
    saved = {p.name: torch.load(p, weights_only=True) for p in (folder / "steps").iterdir()}
    assert set(saved) == {f"step={step}.ckpt" for step in (3, 6, 9, 12, 15)}
    for step in (3, 6, 9, 12, 15):
        content = saved[f"step={step}.ckpt"]
        assert content["global_step"] == step
        weight = content["state_dict"]["network.conv1.weight"]
        assert torch.equal(weight, Watch.weights[step - 1])


def test_a_checkpoint_without_a_monitor_is_saved(tmp_path):
    """Only `best` is left out without a monitor: it would not keep the best."""
    folder = tmp_path / "a"
    epochs = add("ModelCheckpoint", monitor="null", dirpath=f"{folder}/epochs", save_top_k=-1,
                 filename="'{epoch}'")  # fmt: skip
    run(folder, NO_PICTURES, "monitor=null", epochs)
    assert sorted(p.name for p in (folder / "epochs").iterdir()) == ["epoch=0.ckpt", "epoch=1.ckpt"]
    assert [p.name for p in (folder / "checkpoints").iterdir()] == ["last.ckpt"]


def test_the_learning_rate_is_logged_at_every_logging_step(tmp_path):
    run(tmp_path / "a", "callbacks=[checkpoint,progress]", "model/scheduler=one_cycle",
        add("LearningRateMonitor", logging_interval="step"), "+trainer.log_every_n_steps=2",
        add("Watch"))  # fmt: skip
    logged = rows_of(tmp_path / "a" / "metrics.csv", "lr-Adam")
    expected = one_cycle(1e-3, 2 * STEPS)
    assert Watch.rates == pytest.approx(expected)
    assert sorted(logged) == list(range(1, 2 * STEPS, 2))
    for step, rate in logged.items():
        assert rate == pytest.approx(expected[step], rel=1e-5)


def one_cycle(rate: float, total_steps: int) -> list[float]:
    """The learning rate of each step of a one-cycle schedule."""
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=rate, total_steps=total_steps, pct_start=0.3
    )
    rates = []
    for _ in range(total_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(rates) < total_steps:
            scheduler.step()
    return rates


def test_the_gradient_accumulation_scheduler_is_applied(tmp_path):
    scheduling = add("GradientAccumulationScheduler", scheduling="{0:1,1:4}")
    run(tmp_path / "a", NO_PICTURES, scheduling, add("Hooks"))
    assert checkpoint(tmp_path / "a")["global_step"] == STEPS + STEPS // 4
    assert Hooks.calls.count("before_backward") == 2 * STEPS


def test_the_learning_rate_of_stochastic_weight_averaging_is_applied(tmp_path):
    folder = tmp_path / "a"
    average = add("StochasticWeightAveraging", swa_lrs=0.01, swa_epoch_start=2,
                  annealing_epochs=1, annealing_strategy="linear")  # fmt: skip
    run(folder, "callbacks=[checkpoint,progress]", average, add("Watch"), "monitor=null",
        "trainer.max_epochs=4")  # fmt: skip
    rates = [Watch.rates[epoch * STEPS] for epoch in range(4)]
    assert rates[0] == 1e-3 and rates[-1] == pytest.approx(0.01)
    # The average is over the weights at the start of epochs 2 to 4.
    ends = torch.stack([Watch.weights[epoch * STEPS - 1] for epoch in (1, 2, 3)])
    torch.testing.assert_close(first_weight(Watch.trainer.lightning_module), ends.mean(0))
    saved = checkpoint(folder)["state_dict"]["network.conv1.weight"]
    torch.testing.assert_close(saved, ends.mean(0))  # the tested weights are saved


def test_the_learning_rate_finder_sets_the_rate(tmp_path):
    overrides = [NO_PICTURES, "+trainer.limit_train_batches=30"]
    run(tmp_path / "a", *overrides, "model.optimizer.lr=1e-4",
        add("LearningRateFinder", num_training_steps=40), add("Watch"))  # fmt: skip
    rate = Watch.rates[0]
    assert rate != 1e-4 and 1e-8 < rate <= 1
    run(tmp_path / "b", *overrides, f"model.optimizer.lr={rate!r}", add("Watch"))
    assert Watch.rates[0] == rate
    a, b = (checkpoint(tmp_path / name) for name in "ab")
    assert_same(a["state_dict"], b["state_dict"])  # the search has no other effect
    assert record_of(tmp_path / "a")["metrics"] == record_of(tmp_path / "b")["metrics"]


def test_pruning_sets_weights_to_zero(tmp_path):
    run(tmp_path / "a", NO_PICTURES,
        add("ModelPruning", pruning_fn="l1_unstructured", amount=0.3, use_global_unstructured=True,
           apply_pruning=True, use_lottery_ticket_hypothesis=False), add("Watch"))  # fmt: skip
    network = Watch.trainer.lightning_module.network
    weights = torch.cat([p.flatten() for n, p in network.named_parameters() if "weight" in n])
    sparsity = float((weights == 0).float().mean())
    assert 0.25 < sparsity < 0.6
    saved = checkpoint(tmp_path / "a")["state_dict"]
    assert not [key for key in saved if "mask" in key or "_orig" in key]


@pytest.mark.filterwarnings("ignore:When using the `ThroughputMonitor`")  # FLOPs are up to the user
def test_device_stats_and_throughput_are_logged(tmp_path):
    monitors = [add("DeviceStatsMonitor"), add("MyThroughputMonitor")]
    run(tmp_path / "a", NO_PICTURES, *monitors, "+trainer.log_every_n_steps=2")
    header = (tmp_path / "a" / "metrics.csv").read_text().splitlines()[0]
    assert "DeviceStatsMonitor.on_train_batch_start/cpu_vm_percent" in header
    samples = rows_of(tmp_path / "a" / "metrics.csv", "train/samples")
    assert samples[max(samples)] == 2 * STEPS * 64
    rate = rows_of(tmp_path / "a" / "metrics.csv", "train/device/samples_per_sec")
    assert all(value > 0 for value in rate.values())


def test_on_exception_checkpoint_saves_the_failing_step(tmp_path):
    folder = tmp_path / "a"
    saved = add("OnExceptionCheckpoint", dirpath=f"{folder}/crash")
    with pytest.raises(ArithmeticError, match="in a custom callback"):
        run(folder, NO_PICTURES, saved, add("Fails"))
    crash = torch.load(folder / "crash" / "on_exception.ckpt", weights_only=True)
    assert crash["global_step"] == 11
    record = record_of(folder)
    assert record["status"] == "failed"
    assert record["error"] == "ArithmeticError: an error in a custom callback"
    assert checkpoint(folder)["global_step"] == STEPS  # the last finished epoch


def test_rich_progress_bar_and_model_summary(tmp_path, capsys):
    run(tmp_path / "a", "callbacks=checkpoint", add("RichProgressBar"), add("RichModelSummary"))
    shown = "".join(capsys.readouterr())
    assert "Epoch 1/1" in shown and "8/8" in shown  # epochs are counted from 0
    assert "SimpleCNN" in shown and "51.9 K" in shown


def test_model_summary_is_logged(tmp_path, caplog):
    caplog.set_level("INFO")
    run(tmp_path / "a", "callbacks=checkpoint", add("ModelSummary", max_depth=2))
    assert "network.conv1" in caplog.text and "Trainable params" in caplog.text


def test_lightnings_loggers_agree_with_simplecnns(tmp_path):
    folder = tmp_path / "a"
    loggers = ["+logger.csv2={_target_:pytorch_lightning.loggers.CSVLogger,"
               f"save_dir:{folder}/csv,flush_logs_every_n_steps:1}}",
               "+logger.board2={_target_:pytorch_lightning.loggers.TensorBoardLogger,"
               f"save_dir:{folder}/board}}"]  # fmt: skip
    record = run(folder, NO_PICTURES, *loggers, "+trainer.log_every_n_steps=2")
    (csv_path,) = (folder / "csv").rglob("metrics.csv")
    (board_dir,) = {path.parent for path in (folder / "board").rglob("events.out.*")}
    board = EventAccumulator(str(board_dir)).Reload()
    for column in ("val/acc", "train/loss", "test/acc"):
        values = rows_of(folder / "metrics.csv", column)
        assert rows_of(csv_path, column) == pytest.approx(values, rel=1e-4)
        assert {e.step: e.value for e in board.Scalars(column)} == pytest.approx(values, rel=1e-4)
        assert list(values.values())[-1] == pytest.approx(record["metrics"][column], rel=1e-4)


# Flags of the Trainer.

# Independent flags are combined, because each run draws all pictures.
FLAGS = {
    "bf16-mixed, anomalies, deterministic": [
        "+trainer.precision=bf16-mixed", "+trainer.detect_anomaly=true",
        "+trainer.deterministic=true"],
    "bf16-true, half an epoch, new loaders": [
        "+trainer.precision=bf16-true", "+trainer.val_check_interval=0.5",
        "+trainer.reload_dataloaders_every_n_epochs=1"],
    "64-true, every second epoch, no inference mode, sanity": [
        "+trainer.precision=64-true", "+trainer.check_val_every_n_epoch=2",
        "+trainer.inference_mode=false", "trainer.num_sanity_val_steps=2"],
    "overfit": ["+trainer.overfit_batches=2", "monitor=train/loss", "mode=min"],
    "limits, every three steps": [
        "+trainer.limit_train_batches=0.1", "+trainer.limit_val_batches=0.5",
        "+trainer.limit_test_batches=1", "data.eval_batch_size=100",
        "+trainer.val_check_interval=3"],
}  # fmt: skip
CLIP_NORM = "+trainer.gradient_clip_val=0.01"
CLIP_VALUES = ["+trainer.gradient_clip_val=0.001", "+trainer.gradient_clip_algorithm=value"]


@pytest.mark.parametrize("name", FLAGS)
def test_flags_of_the_trainer(name, tmp_path):
    """With all default callbacks, including pictures."""
    folder = tmp_path / "a"
    record = run(folder, *FLAGS[name])
    assert record["num_epochs"] == 2
    assert math.isfinite(record["best"]["value"])
    pictures = {p.name.partition("_epoch")[0] for p in (folder / "images").glob("*.png")}
    assert {"filters_conv1", "maps_conv2", "curves.png", "health.png"} <= pictures
    if record["metrics"]["val/acc"] < 1:
        assert "mistakes_val" in pictures
    weights = checkpoint(folder)["state_dict"]["network.conv1.weight"]
    dtypes = {"bf16-true": torch.bfloat16, "64-true": torch.float64}
    assert weights.dtype == dtypes.get(name.partition(",")[0], torch.float32)


def test_gradient_clipping_bounds_the_step(tmp_path):
    sgd = ["model/optimizer=sgd", "model.optimizer.lr=1.0", "model.optimizer.momentum=0.0",
           "model.optimizer.nesterov=false", "model.optimizer.weight_decay=0.0",
           add("Watch"), NO_PICTURES]  # fmt: skip
    run(tmp_path / "value", *sgd, *CLIP_VALUES)
    steps = torch.stack(Watch.weights).diff(dim=0).abs()
    assert steps.max() == pytest.approx(1e-3, rel=1e-3)
    run(tmp_path / "norm", *sgd, CLIP_NORM)
    assert torch.stack(Watch.weights).diff(dim=0).flatten(1).norm(dim=1).max() <= 0.0101


@pytest.mark.parametrize(("interval", "steps"), [("0.5", [3, 7, 11, 15]), ("3", [2, 5, 10, 13])])
def test_validations_within_an_epoch(interval, steps, tmp_path):
    run(tmp_path / "a", f"+trainer.val_check_interval={interval}", NO_PICTURES)
    assert sorted(rows_of(tmp_path / "a" / "metrics.csv", "val/acc")) == steps


def test_the_simple_profiler_reports(tmp_path, caplog):
    caplog.set_level("INFO")
    run(tmp_path / "a", NO_PICTURES, "+trainer.profiler=simple")
    assert "run_training_batch" in caplog.text


def test_sanity_checks_change_nothing(plain, tmp_path):
    run(tmp_path / "a", NO_PICTURES, "trainer.num_sanity_val_steps=2")
    assert_same(checkpoint(tmp_path / "a")["state_dict"], checkpoint(plain)["state_dict"])
    assert (tmp_path / "a" / "metrics.csv").read_text() == (plain / "metrics.csv").read_text()


# Schedules.


def test_plateau_steps_only_after_a_validation(tmp_path):
    run(tmp_path / "a", NO_PICTURES, "model/scheduler=plateau", "model.scheduler.patience=0",
        "+model.scheduler.threshold=9", "+trainer.check_val_every_n_epoch=2",
        "trainer.max_epochs=6", add("Watch"))  # fmt: skip
    rates = [Watch.rates[epoch * STEPS] for epoch in range(6)]
    # The first value is the best; the later ones do not improve on it.
    assert sorted(rows_of(tmp_path / "a" / "metrics.csv", "val/acc")) == [15, 31, 47]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-3, 1e-3, 1e-4, 1e-4])


@pytest.mark.parametrize("max_steps", [11, 16])
def test_one_cycle_ends_with_max_steps(max_steps, tmp_path):
    record = run(tmp_path / "a", NO_PICTURES, "model/scheduler=one_cycle", "trainer.max_epochs=9",
                 f"+trainer.max_steps={max_steps}", "+trainer.min_epochs=3",  # max_steps prevails
                 "+trainer.min_steps=99", add("Watch"))  # fmt: skip
    assert Watch.rates == pytest.approx(one_cycle(1e-3, max_steps))
    assert checkpoint(tmp_path / "a")["global_step"] == max_steps
    assert record["ended"] == f"stopped after epoch 2: max_steps={max_steps}"
    # a validation where training stopped, even in the middle of an epoch
    rows = rows_of(tmp_path / "a" / "metrics.csv", "val/acc")
    assert sorted(rows) == [7, max_steps - 1]


# Reasons why training ended.


def test_early_stopping_reports_metric_and_patience(tmp_path):
    record = run(tmp_path / "a", "callbacks=[checkpoint,early_stopping]", "trainer.max_epochs=9",
                 "callbacks.early_stopping.patience=2", "model.optimizer.lr=1e-9")  # fmt: skip
    assert record["ended"] == "stopped after epoch 3: val/acc did not improve for 2 epochs"
    assert record["num_epochs"] == 3


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ([add("Slow"), "+trainer.max_time='00:00:59:00'"], "max_time reached"),
        ([add("Slow"), add("Timer", duration="{hours:1}")], "max_time reached"),
        ([add("Slow"), add("Timer", duration="{hours:1}", interval="epoch")], "max_time reached"),
        ([add("Stops")], "trainer.should_stop was set"),
    ],
)
def test_other_reasons_to_stop_are_reported(overrides, reason, tmp_path, monkeypatch):
    clock = SimpleNamespace(monotonic=lambda: Slow.seconds)
    monkeypatch.setattr(pl.callbacks.timer, "time", clock)
    record = run(tmp_path / "a", NO_PICTURES, "trainer.max_epochs=9", *overrides)
    assert record["ended"] == f"stopped after epoch 2: {reason}"
    assert record["num_epochs"] == 2


def test_a_complete_training_is_reported(plain, tmp_path):
    assert record_of(plain)["ended"] == "completed 2 epochs"
    assert run(tmp_path / "a", NO_PICTURES, "trainer.max_epochs=1")["ended"] == "completed 1 epoch"


# Training from a checkpoint.


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs that early stopping ended after two."""
    folder = tmp_path_factory.mktemp("runs") / "stopped"
    run(folder, "callbacks=[checkpoint,early_stopping,lr_monitor]", "trainer.max_epochs=3",
        "callbacks.early_stopping.patience=1", "model.optimizer.lr=1e-9")  # fmt: skip
    return folder


DIFFERENT_CALLBACKS = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")


@DIFFERENT_CALLBACKS
@pytest.mark.parametrize("override", ["data.batch_size=32", "seed=7", "data.batch_size=128"])
def test_training_from_a_checkpoint_with_another_batch_size_or_seed(
    override, finished_run, tmp_path
):
    start = f"ckpt_path='{finished_run}/checkpoints/last.ckpt'"
    record = run(tmp_path / "a", NO_PICTURES, start, "trainer.max_epochs=3", override)
    assert record["num_epochs"] == 3 and record["ended"] == "completed 3 epochs"
    saved = checkpoint(tmp_path / "a")
    assert saved["global_step"] == 3 * STEPS
    before = checkpoint(finished_run)["state_dict"]["network.conv1.weight"]
    assert not torch.equal(saved["state_dict"]["network.conv1.weight"], before)


@DIFFERENT_CALLBACKS
@pytest.mark.parametrize(("lr", "expected"), [("1e-3", 1e-5), ("2e-3", 2e-5)])
def test_a_learning_rate_lowered_by_a_schedule_stays_lowered(lr, expected, tmp_path):
    step = ["model/scheduler=cosine", "+model.scheduler.step_size=1", "+model.scheduler.gamma=0.1",
            "model.scheduler._target_=torch.optim.lr_scheduler.StepLR"]  # fmt: skip
    run(tmp_path / "a", NO_PICTURES, *step)
    start = f"ckpt_path='{tmp_path}/a/checkpoints/last.ckpt'"
    run(tmp_path / "b", NO_PICTURES, *step, start, f"model.optimizer.lr={lr}",
        "trainer.max_epochs=3", add("Watch"))  # fmt: skip
    assert Watch.rates[0] == pytest.approx(expected)


@DIFFERENT_CALLBACKS
def test_a_changed_learning_rate_applies_to_the_schedule(tmp_path):
    """Twice the learning rate, with a schedule that computes each epoch's from the initial one."""
    target = "torch.optim.lr_scheduler.CosineAnnealingWarmRestarts"
    cosine = ["model/scheduler=cosine", f"model.scheduler._target_={target}",
              "+model.scheduler.T_0=10"]  # fmt: skip
    run(tmp_path / "a", NO_PICTURES, *cosine)
    start = f"ckpt_path='{tmp_path}/a/checkpoints/last.ckpt'"
    run(tmp_path / "b", NO_PICTURES, *cosine, start, "model.optimizer.lr=2e-3",
        "trainer.max_epochs=4", add("Watch"))  # fmt: skip
    expected = [2e-3 * (1 + math.cos(math.pi * epoch / 10)) / 2 for epoch in (2, 3)]
    assert Watch.rates[::STEPS] == pytest.approx(expected)


@DIFFERENT_CALLBACKS
def test_training_from_the_best_checkpoint(finished_run, tmp_path):
    start = f"ckpt_path='{finished_run}/checkpoints/best.ckpt'"
    best = record_of(finished_run)["best"]["epoch"]
    record = run(tmp_path / "a", NO_PICTURES, start, "trainer.max_epochs=4")
    assert record["num_epochs"] == 4
    assert checkpoint(tmp_path / "a")["global_step"] == 4 * STEPS
    assert sorted(rows_of(tmp_path / "a" / "metrics.csv", "val/acc")) == [
        STEPS * epoch - 1 for epoch in range(best + 1, 5)
    ]


@DIFFERENT_CALLBACKS
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
def test_the_duration_of_an_epoch_that_is_continued(tmp_path, caplog):
    """From a checkpoint in the middle of the second epoch."""
    caplog.set_level("INFO")
    steps = add("ModelCheckpoint", every_n_train_steps=11, dirpath=tmp_path, filename="middle")
    run(tmp_path / "a", NO_PICTURES, steps)
    run(tmp_path / "b", NO_PICTURES, f"ckpt_path='{tmp_path}/middle.ckpt'")
    lines = [m for m in caplog.messages if m.startswith("epoch 2/2")]
    assert len(lines) == 2
    assert all(float(re.search(r"([\d.]+) s$", line)[1]) < 60 for line in lines)


def test_training_from_a_run_that_stopped_early(stopped, tmp_path):
    assert record_of(stopped)["num_epochs"] == 2
    start = f"ckpt_path='{stopped}/checkpoints/last.ckpt'"
    record = run(tmp_path / "a", "callbacks=[checkpoint,early_stopping,lr_monitor]", start,
                 "trainer.max_epochs=4", "callbacks.early_stopping.patience=9")  # fmt: skip
    assert record["num_epochs"] == 4 and record["ended"] == "completed 4 epochs"
    assert checkpoint(tmp_path / "a")["global_step"] == 4 * STEPS


@pytest.mark.parametrize("name", ["last", "best"])
def test_a_checkpoint_after_the_last_epoch_is_only_tested(name, finished_run, tmp_path, caplog):
    """best.ckpt of the last epoch is saved before Lightning counts that epoch as completed."""
    caplog.set_level("INFO")
    assert record_of(finished_run)["best"]["epoch"] == 2
    start = f"ckpt_path='{finished_run}/checkpoints/{name}.ckpt'"
    train(compose_run(tmp_path / "a", NO_PICTURES, start), tmp_path / "a")
    reason = "already 2 of 2 epochs: nothing to train"
    record = record_of(tmp_path / "a")
    assert record["ended"] == reason and reason in caplog.text
    assert record["num_epochs"] == 2 and record["status"] == "finished"
    # The metric of the best checkpoint, which is that of the last epoch.
    assert record["metrics"]["test/acc"] == record_of(finished_run)["metrics"]["test/acc"]
    assert list(rows_of(tmp_path / "a" / "metrics.csv", "test/acc")) == [2 * STEPS]


class Untested(Classifier):
    test_step = pl.LightningModule.test_step


def test_a_module_without_a_test_step_is_trained(tmp_path, caplog):
    caplog.set_level("INFO")
    overrides = [f"model._target_={__name__}.Untested", "trainer.max_epochs=1"]
    train(compose_run(tmp_path / "a", NO_PICTURES, *overrides), tmp_path / "a")
    assert record_of(tmp_path / "a")["status"] == "finished"
    assert "Untested has no test_step: skipping the test" in caplog.text


def test_early_stopping_within_the_first_epoch_is_reported(tmp_path):
    record = run(tmp_path / "a", "callbacks=[checkpoint,early_stopping]",
                 "+trainer.val_check_interval=2", "callbacks.early_stopping.patience=1",
                 "+callbacks.early_stopping.min_delta=1")  # fmt: skip
    assert record["ended"] == "stopped after 1 epoch: val/acc did not improve for 1 validation"


def test_gradient_accumulation_does_not_scale_the_drawn_losses(tmp_path):
    overrides = ["callbacks=[checkpoint,curves,health]", "+trainer.accumulate_grad_batches=4"]
    run(tmp_path / "a", *overrides)
    with np.load(tmp_path / "a" / "images" / "curves_steps.npz") as steps:
        assert steps["loss"].min() > 2  # ten classes: log 10 is 2.3
    with np.load(tmp_path / "a" / "images" / "health_gradients.npz") as health:
        assert health["step"].tolist() == [1, 2, 4] and (health["update"] > 0).all()


# A loss that is not finite.


@pytest.mark.parametrize(
    ("overrides", "step", "epoch", "rate"),
    [
        (["model.optimizer.lr=1e30"], 1, 1, "1e+30"),
        (["model/optimizer=sgd", "model.optimizer.lr=1e19"], 1, 1, "1e+19"),
    ],
)
def test_a_loss_that_is_not_finite_ends_the_run(overrides, step, epoch, rate, tmp_path):
    folder = tmp_path / "a"
    steps = [f"+callbacks.steps={{_target_:{CALLBACKS}.ModelCheckpoint,every_n_train_steps:1,"
             f"save_top_k:-1,dirpath:{folder}/steps}}"]  # fmt: skip
    with pytest.raises(RunError) as raised:
        run(folder, NO_PICTURES, *overrides, *steps, add("Hooks"))
    message = str(raised.value)
    assert f"at step {step} (epoch {epoch}), with a learning rate of {rate}" in message
    assert "conv" in message or "fc" in message or "linear" in message
    assert record_of(folder)["error"] == f"RunError: {message}"
    # The optimizer has taken the previous step, but not this one.
    assert Hooks.calls.count("optimizer_step") == step
    for path in folder.rglob("*.ckpt"):
        for name, value in copy.copy(torch.load(path, weights_only=True)["state_dict"]).items():
            assert torch.isfinite(value).all(), f"{path.name}: {name}"


class Overflows(Classifier):
    """A finite loss, whose squared gradient is not; buffers; a loss of another name."""

    def __init__(self, where: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.where = where
        self.register_buffer("mask", torch.tensor([0.0, -math.inf]))
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("sparse", torch.eye(2).to_sparse(), persistent=False)

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if self.global_step == STEPS + 3:
            if self.where == "optimizer":
                return loss * 1e25
            self.mean[1] = math.inf if self.where == "buffer" else 0
        return loss

    def on_validation_epoch_end(self):
        super().on_validation_epoch_end()
        is_late = self.where == "validation" and self.current_epoch == 1
        self.log("val/nll", math.nan if is_late else 1.0)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (
            "optimizer",
            r"^The state of the optimizer is not finite: detected at step 16 \(epoch 2\)",
        ),
        ("buffer", "^The buffer mean is not finite: detected at step 16"),
        ("validation", "^val/nll is not finite: detected at step 16"),
    ],
)
def test_nothing_that_is_not_finite_is_saved(where, message, tmp_path, monkeypatch):
    monkeypatch.setenv("SIMPLECNN_TARGETS", f"{__name__}.Overflows")
    config = compose_run(tmp_path, NO_PICTURES)
    config["model"] |= {"_target_": f"{__name__}.Overflows", "where": where}
    with pytest.raises(RunError, match=message):
        train(config, tmp_path)
    for name in ("best", "last"):  # those of the first epoch
        saved = checkpoint(tmp_path, name)
        assert saved["global_step"] == STEPS and saved["state_dict"]["mask"].isinf().any()


# Concurrent processes.


def test_concurrent_evaluations_are_all_recorded(tmp_path):
    start = time.monotonic() + 0.5

    def add(number: int) -> None:
        time.sleep(max(0.0, start - time.monotonic()))  # all at once
        for _ in range(20):
            add_result(tmp_path, f"evaluation {number}", {"acc": number / 10})

    children = [fork(partial(add, number), tmp_path / "screen") for number in range(6)]
    assert [wait_for_exit(child) for child in children] == [0] * 6
    results = json.loads((tmp_path / "evaluation.json").read_text())
    assert results == {f"evaluation {n}": {"acc": n / 10} for n in range(6)}

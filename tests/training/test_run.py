"""One run, from its configuration to its directory: what it writes, however it ends."""

import csv
import json
import logging
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from children import events
from conftest import compose_run
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from simplecnn.api import load
from simplecnn.data.mnist import MNISTDataModule
from simplecnn.errors import InputError, RunError
from simplecnn.explain.subject import load_subject
from simplecnn.inference.evaluate import TestData, evaluate, measure
from simplecnn.inference.export import export
from simplecnn.inference.networks import load_network
from simplecnn.inference.trained_run import TrainedRun
from simplecnn.models.classifier import Classifier
from simplecnn.run_directory import RunDirectory
from simplecnn.training.build import build_module
from simplecnn.training.finite_loss import FiniteLoss
from simplecnn.training.run import train
from simplecnn.training.summary import hyper_parameters, summary

PICTURES = ["filters_conv1", "filters_conv2", "maps_conv1", "maps_conv2"]


def test_the_run_directory_is_complete(finished_run):
    names = {p.name for p in finished_run.iterdir()}
    assert {"config.yaml", "run.json", "metrics.csv", "checkpoints", "images"} <= names
    assert len([n for n in names if n.startswith("events.out.tfevents")]) == 1
    checkpoints = sorted(p.name for p in (finished_run / "checkpoints").iterdir())
    assert checkpoints == ["best.ckpt", "last.ckpt"]


def test_the_record_describes_the_run(finished_run):
    record = json.loads((finished_run / "run.json").read_text())
    assert record["status"] == "finished" and record["seed"] == 42
    assert record["num_epochs"] == 2
    assert record["image_shape"] == [1, 28, 28] and record["image_range"] == [0.0, 1.0]
    assert record["device"]["name"] == "CPU"
    assert record["device"]["why"] == "trainer.accelerator is cpu"
    # 1-4-8 channels of 3 x 3, then 8 * 7 * 7 features to 128 and 10
    assert record["num_parameters"] == 40 + 296 + (392 * 128 + 128) + 1290
    assert record["seconds"]["import"] == 1.5
    assert set(record["seconds"]) >= {"fit", "test"}
    parts = record["seconds_of_fit"]
    assert list(parts) == ["steps", "start", "validation", "pictures", "checkpoints"]
    assert all(value > 0 for value in parts.values())
    assert sum(parts.values()) == pytest.approx(record["seconds"]["fit"], abs=0.01)
    metrics = record["metrics"]
    assert {f"{s}/{m}" for s in ("train", "val", "test") for m in ("loss", "acc")} <= set(metrics)
    assert 0.1 < metrics["test/acc"] <= 1


def test_the_best_epoch_is_tested(finished_run):
    record = json.loads((finished_run / "run.json").read_text())
    with (finished_run / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["val/acc"]]
    accuracies = [float(row["val/acc"]) for row in rows]
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert record["best"]["value"] == pytest.approx(max(accuracies), abs=1e-6)
    assert record["best"]["epoch"] == 1 + int(np.argmax(accuracies))
    run = TrainedRun(RunDirectory.open(finished_run), finished_run / "checkpoints" / "best.ckpt")
    assert measure(run.network, TestData(run))["acc"] == pytest.approx(
        record["metrics"]["test/acc"], abs=1e-6
    )


def test_pictures_are_drawn_at_start_after_epochs_and_at_end(finished_run):
    files = {p.name for p in (finished_run / "images").glob("*.png")}
    # At the start and at the end (there are fewer than ten epochs); mistakes after each epoch.
    pictures = [f"{name}_epoch={e:03d}_step={8 * e:06d}" for name in PICTURES for e in (0, 2)]
    pictures += [f"mistakes_val_epoch={e:03d}_step={8 * e:06d}" for e in (1, 2)]
    cumulative = ["confusion_val", "curves", "filter_history_conv1", "health"]
    assert files == {f"{name}.png" for name in [*pictures, *cumulative]}
    for name in pictures:
        assert (finished_run / "images" / f"{name}.npz").exists()
    first, last = (
        np.asarray(Image.open(finished_run / "images" / f"filters_conv1_{when}.png"))
        for when in ("epoch=000_step=000000", "epoch=002_step=000016")
    )
    assert first.shape == last.shape and (first != last).any()


def test_tensorboard_has_scalars_pictures_and_hyper_parameters(finished_run):
    record = json.loads((finished_run / "run.json").read_text())
    shown = events(finished_run)
    assert [step for step, _ in shown["pictures/filters/conv1"]] == [0, 15]
    scalars = [f"{s}/{m}" for s in ("train", "val", "test") for m in ("acc", "loss")]
    scalar_tags = {tag for tag in shown if not tag.startswith("pictures/")}
    assert scalar_tags == {*scalars, "lr-Adam", "acc"}
    assert shown["acc"] == [(16, pytest.approx(record["best"]["value"]))]  # first in HPARAMS
    for key in scalars:  # the same tag in three runs: one chart
        assert shown[key][-1][1] == pytest.approx(record["metrics"][key], abs=1e-6), key
    accumulator = EventAccumulator(str(finished_run)).Reload()
    session = accumulator.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"model/optimizer/lr" in session and b"trainer/max_epochs" in session
    assert b"seed" in session and b"data/seed" not in session


def test_the_saved_configuration_is_resolved_and_sufficient(finished_run):
    text = (finished_run / "config.yaml").read_text()
    assert "${" not in text and "???" not in text
    config = RunDirectory.open(finished_run).config()
    assert config["model"]["network"]["channels"] == [4, 8]
    module = Classifier.load_from_checkpoint(
        finished_run / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True
    )
    assert module.network.conv2.out_channels == 8


def test_evaluate_needs_only_the_run_directory_even_when_moved(finished_run, tmp_path, caplog):
    moved = tmp_path / "somewhere else"
    shutil.copytree(finished_run, moved)
    folder = RunDirectory.open(moved)
    caplog.set_level(logging.INFO)
    accuracy = evaluate(TrainedRun(folder, folder.checkpoint("best")), data=None)
    record = json.loads((moved / "run.json").read_text())
    assert accuracy == pytest.approx(record["metrics"]["test/acc"], abs=1e-6)
    results = json.loads((moved / "evaluation.json").read_text())
    (result,) = results.values()
    assert list(results) == ["best on 500 test images of MNIST 5k"]
    confusion = np.array(result["confusion"])
    assert confusion.shape == (10, 10) and confusion.sum() == 500
    assert (confusion.sum(1) == 50).all()  # stratified
    assert np.trace(confusion) == round(accuracy * 500)
    for digit in range(10):
        assert result["acc_per_class"][str(digit)] == confusion[digit, digit] / 50
    assert f"accuracy {100 * accuracy:.2f} %" in caplog.text
    evaluate(TrainedRun(folder, folder.checkpoint("last")), data=None)
    assert len(json.loads((moved / "evaluation.json").read_text())) == 2


def test_evaluate_on_the_official_test_set(finished_run, mnist_dir, tmp_path):
    if mnist_dir is None:
        mnist_dir = tmp_path  # without the files, the error is tested
    moved = tmp_path / "run"
    shutil.copytree(finished_run, moved)
    folder = RunDirectory.open(moved)
    data = {"_target_": "simplecnn.data.mnist.MNISTDataModule", "data_dir": str(mnist_dir),
            "download": False}  # fmt: skip
    if mnist_dir == tmp_path:
        with pytest.raises(RunError, match="data=mnist_5k"):
            evaluate(TrainedRun(folder, folder.checkpoint("best")), data=data)
        return
    evaluate(TrainedRun(folder, folder.checkpoint("best")), data=data)
    (result,) = json.loads((moved / "evaluation.json").read_text()).values()
    # the number of images of each digit in the official test set
    counts = np.array(result["confusion"]).sum(1).tolist()
    assert counts == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_a_file_that_is_not_a_checkpoint_is_named(tmp_path):
    path = tmp_path / "x.ckpt"
    for content in (b"", b"not a checkpoint"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"x.ckpt is not a checkpoint of simplecnn: "):
            load_network(path)


def weights(folder, name="last"):
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


def test_pictures_and_loggers_do_not_change_the_weights(finished_run, tmp_path):
    """The same weights, bit for bit, with checkpoints only."""
    folder = tmp_path / "plain"
    train(compose_run(folder, "callbacks=checkpoint", "logger=none"), folder)
    plain, pictured = weights(folder), weights(finished_run)
    assert list(plain) == list(pictured)
    assert all(torch.equal(plain[key], pictured[key]) for key in plain)
    assert not (folder / "images").exists() and not list(folder.glob("events*"))


def test_callbacks_none_and_logger_none(tmp_path):
    folder = tmp_path / "bare"
    best = train(compose_run(folder, "callbacks=none", "logger=none"), folder)
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "finished" and record["best"] is None
    assert best == pytest.approx(record["metrics"]["val/acc"], abs=1e-6)
    assert sorted(p.name for p in folder.iterdir()) == ["config.yaml", "run.json"]


def test_another_seed_gives_other_weights(finished_run, tmp_path):
    folder = tmp_path / "seed"
    train(compose_run(folder, "seed=7", "callbacks=checkpoint", "logger=none"), folder)
    a, b = weights(folder), weights(finished_run)
    assert not torch.equal(a["network.conv1.weight"], b["network.conv1.weight"])


def test_the_tutorial_experiment_tests_after_each_epoch(tmp_path):
    folder = tmp_path / "tutorial"
    config = compose_run(folder, "experiment=tutorial", "callbacks=checkpoint")
    assert config["data"]["val_size"] == 0 and config["data"]["test_each_epoch"]
    assert train(config, folder) is None  # no monitor, no best checkpoint
    with (folder / "metrics.csv").open(newline="") as file:
        tests = [float(row["test/acc"]) for row in csv.DictReader(file) if row["test/acc"]]
    record = json.loads((folder / "run.json").read_text())
    assert len(tests) == 3 and tests[1] == tests[2]  # each epoch, and again at the end
    assert record["metrics"]["test/acc"] == pytest.approx(tests[-1], abs=1e-6)
    assert record["best"] is None
    assert [p.name for p in (folder / "checkpoints").iterdir()] == ["last.ckpt"]


def test_another_network_by_configuration_alone(tmp_path):
    folder = tmp_path / "lenet"
    overrides = ["model=lenet", "callbacks=[filters,filter_history,feature_maps,health]",
                 "callbacks.filters.layers=all", "trainer.max_epochs=1"]  # fmt: skip
    train(compose_run(folder, *overrides), folder)
    names = {re.sub("_epoch.*", "", p.stem) for p in (folder / "images").glob("*.png")}
    assert {"filters_0", "filters_3", "filter_history_0", "maps_0", "maps_3", "health"} <= names
    assert json.loads((folder / "run.json").read_text())["num_parameters"] == 61_706


class Lazy(nn.Sequential):
    """A network that does not define the size of its inputs."""

    def __init__(self) -> None:
        super().__init__(nn.LazyConv2d(4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10))


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_lazy_layers_infer_their_sizes_from_the_data(tmp_path, monkeypatch):
    monkeypatch.setenv("SIMPLECNN_TARGETS", f"{__name__}.Lazy")
    overrides = ["model=simplecnn", f"model.network._target_={__name__}.Lazy",
                 "callbacks=[checkpoint,filters]"]  # fmt: skip
    train(compose_run(tmp_path / "lazy", *overrides), tmp_path / "lazy")
    run = RunDirectory.open(tmp_path / "lazy")
    assert run.record["num_parameters"] == 40 + 4 * 26 * 26 * 10 + 10
    trained_run = TrainedRun(run, run.checkpoint("best"))
    assert evaluate(trained_run, data=None) == pytest.approx(
        run.record["metrics"]["test/acc"], abs=1e-6
    )
    subject = load_subject(trained_run)
    trained, untrained = (n[3].weight for n in (subject.network, subject.untrained))
    assert trained.shape == untrained.shape and not torch.equal(trained, untrained)


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["callbacks.filters.layers=[conv9]"], InputError,
         "layers: conv9 is not a convolution of this network. Allowed: all, first, last, or a list "
         "of conv1, conv2."),
        (["+trainer.profiler={_target_:pytorch_lightning.profilers.PyTorchProfiler,sort_by_key:x}"],
         InputError, "pytorch_lightning.profilers.PyTorchProfiler rejects its arguments"),
    ],
)  # fmt: skip
def test_a_failed_run_is_recorded_and_keeps_its_files(overrides, error, message, tmp_path):
    folder = tmp_path / "failed"
    with pytest.raises(error, match=re.escape(message)):
        train(compose_run(folder, *overrides), folder)
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "failed"
    assert record["error"].startswith(error.__name__)
    assert (folder / "config.yaml").exists()


class _RaiseInEpoch(pl.Callback):
    """Raises `error` in an epoch, counted from 0; by default the second."""

    def __init__(self, error: BaseException, epoch: int = 1) -> None:
        self.error, self.epoch = error, epoch

    def on_train_batch_start(self, trainer, *_):
        if trainer.current_epoch == self.epoch:
            raise self.error


@pytest.mark.parametrize(
    ("error", "raised", "status"),
    [(RuntimeError("no luck"), RuntimeError, "failed"),
     (KeyboardInterrupt(), SystemExit, "interrupted")],
)  # fmt: skip
def test_an_unfinished_run_keeps_its_last_epoch(error, raised, status, tmp_path, monkeypatch):
    from simplecnn.training import run

    original = run.build_trainer

    def build_trainer(*args, **options):
        trainer = original(*args, **options)
        trainer.callbacks.append(_RaiseInEpoch(error))
        return trainer

    monkeypatch.setattr(run, "build_trainer", build_trainer)
    folder = tmp_path / "unfinished"
    config = compose_run(folder, "callbacks=checkpoint", "logger=csv")
    with pytest.raises(raised):
        train(config, folder)
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == status and record["num_epochs"] == record["best"]["epoch"] == 1
    assert (folder / "checkpoints" / "last.ckpt").exists()
    assert "fit" in record["seconds"] and "test" not in record["seconds"]
    with pytest.raises(InputError, match="runs are never overwritten"):
        train(config, folder)
    assert json.loads((folder / "run.json").read_text()) == record


def test_a_run_that_is_interrupted_again_has_the_metrics_of_its_last_epoch(tmp_path, monkeypatch):
    from simplecnn.training import run

    original, epochs = run.build_trainer, iter([1, 2])

    def build_trainer(*args, **options):
        trainer = original(*args, **options)
        trainer.callbacks.append(_RaiseInEpoch(KeyboardInterrupt(), next(epochs)))
        return trainer

    monkeypatch.setattr(run, "build_trainer", build_trainer)
    folder = tmp_path / "run"
    config = compose_run(folder, "callbacks=checkpoint", "logger=csv", "trainer.max_epochs=3")
    for num_epochs in (1, 2):
        with pytest.raises(SystemExit):
            train(config, folder, resume=True, requested=True)
        record = json.loads((folder / "run.json").read_text())
        with (folder / "metrics.csv").open(newline="") as file:
            last = [row for row in csv.DictReader(file) if row["val/acc"]][-1]
        assert record["num_epochs"] == num_epochs == int(last["epoch"]) + 1
        for name, value in record["metrics"].items():
            assert value == pytest.approx(float(last[name]), abs=1e-5), name


@pytest.mark.parametrize(("seconds", "suffix"), [({"fit": 1.0, "test": 0.1}, " (tested)"),
                                                 ({"fit": 1.0}, "")])  # fmt: skip
def test_the_summary_marks_the_best_epoch_as_tested_only_after_a_test(seconds, suffix, tmp_path):
    record = {"metrics": {"val/acc": 0.98, "test/acc": 0.97}, "num_epochs": 3, "ended": None,
              "best": {"value": 0.98, "epoch": 2}, "seconds": seconds}  # fmt: skip
    config = {"monitor": "val/acc", "name": "train"}
    directory = SimpleNamespace(record=record, config=lambda: config, path=tmp_path,
                                metric_rows=list)  # fmt: skip
    lines = summary(directory, SimpleNamespace(loggers=[], fast_dev_run=False), None).splitlines()
    assert f"best         val/acc 98.00 % after epoch 2{suffix}" in lines
    tested = 2 if suffix else 3  # without a test, the accuracy is that of test_each_epoch
    table = ["epoch accuracy", "validation 3 98.00 %", f"test {tested} 97.00 %"]
    assert [" ".join(line.split()) for line in lines[:3]] == table


def test_metrics_of_an_earlier_epoch_are_not_shown_as_those_of_the_last(tmp_path, caplog):
    caplog.set_level("INFO", "simplecnn")
    config = compose_run(
        tmp_path / "run", "callbacks=[checkpoint,progress]", "logger=csv", "trainer.max_epochs=3",
        "+trainer.check_val_every_n_epoch=2",
    )  # fmt: skip
    train(config, tmp_path / "run")
    lines = [line for m in caplog.messages for line in m.splitlines()]
    assert ["val/acc" in line for line in lines if line.startswith("epoch ")] == [
        False, True, False,
    ]  # fmt: skip
    epochs = {words[0]: words[1] for line in lines if len(words := line.split()) > 2}
    assert epochs["training"] == "completed" and epochs["validation"] == "2"


def test_a_row_of_metrics_without_an_epoch_does_not_cost_the_summary(tmp_path):
    record = {"metrics": {"val/acc": 0.9}, "num_epochs": 3, "ended": None, "best": None,
              "seconds": {"fit": 1.0}}  # fmt: skip
    directory = RunDirectory(tmp_path)
    directory.record, directory.config = record, lambda: {"monitor": "val/acc", "name": "train"}
    rows = "step,epoch,val/acc,val/extra\n8,0,0.8,\n16,1,0.9,\n17,,,1.0\n24,2,,\n"
    (tmp_path / "metrics.csv").write_text(rows)
    lines = summary(directory, SimpleNamespace(loggers=[]), None).splitlines()
    assert [line.split() for line in lines[:2]] == [
        ["epoch", "accuracy"], ["validation", "2", "90.00", "%"],
    ]  # fmt: skip


def test_hyper_parameters_are_flat_and_plain():
    config = {
        "model": {"_target_": "x", "optimizer": {"_target_": "y", "lr": 0.1}, "scheduler": None},
        "data": {"data_dir": "/secret", "batch_size": 3, "seed": 7},
        "trainer": {"devices": [0, 1]},
        "seed": 7,
        "name": "n",
    }
    assert hyper_parameters(config) == {
        "model/optimizer/lr": 0.1, "model/scheduler": "null", "data/batch_size": 3,
        "trainer/devices": "[0, 1]", "seed": 7,
    }  # fmt: skip


@pytest.mark.parametrize("callbacks", ["checkpoint", "early_stopping"])
def test_a_monitor_that_the_run_does_not_log_is_a_sentence(callbacks, tmp_path):
    folder = tmp_path / "run"
    config = compose_run(folder, f"callbacks={callbacks}", "logger=csv")
    config["monitor"] = "val/error"
    for node in config["callbacks"].values():
        node |= {"monitor": "val/error"} if "monitor" in node else {}
    with pytest.raises(RunError, match="^monitor is 'val/error': this run logs .*val/acc"):
        train(config, folder)


class Own(pl.LightningModule):
    """A LightningModule that knows nothing of simplecnn."""

    num_training_steps = 0

    def __init__(self, broken: bool = False) -> None:
        super().__init__()
        self.layer, self.broken = nn.Linear(784, 10), broken
        Own.num_training_steps = 0

    def training_step(self, batch, i):
        Own.num_training_steps += 1
        return nn.functional.cross_entropy(self.layer(batch[0].flatten(1)), batch[1])

    def validation_step(self, batch, i):
        assert not self.broken
        self.log("val/error", self.layer(batch[0].flatten(1)).mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_two_batches_are_validated_before_the_training_of_a_custom_module(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("SIMPLECNN_TARGETS", f"{__name__}.Own")
    config = compose_run(tmp_path / "run", "callbacks=checkpoint", "logger=none")
    config |= {"monitor": "val/eror", "mode": "min"}
    config["callbacks"]["best"] |= {"monitor": "val/eror", "mode": "min"}
    config["model"] = {"_target_": f"{__name__}.Own"}
    with pytest.raises(RunError, match="^monitor is 'val/eror': this run logs val/error"):
        train(config, tmp_path / "run")
    (warning,) = [r.message for r in caplog.records if "sanity check logs val/error" in r.message]
    assert warning.endswith("Did you mean val/error?") and Own.num_training_steps == 8
    config["model"]["broken"] = True
    with pytest.raises(AssertionError):
        train(config, tmp_path / "broken")
    assert Own.num_training_steps == 0


def test_no_layer_is_blamed_for_a_loss_if_batches_are_not_images():
    module = pl.LightningModule()
    module.layer = nn.Linear(1, 1)
    optimizers = [torch.optim.SGD(module.parameters(), lr=0.1)]
    trainer = SimpleNamespace(
        world_size=1, global_step=3, current_epoch=0, optimizers=optimizers, gradient_clip_val=None
    )
    callback = FiniteLoss()
    callback.on_train_batch_start(trainer, module, {"text": "a"}, 0)
    with pytest.raises(RunError, match=r"step 3 .*; no layer can be named, because batches are"):
        callback.on_before_backward(trainer, module, torch.tensor(torch.nan))


class TwoOutputs(nn.Sequential):
    def __init__(self, size=28):
        super().__init__(nn.Flatten(), nn.Linear(size**2, 2))


class Pair(nn.Flatten):
    def forward(self, images):
        return images, images


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [({}, "model.network has 2 outputs, but the data has 10 classes."),
     ({"size": 14}, "model.network does not accept images of shape 1 x 28 x 28: "),
     ({"_target_": f"{__name__}.Pair"},
      "model.network returns a tuple: it must return logits (N, classes)."),
     ({"_target_": "torch.nn.ReLU"},
      "model.network returns a Tensor of shape (1, 1, 28, 28): it must return logits (N, cla")],
)  # fmt: skip
def test_a_network_that_does_not_fit_the_data_is_reported_before_training(
    arguments, sentence, tmp_path, monkeypatch
):
    monkeypatch.setenv("SIMPLECNN_TARGETS", f"{__name__}.TwoOutputs,{__name__}.Pair")
    config = compose_run(tmp_path / "run", "callbacks=none", "logger=none")
    config["model"]["network"] = {"_target_": f"{__name__}.TwoOutputs", **arguments}
    with pytest.raises(RunError, match=re.escape(sentence)):
        train(config, tmp_path / "run")


def test_outputs_without_a_class_are_reported(tmp_path, caplog):
    overrides = ["model.network.num_classes=12", "callbacks=checkpoint", "logger=none"]
    train(compose_run(tmp_path / "run", *overrides, "trainer.max_epochs=1"), tmp_path / "run")
    assert "model.network has 12 outputs, but the data has 10 classes" in caplog.text


def test_fine_tuning_uses_the_class_weights_of_the_new_run(tmp_path):
    def tune(name, class_weights, *overrides):
        options = ["trainer.max_epochs=1", "callbacks=checkpoint", "logger=none", *overrides]
        config = compose_run(tmp_path / name, *options)
        config["model"]["class_weights"] = class_weights
        train(config, tmp_path / name)
        return weights(tmp_path / name).get("loss.weight")

    assert tune("run", [2.0, *9 * [1.0]])[0] == 2
    options = f"ckpt_path={tmp_path}/run/checkpoints/last.ckpt", "ckpt_weights_only=true"
    assert tune("plain", None, *options) is None
    assert tune("other", [3.0, *9 * [1.0]], *options)[0] == 3


def test_class_weights_of_other_classes_are_reported():
    model = {"_target_": "simplecnn.models.classifier.Classifier", "class_weights": [1, 2, 3]}
    with pytest.raises(RunError, match="class_weights has 3 weights, but the data has 10 classes"):
        build_module({"model": model}, MNISTDataModule(dataset="MNIST5k"))


class Stripes(pl.LightningDataModule):
    """60 images of 8 x 20 pixels, with a stripe in one of three places."""

    def train_dataloader(self):
        labels = torch.arange(60) % 3
        images = torch.zeros(60, 1, 8, 20)
        images[range(60), :, :, 6 * labels] = 1.0
        return DataLoader(TensorDataset(images, labels), batch_size=20)

    val_dataloader = test_dataloader = train_dataloader


class ThreeOutputs(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))


def test_images_that_are_not_square_keep_their_shape(tmp_path, monkeypatch):
    monkeypatch.setenv("SIMPLECNN_TARGETS", f"{__name__}.Stripes,{__name__}.ThreeOutputs")
    config = compose_run(tmp_path, "callbacks=checkpoint", "logger=none", "monitor=null")
    config["data"] = {"_target_": f"{__name__}.Stripes"}
    with pytest.raises(InputError, match="image_size: the images have 8 x 20 pixels, but this net"):
        build_module(config, Stripes())  # SimpleCNN
    config["model"]["network"] = {"_target_": f"{__name__}.ThreeOutputs"}
    train(config, tmp_path)
    run = load(tmp_path, checkpoint="last")
    images, labels = next(iter(Stripes().train_dataloader()))
    with torch.no_grad():
        expected = run.network(images).softmax(1)
    np.testing.assert_allclose(run.predict(images).probabilities, expected, rtol=1e-5)
    assert run.predict(np.random.default_rng(0).random((30, 30))).probabilities.shape == (1, 3)
    record = export(run, tmp_path / "model.pt2", "torch_export")
    assert record["preprocessing"]["input"].startswith("float32 (N, 1, 8, 20)")
    program = torch.export.load(tmp_path / "model.pt2").module()
    torch.testing.assert_close(program(images), run.network(images))


def test_weights_of_another_network_are_reported_with_what_differs(tmp_path, finished_run):
    last = finished_run / "checkpoints" / "last.ckpt"
    overrides = ["model.network.channels=[4,9]", f"ckpt_path={last}", "ckpt_weights_only=true"]
    sentence = (
        "The checkpoint has the weights of another model: size mismatch for network.conv2.weight: "
        "copying a param with shape torch.Size([8, 4, 3, 3])"
    )
    with pytest.raises(RunError, match=re.escape(sentence)):
        train(compose_run(tmp_path / "run", *overrides, "callbacks=none"), tmp_path / "run")


class NotANumber(Classifier):
    def on_validation_epoch_end(self):
        super().on_validation_epoch_end()
        self.log("val/score", float("nan"))


def test_a_metric_that_is_not_a_number_leaves_the_record_valid_json(tmp_path, monkeypatch):
    monkeypatch.setenv("SIMPLECNN_TARGETS", f"{__name__}.NotANumber")
    overrides = ["callbacks=checkpoint", "logger=csv", "monitor=val/score", "trainer.max_epochs=1"]
    config = compose_run(tmp_path / "run", f"model._target_={__name__}.NotANumber", *overrides)
    assert train(config, tmp_path / "run") is None

    def fail(constant: str) -> None:
        raise AssertionError(constant)

    text = (tmp_path / "run/run.json").read_text()
    record = json.loads(text, parse_constant=fail)
    assert record["best"] is None and "val/score" not in record["metrics"]
    assert record["metrics"]["test/acc"] > 0.05


class Plain(pl.LightningModule):
    """A LightningModule that knows nothing of simplecnn; logs the loss of steps and of epochs."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                                 nn.Linear(4, 2))  # fmt: skip

    def forward(self, x):
        assert x.shape[1:] == (3, 20, 20)
        return self.net(x)

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Colors(pl.LightningDataModule):
    def train_dataloader(self):
        images = TensorDataset(torch.rand(8, 3, 20, 20), torch.arange(8) % 2)
        return DataLoader(images, batch_size=4)


def test_predict_and_export_know_the_image_shape_of_custom_classes(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("SIMPLECNN_TARGETS", __name__)
    overrides = ["monitor=null", "callbacks=[checkpoint,progress]", "logger=none"]
    config = compose_run(tmp_path / "run", f"data._target_={__name__}.Colors", *overrides)
    config["model"] = {"_target_": f"{__name__}.Plain"}
    with caplog.at_level("INFO", "simplecnn"):
        train(config, tmp_path / "run")
    assert "train/loss 0." in caplog.text and "loss_step" not in caplog.text
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["image_shape"] == [3, 20, 20] and list(record["metrics"]) == ["train/loss"]
    loaded = load(tmp_path / "run")
    blue = Image.new("RGB", (50, 30), "blue")
    blue.paste("red", (5, 5, 20, 20))
    assert len(loaded.predict(blue)) == 1
    metadata = export(loaded, tmp_path / "model.pt2", "torch_export")
    assert metadata["preprocessing"]["input"].startswith("float32 (N, 3, 20, 20)")
    path = tmp_path / "run/run.json"  # an untrusted record must not cost memory
    path.write_text(json.dumps({**record, "image_shape": [3, 10**9, "x"]}))
    with pytest.raises(AssertionError):
        load(tmp_path / "run").predict(blue)


class KeepsConfig(pl.LightningModule):
    def __init__(self, network):
        super().__init__()
        self.given = network


def test_a_module_receives_configurations_with_recursive_false(monkeypatch):
    monkeypatch.setenv("SIMPLECNN_TARGETS", f"{__name__}.KeepsConfig")
    model = {"_target_": f"{__name__}.KeepsConfig", "network": {"_target_": "torch.nn.ReLU"}}
    datamodule = pl.LightningDataModule()
    assert isinstance(build_module({"model": model}, datamodule).given, nn.ReLU)
    module = build_module({"model": {**model, "_recursive_": False}}, datamodule)
    assert module.given == {"_target_": "torch.nn.ReLU"}

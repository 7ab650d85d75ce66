"""The arrays behind a run's pictures agree with the run; pictures are drawn when they should be."""

import csv
from unittest.mock import Mock

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torchvision
from children import events
from torch import nn

from simplecnn.callbacks.confusion import Confusion
from simplecnn.callbacks.curves import Curves
from simplecnn.callbacks.feature_maps import FeatureMaps
from simplecnn.callbacks.filter_history import FilterHistory, is_snapshot_epoch
from simplecnn.callbacks.filters import Filters
from simplecnn.callbacks.health import Health
from simplecnn.callbacks.image_callback import History, log_spaced, steps_per_epoch
from simplecnn.callbacks.mistakes import Mistakes
from simplecnn.checkpoint_file import read_checkpoint
from simplecnn.config.build import build
from simplecnn.data.batches import Batches
from simplecnn.models.activations import feature_maps
from simplecnn.models.classifier import Classifier
from simplecnn.models.metrics import LossAndAccuracy
from simplecnn.run_directory import RunDirectory

STEPS = [0, 1, 2, 3, 4, 6, 8, 16]  # eight steps per epoch: early steps, and both epochs


@pytest.fixture(scope="module")
def last(finished_run):
    """The module after the last epoch; the validation images, their labels and logits."""
    path = finished_run / "checkpoints" / "last.ckpt"
    module = Classifier.load_from_checkpoint(path, weights_only=True).eval()
    data = build(RunDirectory.open(finished_run).config()["data"])
    data.setup("fit")
    batches = list(data.val_dataloader())
    images, labels = (torch.cat([batch[i] for batch in batches]) for i in (0, 1))
    with torch.no_grad():
        return module, images, labels, module(images)


def arrays(folder, name):
    with np.load(folder / "images" / f"{name}.npz") as file:
        return dict(file)


@pytest.mark.parametrize(
    ("num_steps", "num_points", "expected"),
    [(860, 6, [1, 3, 10, 29, 90, 279]), (8, 6, [1, 2, 3, 4, 6]), (1, 6, []), (860, 0, []),
     (100, 1, [1])],
)  # fmt: skip
def test_early_steps_are_log_spaced(num_steps, num_points, expected):
    assert log_spaced(num_steps, num_points) == expected


def test_an_epoch_has_the_steps_of_all_optimizers():
    """As does Lightning's global step."""
    trainer = Mock(num_training_batches=5, accumulate_grad_batches=1, optimizers=[Mock(), Mock()])
    assert steps_per_epoch(trainer) == 10
    trainer.optimizers, trainer.accumulate_grad_batches = [Mock()], 2
    assert steps_per_epoch(trainer) == 3


def test_the_filter_history_runs_from_the_first_weights_to_the_last(finished_run, last):
    history = arrays(finished_run, "filter_history_conv1")
    assert history["step"].tolist() == STEPS
    assert history["epoch"].tolist() == [0, -1, -1, -1, -1, -1, 1, 2]
    assert history["weights"].shape == (8, 4, 1, 3, 3)
    np.testing.assert_array_equal(history["weights"][-1], last[0].network.conv1.weight.detach())
    pl.seed_everything(42)
    fresh = Classifier(**{k: v for k, v in last[0].hparams.items()})
    np.testing.assert_array_equal(history["weights"][0], fresh.network.conv1.weight.detach())
    assert all(
        (a != b).any() for a, b in zip(history["weights"], history["weights"][1:], strict=False)
    )


def test_mistakes_are_those_of_the_network(finished_run, last):
    _, images, labels, logits = last
    predictions = logits.argmax(1)
    checkpoint = read_checkpoint(finished_run / "checkpoints" / "last.ckpt")
    answers = checkpoint["callbacks"]["Mistakes"]["answers"]
    assert torch.equal(answers["predictions"], predictions.int())
    assert torch.equal(answers["wrong"], predictions != labels)
    shown = arrays(finished_run, "mistakes_val_epoch=002_step=000016")
    confidence = torch.where(predictions != labels, logits.softmax(1).amax(1), -1.0)
    worst = confidence.sort(descending=True, stable=True).indices[:40]
    np.testing.assert_allclose(shown["probabilities"][:, 0], confidence[worst], rtol=1e-5)
    for key, values in [("images", images), ("labels", labels)]:
        np.testing.assert_array_equal(shown[key], values[shown["places"]])
    first = arrays(finished_run, "mistakes_val_epoch=001_step=000008")
    assert shown["compared"] and not first["compared"]
    assert shown["num_wrong"] == (predictions != labels).sum()
    assert shown["num_wrong"] - shown["num_new"] + shown["num_fixed"] == first["num_wrong"]
    assert not shown["new"][np.isin(shown["places"], first["places"])].any()


def test_mistakes_are_compared_with_those_of_the_previous_pass(tmp_path):
    """Six images of three classes, in two batches."""
    labels, images = torch.tensor([0, 1, 2, 0, 1, 2]), torch.zeros(6, 1, 2, 2)

    def validate(callback, predictions):
        scale = torch.arange(6)[:, None] + 1.0  # confidence increases with the index
        logits = nn.functional.one_hot(torch.tensor(predictions), 3) * scale
        for part in (slice(0, 4), slice(4, 6)):
            callback.add(logits[part], images[part], labels[part])
        callback.finish()
        return {key: value.tolist() for key, value in callback._shown.items()}

    mistakes = Mistakes(str(tmp_path), number=2)
    shown = validate(mistakes, [1, 1, 2, 1, 0, 2])  # wrong: 0, 3, 4
    assert shown["places"] == [4, 3] and not shown["compared"]
    resumed = Mistakes(str(tmp_path), number=2)
    resumed.load_state_dict(mistakes.state_dict())
    assert {key: value.tolist() for key, value in resumed._shown.items()} == shown  # to be drawn
    for callback in (mistakes, resumed):
        shown = validate(callback, [0, 1, 0, 1, 1, 0])  # wrong: 2, 3, 5
        assert shown["places"] == [5, 3] and shown["new"] == [True, False]
        assert [c[0] for c in shown["classes"]] == [0, 1] and shown["labels"] == [2, 0]
        counts = [shown[f"num_{name}"] for name in ("images", "wrong", "new", "fixed")]
        assert counts == [6, 3, 2, 2] and shown["compared"]


def test_of_equal_logits_mistakes_and_accuracy_count_the_same(tmp_path):
    logits = torch.tensor([[0.0, 0, 0, 2, 0, 0, 0, 2, 0, 0]] * 3, dtype=torch.bfloat16)
    labels, images = torch.tensor([3, 7, 7]), torch.zeros(3, 1, 2, 2)
    mistakes, metric = Mistakes(str(tmp_path)), LossAndAccuracy()
    mistakes.add(logits, images, labels)
    mistakes.finish()
    metric.update(torch.tensor(1.0), logits, labels)
    assert mistakes.answers["wrong"].tolist() == [False, True, True]
    assert metric.compute()["acc"] == pytest.approx(1 / 3)
    assert mistakes._shown["classes"].tolist() == [[3, 7]] * 2


def test_a_picture_is_saved_before_the_next_one_is_drawn(tmp_path, monkeypatch):
    """The pictures of a deep network do not fit in memory together."""
    from simplecnn.figures import feature_maps as figures

    saved = []

    def draw(*args, **options):
        saved.append(sorted(path.name for path in tmp_path.glob("*.png")))
        return figures.feature_maps_figure(*args, **options)

    monkeypatch.setattr("simplecnn.callbacks.feature_maps.feature_maps_figure", draw)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 3, 3), nn.Flatten())
    datamodule = Mock(spec=["probes"], probes=lambda: (torch.rand(2, 1, 6, 6), torch.arange(2)))
    trainer = Mock(datamodule=datamodule, current_epoch=1, global_step=8, loggers=[],
                   train_dataloader=None, val_dataloaders=None, fast_dev_run=False)  # fmt: skip
    module = pl.LightningModule()
    module.network = network
    FeatureMaps(str(tmp_path)).save_pictures(trainer, module)
    assert saved == [[], ["maps_0_epoch=001_step=000008.png"]]


def test_titles_of_mistakes(tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(
        "simplecnn.callbacks.mistakes.mistakes_figure", lambda *_, title, **__: titles.append(title)
    )
    trainer = Mock(datamodule=None, train_dataloader=None, val_dataloaders=None)
    for wrong, new, fixed in ((1, 0, 1), (2, 2, 0)):
        mistakes = Mistakes(str(tmp_path))
        counts = {"images": 100, "wrong": wrong, "new": new, "fixed": fixed, "classes": 10}
        shown = {f"num_{name}": torch.tensor(count) for name, count in counts.items()}
        shown |= {name: torch.zeros(wrong, dtype=torch.bool)
                  for name in ("images", "labels", "classes", "probabilities", "new")}  # fmt: skip
        mistakes._shown = shown | {"compared": torch.tensor(True)}
        list(mistakes.draw(trainer, None, "now"))
    assert "The most confident mistake on 100 validation images (true → predicted" in titles[0]
    assert "1 wrong: 0 new since the previous validation (orange), 1 persistent" in titles[0]
    assert titles[0].endswith("1 persistent (gray), 1 corrected")
    assert "The 2 most confident mistakes on 100" in titles[1]
    assert titles[1].endswith("0 persistent (gray), 0 corrected")


def test_confusion_counts_the_validation_images(finished_run, last):
    _, _, labels, logits = last
    confusion = arrays(finished_run, "confusion_val")
    expected = np.zeros((10, 10), int)
    np.add.at(expected, (labels.numpy(), logits.argmax(1).numpy()), 1)
    np.testing.assert_array_equal(confusion["counts"], expected)
    assert confusion["step"] == 16


def test_the_confusion_matrix_survives_a_resume(tmp_path):
    before, after = Confusion(str(tmp_path)), Confusion(str(tmp_path))
    assert before.state_dict() == {}
    before.add(torch.eye(3), torch.zeros(3, 1, 2, 2), torch.tensor([0, 1, 1]))
    before.validated_at = 7
    before.finish()
    torch.save(before.state_dict(), tmp_path / "state.pt")
    after.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert (after._counts.tolist(), after.validated_at) == (before._counts.tolist(), 7)
    assert after._counts.tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 0]]


def test_health_is_measured_on_all_validation_images(finished_run, last):
    module, images, _, logits = last
    activity = arrays(finished_run, "health_activity")
    assert activity["step"].tolist() == [8, 16] and activity["num_images"].tolist() == [500, 500]
    maps, _ = feature_maps(module.network, images)
    for i, values in enumerate(maps.values()):
        values = values.numpy()
        assert activity["dead"][-1, i] == pytest.approx((values <= 0).all(0).mean())
        assert activity["always_on"][-1, i] == pytest.approx((values > 0).all(0).mean())
        assert activity["zeros"][-1, i] == pytest.approx((values == 0).mean())
        assert activity["mean"][-1, i] == pytest.approx(values.mean(), rel=1e-4)
        assert activity["std"][-1, i] == pytest.approx(values.std(), rel=1e-4)
    # conv1, conv2, fc1, fc2: the logits are not rectified, so no unit can be dead
    assert np.isnan(activity["dead"][-1, 3]) and not np.isnan(activity["dead"][-1, :3]).any()
    assert activity["mean"][-1, 3] == pytest.approx(float(logits.mean()), rel=1e-4)
    gradients = arrays(finished_run, "health_gradients")
    assert gradients["step"].tolist() == STEPS[1:]
    assert gradients["norm"].shape == gradients["update"].shape == (7, 4)
    # Adam's first step changes a weight by the learning rate, here 0.001
    history = arrays(finished_run, "filter_history_conv1")["weights"]
    expected = np.linalg.norm(history[1] - history[0]) / np.linalg.norm(history[0])
    assert gradients["update"][0, 0] == pytest.approx(expected, rel=1e-4)
    assert (gradients["norm"] > 0).all()


def test_curves_show_the_learning_rate_of_each_step(tmp_path):
    from conftest import compose_run

    from simplecnn.training.run import train

    overrides = ["callbacks=[curves]", "logger=csv", "model/scheduler=one_cycle"]
    for accumulate in (1, 3):
        folder = tmp_path / str(accumulate)
        accumulation = f"+trainer.accumulate_grad_batches={accumulate}"
        train(compose_run(folder, *overrides, accumulation), folder)
        steps = arrays(folder, "curves_steps")
        assert steps["step"].tolist() == list(range(1, len(steps["step"]) + 1))
        assert steps["lr"].argmax() > 0 and (steps["loss"] > 0).all()
        # The rate starts at a 25th of its maximum and ends at a 10,000th of that.
        assert steps["lr"][-1] == pytest.approx(steps["lr"][0] / 1e4, rel=1e-3)


def test_curves_agree_with_the_logged_metrics(finished_run):
    epochs, steps = arrays(finished_run, "curves_epochs"), arrays(finished_run, "curves_steps")
    with (finished_run / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["val/acc"]]
    for key in ("train/loss", "train/acc", "val/loss", "val/acc"):
        logged = [float(row[key]) for row in rows]
        np.testing.assert_allclose(epochs[key], logged, rtol=1e-5)
    assert epochs["epoch"].tolist() == [1, 2] and (epochs["seconds"] > 0).all()
    assert steps["step"].tolist() == list(range(1, 17)) and set(steps["lr"]) == {1e-3}
    # the loss of an epoch is the mean of its batches
    assert steps["loss"][:8].mean() == pytest.approx(epochs["train/loss"][0], rel=1e-5)


def test_every_picture_is_in_tensorboard(finished_run):
    shown = events(finished_run)
    steps = {
        tag.removeprefix("pictures/"): [step for step, _ in entries]
        for tag, entries in shown.items()
        if tag.startswith("pictures/")
    }
    assert steps == {
        "filters/conv1": [0, 15], "filters/conv2": [0, 15],
        "maps/conv1": [0, 15], "maps/conv2": [0, 15],
        "filter_history/conv1": [15], "health": [15], "mistakes/val": [7, 15],
        "confusion/val": [15],
        "curves": [15],
    }  # fmt: skip
    _, newest = shown["pictures/filter_history/conv1"][-1]
    assert newest == (finished_run / "images" / "filter_history_conv1.png").read_bytes()
    assert not [tag for tag in shown if tag.startswith("health")]


def test_a_history_is_truncated_to_the_resumed_step(tmp_path):
    history = History(tmp_path / "h.npz")
    for step in (1, 2, 3):
        history.add(step, value=[step, 10.0 * step])
    history.add(3, late=7.0)
    history.save()
    resumed = History(tmp_path / "h.npz", 2)
    assert resumed.arrays()["step"].tolist() == [1, 2]
    resumed.add(3, value=[5, 5])
    stacked = resumed.arrays()
    np.testing.assert_array_equal(stacked["value"], [[1, 10], [2, 20], [5, 5]])
    assert np.isnan(stacked["late"]).all()
    assert [p.name for p in tmp_path.iterdir()] == ["h.npz"]


@pytest.mark.parametrize(("channels", "expected"), [(3, [True, False]), (1, [False, False])])
def test_only_the_first_filters_of_color_images_are_drawn_in_color(
    channels, expected, tmp_path, monkeypatch
):
    module = pl.LightningModule()
    module.network = nn.Sequential(nn.Conv2d(channels, 3, 3), nn.Conv2d(3, 2, 3))
    trainer = Mock(current_epoch=0, global_step=0, num_training_batches=8, fast_dev_run=False,
                   accumulate_grad_batches=1, optimizers=[Mock()])  # fmt: skip
    for name, callback_class in (("filters", Filters), ("filter_history", FilterHistory)):
        draw = Mock()
        monkeypatch.setattr(f"simplecnn.callbacks.{name}.{name}_figure", draw)
        callback = callback_class(str(tmp_path), layers="all")
        if callback_class is FilterHistory:
            callback.on_train_start(trainer, module)
        list(callback.draw(trainer, module, "epoch 0, step 0"))
        assert [call.kwargs["in_color"] for call in draw.mock_calls] == expected


def test_snapshots_of_filters_become_sparser():
    epochs = [epoch for epoch in range(1, 2001) if is_snapshot_epoch(epoch)]
    assert epochs == [*range(1, 100), *range(100, 1000, 10), *range(1000, 2001, 100)]


class Residual(nn.Module):
    """Two convolutions with batch normalization and a residual connection; seven classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 5, padding=2)
        self.body = nn.Conv2d(6, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        out = self.norm(self.body(x))
        out += x
        return self.head(torch.relu(out).mean((2, 3)))


class RandomData(pl.LightningDataModule):
    """Random images; batches of 8, validation in three batches of unequal size."""

    validation_stages = ("val",)

    def __init__(self, shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.class_names = [f"class {i}" for i in range(num_classes)]
        generator = torch.Generator().manual_seed(0)
        self.splits = {}
        for name, number in (("train", 24), ("val", 20)):
            images = torch.rand((number, *shape), generator=generator).mul(255).byte()
            self.splits[name] = (images, torch.arange(number) % num_classes)

    def train_dataloader(self) -> Batches:
        return Batches(*self.splits["train"], batch_size=8, shuffle_seed=0)

    def val_dataloader(self) -> Batches:
        return Batches(*self.splits["val"], batch_size=8)


@pytest.mark.parametrize(
    ("network", "shape", "num_classes", "layers"),
    [
        (Residual, (1, 20, 24), 7, "all"),
        (
            lambda: torchvision.models.resnet18(num_classes=3),
            (3, 32, 32),
            3,
            ["conv1", "layer1.0.conv2"],
        ),
        (
            lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2, 2)),
            (1, 3, 3),
            2,
            "all",
        ),
    ],
    ids=["residual", "resnet18 in color", "tiny"],
)
def test_pictures_of_any_convolutional_network(
    network, shape, num_classes, layers, tmp_path, monkeypatch
):
    """All pictures are drawn, and the weights are those of a run without pictures."""
    from simplecnn.models import classifier

    folder = str(tmp_path / "images")
    data = RandomData(shape, num_classes)
    weights = []
    for callbacks in (
        [],
        [Filters(folder, layers, 1), FilterHistory(folder, layers, 2, 1),
         FeatureMaps(folder, layers, 1),
         Health(folder, 2, 1), Mistakes(folder, 5), Confusion(folder, 1), Curves(folder, 1)],
    ):  # fmt: skip
        torch.manual_seed(0)
        instance = network()
        monkeypatch.setattr(classifier, "build", lambda *_, instance=instance, **__: instance)
        module = Classifier({"_target_": "none"})
        monkeypatch.undo()
        trainer = pl.Trainer(
            accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, callbacks=callbacks,
            default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(module, data)
        weights.append({k: v.clone() for k, v in module.network.state_dict().items()})
        assert sum(len(m._forward_hooks) for m in module.network.modules()) == 0
    plain, pictured = weights
    assert all(torch.equal(plain[key], pictured[key]) for key in plain)
    names = {p.name for p in (tmp_path / "images").iterdir()}
    assert {"health.png", "curves.png", "confusion_val.png",
            "mistakes_val_epoch=001_step=000003.png"} <= names  # fmt: skip
    if layers == "all":
        layers = [n for n, m in module.network.named_modules() if isinstance(m, nn.Conv2d)]
    for layer in layers:
        assert {f"filter_history_{layer}.png", f"maps_{layer}_epoch=001_step=000003.npz"} <= names
    confusion = np.load(tmp_path / "images" / "confusion_val.npz")["counts"]
    assert confusion.sum() == 20 and confusion.shape == (num_classes, num_classes)


def test_pictures_of_a_run_without_validation(tmp_path):
    from conftest import compose_run

    from simplecnn.training.run import train

    overrides = ["data.val_size=0", "monitor=null", "trainer.max_epochs=1", "logger=csv"]
    train(compose_run(tmp_path / "run", *overrides), tmp_path / "run")
    names = {p.stem.split("_")[0] for p in (tmp_path / "run" / "images").iterdir()}
    assert names == {"filter", "filters", "maps", "health", "curves"}


def test_callbacks_that_do_nothing_in_a_step_have_no_step_hooks():
    hooks = ["on_train_batch_start", "on_train_batch_end", "on_before_backward"]
    hooks += ["on_after_backward", "on_before_zero_grad", "on_before_optimizer_step"]
    for callback in (Filters, FeatureMaps, Mistakes, Confusion):
        for hook in hooks:
            assert getattr(callback, hook) is getattr(pl.Callback, hook)


def test_callbacks_do_not_synchronize_in_a_step(tmp_path, monkeypatch):
    """Values measured in a step stay on their device until the epoch ends."""
    syncs: list[str] = []
    for name in ("item", "cpu", "tolist", "numpy", "__float__", "__bool__", "__int__"):
        original = getattr(torch.Tensor, name)

        def counted(self, *args, name=name, original=original, **options):
            syncs.append(name)
            return original(self, *args, **options)

        monkeypatch.setattr(torch.Tensor, name, counted)
    syncs_in_steps: list[str] = []

    def recording(hook):
        def call(*args, **options):
            del syncs[:]
            hook(*args, **options)
            syncs_in_steps.extend(syncs)

        return call

    folder = str(tmp_path)
    callbacks = [FilterHistory(folder, early_steps=0), Health(folder, 2, 1), Curves(folder, 1)]
    for callback in callbacks:
        for name in ("on_train_batch_start", "on_train_batch_end"):
            if callable(getattr(callback, name, None)):
                monkeypatch.setattr(callback, name, recording(getattr(callback, name)))
    monkeypatch.setattr("simplecnn.models.classifier.build", lambda *_, **__: Residual())
    module = Classifier({"_target_": "none"})
    monkeypatch.setattr(module, "configure_optimizers", lambda: torch.optim.Adam(
        module.network.parameters()))  # fmt: skip
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=callbacks,
        default_root_dir=tmp_path,
    )  # fmt: skip
    data = RandomData((1, 20, 24), 7)
    trainer.fit(module, data)
    assert syncs_in_steps == []
    recording(lambda: torch.ones(1).item())()
    assert syncs_in_steps == ["item"]  # the test detects synchronization
    assert list(callbacks[1].gradients.rows) == [1, 2, 3]
    assert list(callbacks[2].steps.rows) == [1, 2, 3]


class AuxiliaryHead(nn.Module):
    """Has a head that is called in training only, before the other one."""

    def __init__(self):
        super().__init__()
        self.auxiliary, self.head = nn.Linear(480, 7), nn.Linear(480, 7)

    def forward(self, images):
        flat = images.flatten(1)
        return self.head(flat) + (self.auxiliary(flat) if self.training else 0)


def test_the_health_of_a_layer_that_is_not_called_in_validation(tmp_path, monkeypatch):
    from simplecnn.models import classifier

    monkeypatch.setattr(classifier, "build", lambda *_, **__: AuxiliaryHead())
    module, health = Classifier({"_target_": "none"}), Health(str(tmp_path / "images"), 2, 1)
    monkeypatch.undo()
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[health],
        default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, RandomData((1, 20, 24), 7))
    activity, gradients = arrays(tmp_path, "health_activity"), arrays(tmp_path, "health_gradients")
    assert np.isnan(activity["std"][:, 0]).all() and (activity["std"][:, 1] > 0).all()
    assert (gradients["norm"] > 0).all() and gradients["norm"].shape[1] == 2
    assert (tmp_path / "images" / "health.png").is_file()


def test_hooks_are_removed_when_a_validation_pass_fails(tmp_path):
    health = Health(str(tmp_path))
    network = Residual()
    from simplecnn.models.activations import capture_activations

    health._watching.enter_context(capture_activations(network, health._receive))
    assert sum(len(m._forward_hooks) for m in network.modules()) == 2
    health.on_exception(None, None, RuntimeError())
    assert sum(len(m._forward_hooks) for m in network.modules()) == 0


def test_a_layer_that_is_called_at_two_sizes_is_measured_at_the_first(tmp_path):
    from simplecnn.models.activations import capture_activations

    health, conv, images = Health(str(tmp_path)), nn.Conv2d(1, 2, 3), torch.rand(4, 1, 8, 8)
    with capture_activations(nn.Sequential(conv), health._receive):
        conv(images).relu(), conv(images[..., ::2, ::2]).relu()
    meter = health._meters["0"]
    assert meter.num_images == 4
    expected = float(conv(images).relu().mean().detach())
    assert meter.result()["mean"] == pytest.approx(expected, rel=1e-5)


VALIDATION_INTERVALS = {  # overrides; steps of validation passes; steps of drawn mistakes
    "overfit": (["debug=overfit", "trainer.max_epochs=2"], [3, 6], [3, 6]),
    "half epochs": (["+trainer.val_check_interval=0.5"], [4, 8, 12, 16], [8, 16]),
    "every other epoch": (
        ["+trainer.check_val_every_n_epoch=2", "trainer.max_epochs=3"], [16], [16],
    ),
}  # fmt: skip


@pytest.mark.parametrize("interval", VALIDATION_INTERVALS)
def test_titles_name_the_validation_pass_they_show(interval, tmp_path, monkeypatch):
    """Several passes per epoch, and epochs without one: outdated results are dated."""
    from conftest import compose_run

    from simplecnn.callbacks import confusion
    from simplecnn.training.run import train

    overrides, passes, drawn = VALIDATION_INTERVALS[interval]
    titles = []

    def recording(*args, title, **options):
        titles.append(title)
        return original(*args, title=title, **options)

    original = confusion.confusion_figure
    monkeypatch.setattr(confusion, "confusion_figure", recording)
    overrides = ["callbacks=[mistakes,confusion,curves,health]", "logger=csv",
                 "callbacks.mistakes.every_n_epochs=1", *overrides]  # fmt: skip
    train(compose_run(tmp_path / "run", *overrides), tmp_path / "run")
    assert arrays(tmp_path / "run", "confusion_val")["step"] == passes[-1]
    shown = sorted((tmp_path / "run" / "images").glob("mistakes_val_epoch=*.png"))
    assert [int(path.stem.rpartition("=")[2]) for path in shown] == drawn
    epochs = arrays(tmp_path / "run", "curves_epochs")
    assert set(epochs["step"][np.isfinite(epochs["val/acc"])]) <= set(passes)
    assert np.isfinite(epochs["val/acc"]).any() and np.isfinite(epochs["train/acc"]).all()
    assert arrays(tmp_path / "run", "health_activity")["step"].tolist()[0] == passes[0]
    step = "as of step 16" if interval == "every other epoch" else f"step {passes[-1]}"
    assert titles[-1].endswith(step) and len(titles) == 1


def test_fast_dev_run_draws_nothing(tmp_path):
    from conftest import compose_run

    from simplecnn.training.run import train

    train(compose_run(tmp_path / "run", "debug=fdr"), tmp_path / "run")
    assert not (tmp_path / "run" / "images").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 damaged", b"text"])
def test_a_damaged_history_does_not_prevent_a_resume(content, tmp_path, caplog):
    (tmp_path / "h.npz").write_bytes(content)
    history = History(tmp_path / "h.npz", 2)
    assert "h.npz cannot be read and is left out" in caplog.text
    history.add(3, value=1.0)
    history.save()
    assert History(tmp_path / "h.npz", 3).rows.keys() == {3}

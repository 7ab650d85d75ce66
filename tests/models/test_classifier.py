"""The LightningModule: PyTorch's losses and steps, and self-contained checkpoints."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from simplecnn.config.targets import TargetNotAllowed
from simplecnn.data.batches import Batches
from simplecnn.models.classifier import Classifier
from simplecnn.models.metrics import LossAndAccuracy, MacroAccuracy
from simplecnn.models.simple_cnn import SimpleCNN
from simplecnn.training.interruption import leave_process_group

NETWORK = {"_target_": "simplecnn.models.simple_cnn.SimpleCNN", "channels": [4, 8], "hidden": 16}
LENET = {
    "_target_": "torch.nn.Sequential",
    "_args_": [
        {"_target_": "torch.nn.Conv2d", "in_channels": 1, "out_channels": 3, "kernel_size": 5},
        {"_target_": "torch.nn.Flatten"},
        {"_target_": "torch.nn.Linear", "in_features": 3 * 24 * 24, "out_features": 10},
    ],
}


def save(module: Classifier, path) -> str:
    """Write a checkpoint by Lightning's Trainer, and return its path."""
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, barebones=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path)
    return path


def same_batch(ten_digits, *, times: int) -> Batches:
    images, labels = (torch.from_numpy(a) for a in ten_digits)
    pixels = (images * 255).round().to(torch.uint8)
    return Batches(pixels.repeat(times, 1, 1, 1), labels.repeat(times), batch_size=10)


def test_metrics_are_means_over_images_not_over_batches():
    torch.manual_seed(0)
    logits, labels = torch.randn(50, 10), torch.randint(0, 10, (50,))
    metrics = LossAndAccuracy()
    for part in (slice(0, 32), slice(32, 50)):  # batches of different sizes
        metrics.update(F.cross_entropy(logits[part], labels[part]), logits[part], labels[part])
    means = metrics.compute()
    torch.testing.assert_close(means["loss"], F.cross_entropy(logits, labels))
    torch.testing.assert_close(means["acc"], (logits.argmax(1) == labels).float().mean())


def test_a_weighted_loss_is_that_of_all_images():
    torch.manual_seed(0)
    images, labels = torch.rand(50, 1, 28, 28), torch.randint(0, 10, (50,))
    module = Classifier(NETWORK, class_weights=list(range(1, 11)))
    for part in (slice(0, 32), slice(32, 50)):
        module._step((images[part], labels[part]), "val/")
    expected = module.loss(module(images), labels)
    torch.testing.assert_close(module.loss_and_accuracy["val/"].compute()["loss"], expected)


def test_a_batch_of_images_without_weight_does_not_count():
    module = Classifier(NETWORK, class_weights=[0, *9 * [1]])
    images, labels = torch.rand(20, 1, 28, 28), torch.tensor([0, 3]).repeat_interleave(10)
    for part in (slice(0, 10), slice(10, 20)):  # sorted by class
        module._step((images[part], labels[part]), "val/")
    expected = module.loss(module(images), labels)
    torch.testing.assert_close(module.loss_and_accuracy["val/"].compute()["loss"], expected)


def test_the_macro_accuracy_leaves_out_classes_without_images():
    metric = MacroAccuracy(3)
    logits = 9 * torch.eye(3)[[0, 1, 2, 0]]
    metric.update(logits, torch.tensor([0, 1, 1, 0]))  # one image of 1 is taken for a 2
    assert metric.compute() == pytest.approx((1 + 0.5) / 2)


def test_label_smoothing_is_that_of_pytorch():
    torch.manual_seed(0)
    module = Classifier(NETWORK, label_smoothing=0.1)
    logits, labels = torch.randn(8, 10), torch.randint(0, 10, (8,))
    assert torch.equal(
        module.loss(logits, labels), F.cross_entropy(logits, labels, label_smoothing=0.1)
    )


@pytest.mark.parametrize("network", [NETWORK, LENET])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_checkpoint_is_plain_and_rebuilds_the_network(network, compiled, tmp_path, ten_digits):
    torch.manual_seed(0)
    module = Classifier(network, compile=compiled)
    path = save(module, tmp_path / "a.ckpt")
    content = torch.load(path, weights_only=True)
    assert content["hyper_parameters"]["network"] == network

    def is_plain(value) -> bool:
        if isinstance(value, dict):
            return all(is_plain(v) for v in value.values())
        if isinstance(value, list | tuple):
            return all(is_plain(v) for v in value)
        return value is None or isinstance(value, bool | int | float | str)

    assert is_plain(dict(content["hyper_parameters"]))
    keys = [f"network.{key}" for key in Classifier(network).network.state_dict()]
    assert list(content["state_dict"]) == keys  # whether compiled or not

    torch.manual_seed(1)
    restored = Classifier.load_from_checkpoint(path, weights_only=True)
    images = torch.from_numpy(ten_digits[0])
    for p, q in zip(module.parameters(), restored.parameters(), strict=True):
        assert torch.equal(p, q)
    if not compiled:
        assert torch.equal(restored(images), module(images))
        assert sum(p.numel() for p in restored.parameters()) == sum(
            p.numel() for p in module.parameters()
        )


def test_a_malicious_checkpoint_executes_nothing(tmp_path):
    path = save(Classifier(NETWORK), tmp_path / "a.ckpt")
    content = torch.load(path, weights_only=True)
    harm = tmp_path / "harm"
    content["hyper_parameters"]["network"] = {"_target_": "os.system", "command": f"touch {harm}"}
    torch.save(content, path)
    with pytest.raises(TargetNotAllowed, match="'os.system' is not on the list"):
        Classifier.load_from_checkpoint(path, weights_only=True)
    assert not harm.exists()


def test_all_layers_compute_channels_last_with_contiguous_weights():
    """Including the first: single-channel images are contiguous in either memory format."""
    module, outputs = Classifier(NETWORK), []
    for layer in (module.network.conv1, module.network.conv2):
        layer.register_forward_hook(lambda layer, inputs, output: outputs.append(output))
        assert layer.weight.is_contiguous()
    module(torch.rand(4, 1, 28, 28))
    assert len(outputs) == 2
    for output in outputs:
        assert output.is_contiguous(memory_format=torch.channels_last)
        assert not output.is_contiguous()


def test_lr_gets_and_sets_the_rate_of_the_optimizer():
    """Lightning's LearningRateFinder relies on this property."""
    module = Classifier(NETWORK, {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.5})
    assert module.lr == 0.1
    module.lr = 0.02
    assert module.configure_optimizers().param_groups[0]["lr"] == 0.02
    assert module.hparams["optimizer"]["momentum"] == 0.5


@pytest.mark.parametrize("clip", [None, 1e9])
@pytest.mark.parametrize(
    ("scheduler", "interval", "expected"),
    [
        ({"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 1, "gamma": 0.5}, "epoch",
         [0.1, 0.05]),
        ({"_target_": "torch.optim.lr_scheduler.OneCycleLR", "max_lr": 0.1, "div_factor": 10},
         "step", [0.01, 4e-7]),
    ],
)  # fmt: skip
def test_scheduler_steps_at_its_interval(scheduler, interval, expected, clip, ten_digits):
    optimizer = {"_target_": "torch.optim.SGD", "lr": 0.1}
    module = Classifier(NETWORK, optimizer, scheduler, scheduler_interval=interval)
    batches = same_batch(ten_digits, times=5)
    rates: list[float] = []

    class RateRecorder(pl.Callback):
        def on_train_batch_start(self, trainer, *_):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[RateRecorder()],
        gradient_clip_val=clip,
    )  # fmt: skip
    trainer.fit(module, batches, batches)
    assert len(rates) == 10
    if interval == "epoch":
        assert rates == [expected[0]] * 5 + [expected[1]] * 5
    else:  # rises to the peak and falls to nearly zero over all ten steps of the run
        assert rates[0] == pytest.approx(expected[0])
        assert rates[-1] == pytest.approx(expected[1], abs=1e-6)
        assert max(rates) == pytest.approx(0.1, rel=0.1)
        assert 0 < rates.index(max(rates)) < 9


def test_training_equals_a_plain_pytorch_loop(ten_digits):
    """Three Adam steps by the Trainer and by a loop: identical weights."""
    images, labels = map(torch.from_numpy, ten_digits)
    torch.manual_seed(0)
    module = Classifier({"_target_": "simplecnn.models.simple_cnn.SimpleCNN"})
    plain = SimpleCNN().to(memory_format=torch.channels_last)
    plain.load_state_dict(module.network.state_dict())
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(plain(images), labels).backward()
        optimizer.step()
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    batches = same_batch(ten_digits, times=3)
    trainer.fit(module, batches, batches)
    assert trainer.global_step == 3
    for (name, p), q in zip(plain.named_parameters(), module.network.parameters(), strict=True):
        assert torch.equal(p, q), name
    assert set(trainer.callback_metrics) == {"train/loss", "train/acc", "val/loss", "val/acc"}


def test_leaving_the_process_group_joins_its_threads(tmp_path):
    def threads() -> list[str]:
        names = [task.joinpath("comm").read_text() for task in Path("/proc/self/task").iterdir()]
        return [name.strip() for name in names if "gloo" in name]

    store = f"file://{tmp_path}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    cycle = SimpleNamespace(model=torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2)))
    cycle.itself = cycle  # as Lightning's objects refer to each other
    del cycle
    if Path("/proc/self/task").is_dir():
        assert threads()
    leave_process_group()
    assert not torch.distributed.is_initialized()
    if Path("/proc/self/task").is_dir():
        assert not threads()
    leave_process_group()  # without a group, does nothing


class TopTwo(Classifier):
    def configure_metrics(self):
        return {"top2": MulticlassAccuracy(10, top_k=2, average="micro")}


class CustomStep(Classifier):
    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])


@pytest.mark.parametrize(
    ("kind", "metrics"), [(TopTwo, {"loss", "acc", "top2"}), (CustomStep, set())]
)
def test_a_subclass_logs_its_metrics(kind, metrics, ten_digits):
    torch.manual_seed(0)
    module = kind(NETWORK)
    before = [p.clone() for p in module.parameters()]
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    batches = same_batch(ten_digits, times=3)
    trainer.fit(module, batches, batches)
    logged = {key.partition("/")[2] for key in trainer.callback_metrics if "train/" in key}
    assert logged == metrics
    assert {"val/loss", "val/acc"} <= set(trainer.callback_metrics)
    if "top2" in metrics:
        with torch.no_grad():
            top = module(torch.from_numpy(ten_digits[0])).topk(2).indices
        expected = (top == torch.arange(10)[:, None]).any(1).float().mean()
        assert trainer.callback_metrics["val/top2"] == expected
    assert not all(torch.equal(p, q) for p, q in zip(before, module.parameters(), strict=True))


def test_a_plateau_scheduler_steps_only_in_epochs_with_validation(ten_digits):
    plateau = {
        "_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau",
        "patience": 0,
        "factor": 0.5,
        "threshold": 1e9,  # no epoch counts as an improvement
    }
    module = Classifier(NETWORK, scheduler=plateau, scheduler_monitor="val/loss")
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=4, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, check_val_every_n_epoch=2,
    )  # fmt: skip
    batches = same_batch(ten_digits, times=1)
    trainer.fit(module, batches, batches)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(2.5e-4)  # halved twice

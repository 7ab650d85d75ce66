"""The LightningModule: its losses are torch's, its checkpoints plain and complete."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional as F

from simplecnn.config.build import TargetNotAllowed
from simplecnn.data.batches import Batches
from simplecnn.data.mnist import MNIST5kDataModule
from simplecnn.errors import InputError
from simplecnn.models.classifier import Classifier, LossAndAccuracy, leave_group
from simplecnn.models.simple_cnn import SimpleCNN

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
    """A checkpoint as Lightning writes it."""
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
    for part in (slice(0, 32), slice(32, 50)):  # batches of different size
        metrics.update(F.cross_entropy(logits[part], labels[part]), logits[part], labels[part])
    found = metrics.compute()
    torch.testing.assert_close(found["loss"], F.cross_entropy(logits, labels))
    torch.testing.assert_close(found["acc"], (logits.argmax(1) == labels).float().mean())


def test_label_smoothing_is_torchs():
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

    def plain(value) -> bool:
        if isinstance(value, dict):
            return all(plain(v) for v in value.values())
        if isinstance(value, list | tuple):
            return all(plain(v) for v in value)
        return value is None or isinstance(value, bool | int | float | str)

    assert plain(dict(content["hyper_parameters"]))
    keys = [f"network.{key}" for key in Classifier(network).network.state_dict()]
    assert list(content["state_dict"]) == keys  # compiled or not

    torch.manual_seed(1)
    again = Classifier.load_from_checkpoint(path, weights_only=True)
    images = torch.from_numpy(ten_digits[0])
    for p, q in zip(module.parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q)
    if not compiled:
        assert torch.equal(again(images), module(images))
        assert sum(p.numel() for p in again.parameters()) == module.num_parameters


def test_a_hostile_checkpoint_builds_nothing(tmp_path):
    path = save(Classifier(NETWORK), tmp_path / "a.ckpt")
    content = torch.load(path, weights_only=True)
    harm = tmp_path / "harm"
    content["hyper_parameters"]["network"] = {"_target_": "os.system", "command": f"touch {harm}"}
    torch.save(content, path)
    with pytest.raises(TargetNotAllowed, match="'os.system' is not on the list"):
        Classifier.load_from_checkpoint(path, weights_only=True)
    assert not harm.exists()


def test_the_network_is_laid_out_channels_last():
    weight = Classifier(NETWORK).network.conv2.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


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
    seen: list[float] = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer, *_):
            seen.append(trainer.optimizers[0].param_groups[0]["lr"])

    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[Watch()],
        gradient_clip_val=clip,
    )  # fmt: skip
    trainer.fit(module, batches, batches)
    assert len(seen) == 10
    if interval == "epoch":
        assert seen == [expected[0]] * 5 + [expected[1]] * 5
    else:  # up to the peak and down to nothing, over all ten steps of the run
        assert seen[0] == pytest.approx(expected[0])
        assert seen[-1] == pytest.approx(expected[1], abs=1e-6)
        assert max(seen) == pytest.approx(0.1, rel=0.1)
        assert 0 < seen.index(max(seen)) < 9


@pytest.mark.parametrize(
    ("automatic", "blocked_layout"), [(False, True), (False, False), (True, True)]
)
def test_training_step_is_the_bare_step(automatic, blocked_layout, ten_digits):
    """Three Adam steps by the Trainer and by hand: the same weights, bit for bit.

    Whether Lightning optimizes (here because gradients are clipped, at a norm they do not reach),
    or the module itself, which may use oneDNN's layout.
    """
    images, labels = map(torch.from_numpy, ten_digits)
    torch.manual_seed(0)
    module = Classifier(
        {"_target_": "simplecnn.models.simple_cnn.SimpleCNN"}, blocked_layout=blocked_layout
    )
    by_hand = SimpleCNN().to(memory_format=torch.channels_last)
    by_hand.blocked = blocked_layout and not automatic
    by_hand.load_state_dict(module.network.state_dict())
    optimizer = torch.optim.Adam(by_hand.parameters(), lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(by_hand(images), labels).backward()
        optimizer.step()
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
        gradient_clip_val=1e9 if automatic else None,
    )  # fmt: skip
    batches = same_batch(ten_digits, times=3)
    trainer.fit(module, batches, batches)
    assert module.automatic_optimization is automatic
    assert trainer.global_step == 3
    for (name, p), q in zip(by_hand.named_parameters(), module.network.parameters(), strict=True):
        assert torch.equal(p, q), name
    assert set(trainer.callback_metrics) == {"train/loss", "train/acc", "val/loss", "val/acc"}


def trained(module: Classifier, datamodule: pl.LightningDataModule) -> pl.Trainer:
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, datamodule=datamodule)
    return trainer


def test_steps_together_are_the_same_steps_bit_for_bit():
    """Also the schedule over them, the metrics and the count; 4,000 digits make 20 steps of 200."""
    one_cycle = {"_target_": "torch.optim.lr_scheduler.OneCycleLR", "max_lr": 5e-3}
    found = []
    for together in (1, 8):
        torch.manual_seed(0)
        module = Classifier(NETWORK, scheduler=one_cycle, scheduler_interval="step")
        datamodule = MNIST5kDataModule(batch_size=200, steps_together=together)
        trainer = trained(module, datamodule)
        assert trainer.num_training_batches == -(-20 // together)
        assert trainer.global_step == 40
        assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == 40
        found.append((list(module.parameters()), trainer.callback_metrics))
    (plain, metrics), (together, together_metrics) = found
    for p, q in zip(plain, together, strict=True):
        assert torch.equal(p, q)
    assert metrics.keys() == together_metrics.keys()
    for name, value in metrics.items():
        assert float(value) == pytest.approx(float(together_metrics[name]), abs=1e-6)
    assert metrics["train/acc"] > 0.3


@pytest.mark.parametrize(
    ("asked", "steps_in_batch"),
    [
        ({}, 8),
        ({"limit_train_batches": 0.5}, 1),
        ({"limit_train_batches": 1}, 1),
        ({"max_steps": 2}, 1),
        ({"overfit_batches": 2}, 1),
        ({"val_check_interval": 2}, 1),
        ({"val_check_interval": 0.5}, 1),
        ({"fast_dev_run": True}, 1),
        ({"gradient_clip_val": 1.0}, 1),
        ({"accumulate_grad_batches": 2}, 1),
    ],
)
def test_steps_are_taken_together_unless_batches_are_counted(asked, steps_in_batch):
    seen: list[int] = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.append(len(batch[1]))

    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[Watch()], **{"max_epochs": 1} | asked,
    )  # fmt: skip
    trainer.fit(Classifier(NETWORK), datamodule=MNIST5kDataModule(batch_size=400))
    assert seen[0] == 400 * steps_in_batch  # 4,000 digits: ten steps
    if not asked:
        assert seen == [3200, 800]
        assert trainer.global_step == 10


def test_another_module_gets_one_batch_at_a_time():
    class Other(pl.LightningModule):
        sizes: list[int] = []
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            self.sizes.append(len(batch[1]))

        def validation_step(self, batch, batch_idx):
            pass

        def configure_optimizers(self):
            return None

    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with pytest.warns(UserWarning, match="configure_optimizers. returned .None."):
        trainer.fit(Other(), datamodule=MNIST5kDataModule(batch_size=450, val_size=0))
    assert Other.sizes == [450] * 10


def test_between_two_steps_callbacks_see_the_count_and_loggers_the_step():
    calls: list[tuple[str, int]] = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer, *_):
            calls.append(("start", trainer.global_step))

        def between_steps(self, trainer, module):
            calls.append(("between", trainer.global_step))

        def on_train_batch_end(self, trainer, *_):
            calls.append(("end", trainer.global_step))

    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[Watch()],
    )  # fmt: skip
    datamodule = MNIST5kDataModule(batch_size=1500, steps_together=2)  # three steps, two batches
    trainer.fit(Classifier(NETWORK), datamodule=datamodule)
    epoch = [("start", 0), ("between", 1), ("end", 2), ("start", 2), ("end", 3)]
    assert calls == epoch + [(name, step + 3) for name, step in epoch]
    assert trainer.fit_loop.epoch_loop._batches_that_stepped == 6


def test_steps_together_cannot_be_clipped():
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, gradient_clip_val=1.0,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with pytest.raises(InputError, match="Type data.steps_together=1"):
        trainer.fit(Classifier(NETWORK), datamodule=MNIST5kDataModule(steps_together=4))


def test_a_graph_on_the_cpu_is_a_warning_and_nothing_else(caplog):
    states = []
    for graph in (False, True):
        torch.manual_seed(0)
        module = Classifier(NETWORK, cuda_graph=graph)
        trained(module, MNIST5kDataModule(batch_size=500))
        states.append(list(module.parameters()))
    assert "model.cuda_graph has no effect on CPU" in caplog.text
    assert all(torch.equal(p, q) for p, q in zip(*states, strict=True))


def test_hooks_on_the_backward_pass_are_called():
    class Watch(pl.Callback):
        num_before = num_after = 0

        def on_before_backward(self, trainer, pl_module, loss):
            self.num_before += 1

        def on_after_backward(self, trainer, pl_module):
            self.num_after += 1

    watch = Watch()
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[watch],
    )  # fmt: skip
    trainer.fit(Classifier(NETWORK), datamodule=MNIST5kDataModule(batch_size=1000))
    assert (watch.num_before, watch.num_after) == (4, 4)


def test_a_run_in_shares_is_the_run_of_whole_batches_to_rounding():
    """An epoch of 20 steps in double precision, where rounding stays small."""
    found = []
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for split in (False, True, True):
            torch.manual_seed(0)
            module = Classifier(NETWORK, split_batch=split)
            shared: list[bool] = []

            class Watch(pl.Callback):
                def on_train_batch_end(self, trainer, pl_module, *_, shared=shared):
                    shared.append(pl_module.cores is not None)

                def on_validation_batch_start(self, *_):
                    assert torch.get_num_threads() == 2  # they are needed here

            trainer = pl.Trainer(
                accelerator="cpu", precision="64-true", max_epochs=1, logger=False,
                enable_checkpointing=False, enable_progress_bar=False,
                enable_model_summary=False, callbacks=[Watch()], num_sanity_val_steps=0,
                limit_train_batches=20,
            )  # fmt: skip
            trainer.fit(module, datamodule=MNIST5kDataModule())
            assert shared == [split] * 20
            assert module.cores is None and torch.get_num_threads() == 2
            found.append((list(module.parameters()), dict(trainer.callback_metrics)))
    finally:
        torch.set_num_threads(before)
    (plain, metrics), (shares, share_metrics), (again, _) = found
    for p, q, r in zip(plain, shares, again, strict=True):
        torch.testing.assert_close(q, p, rtol=1e-7, atol=1e-9)
        assert torch.equal(q, r)
    for name, value in metrics.items():
        assert float(share_metrics[name]) == pytest.approx(float(value), rel=1e-6)


def test_a_process_of_several_ends_its_threads_before_the_interpreter_does(tmp_path, monkeypatch):
    def threads() -> list[str]:
        names = [task.joinpath("comm").read_text() for task in Path("/proc/self/task").iterdir()]
        return [name.strip() for name in names if "gloo" in name]

    store = f"file://{tmp_path}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    left = SimpleNamespace(model=torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2)))
    left.itself = left  # as Lightning's objects know each other
    del left
    if Path("/proc/self/task").is_dir():
        assert threads()
    leave_group()
    assert not torch.distributed.is_initialized()
    if Path("/proc/self/task").is_dir():
        assert not threads()
    leave_group()  # there is none

    registered = []
    monkeypatch.setattr("simplecnn.models.classifier.atexit.register", registered.append)
    module = Classifier(NETWORK)
    for world_size in (1, 2):
        module._trainer = SimpleNamespace(
            world_size=world_size, gradient_clip_val=None, accumulate_grad_batches=1,
            precision="32-true", datamodule=None,
        )  # fmt: skip
        module.setup("fit")
        assert registered == [leave_group] * (world_size - 1)

"""The content of pages, without a browser."""

import base64
import json
import re
import shutil
import time

import numpy as np
import pytest
import torch
from conftest import compose_run
from pages import default_run, like_mnist, networks
from PIL import Image
from torch import nn
from torch.nn.utils import prune

from simplecnn.config.composition import compose_config
from simplecnn.errors import InputError
from simplecnn.inference.image_files import read_image
from simplecnn.inference.networks import load_network
from simplecnn.models.simple_cnn import SimpleCNN
from simplecnn.page import html
from simplecnn.page.gather import _curves as page_curves
from simplecnn.page.gather import _datamodule as page_datamodule
from simplecnn.page.gather import _health as page_health
from simplecnn.page.gather import gather
from simplecnn.page.network import UnsupportedNetworkError, chain, network_data
from simplecnn.page.report import write_report
from simplecnn.page.sweep import write_sweep_page
from simplecnn.run_directory import RunDirectory
from simplecnn.training.run import train


def data_of(path):
    """Return the data in a page."""
    text = path.read_text()
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(match[1])


def test_a_finished_run_writes_its_page(finished_run):
    run = data_of(finished_run / "report.html")["runs"][0]
    record = RunDirectory.open(finished_run).record
    assert run["status"] == "finished" and run["metrics"] == record["metrics"]
    assert run["command"] == record["command"] and run["num_parameters"] > 0
    assert set(run["curves"]["epochs"]) >= {"train/loss", "val/loss", "val/acc"}
    with np.load(finished_run / "images" / "filter_history_conv1.npz") as file:
        assert run["filters"]["shape"] == list(file["weights"].shape)
    assert run["health"]["layers"] == ["conv1", "conv2", "fc1", "fc2"]
    differing = {
        key: (value, default) for key, value, default in run["config"] if default is not None
    }
    assert differing["trainer.max_epochs"] == ("2", "10")
    assert differing["model.network.channels"] == ("[4, 8]", "[16, 32, 64]")
    assert "seed" not in differing
    keys = [key for key, *_ in run["config"]]
    assert "data.val_size" in keys and not [key for key in keys if key.endswith("dirpath")]
    with np.load(finished_run / "images" / "curves_steps.npz") as file:
        per_epoch = run["curves"]["steps_per_epoch"]
        assert run["curves"]["steps"]["loss"][-1][0] * per_epoch == pytest.approx(file["step"][-1])


def test_the_curves_of_a_run_that_ended_within_an_epoch(tmp_path):
    """Two epochs of 60 steps, and 30 steps of a third."""
    losses = {"val/loss": np.ones(3)}
    np.savez(tmp_path / "curves_epochs.npz", step=[60, 120, 150], epoch=[1, 2, 3], **losses)
    np.savez(tmp_path / "curves_steps.npz", step=[30, 90, 135, 150], loss=np.ones(4))
    curves = page_curves(tmp_path)
    assert curves["steps_per_epoch"] == 60
    assert [x for x, _ in curves["epochs"]["val/loss"]] == [1, 2, 2.5]
    assert [x for x, _ in curves["steps"]["loss"]] == [0.5, 1.5, 2.25, 2.5]


def test_the_curves_of_a_run_that_continues_with_shorter_epochs(tmp_path):
    """After two epochs of 60 steps, three of 20."""
    losses = {"val/loss": np.ones(3)}
    np.savez(tmp_path / "curves_epochs.npz", step=[140, 160, 180], epoch=[3, 4, 5], **losses)
    np.savez(tmp_path / "curves_steps.npz", step=[125, 140, 170, 180], loss=np.ones(4))
    curves = page_curves(tmp_path)
    assert [x for x, _ in curves["epochs"]["val/loss"]] == [3, 4, 5]
    assert [x for x, _ in curves["steps"]["loss"]] == [2.25, 3, 4.5, 5]
    assert 4.5 * curves["steps_per_epoch"] + curves["step_offset"] == 170


def test_the_images_and_the_confusion_matrix_are_of_the_validation_set(finished_run):
    images = data_of(finished_run / "report.html")["images"]
    best = torch.load(finished_run / "checkpoints" / "best.ckpt", weights_only=True)
    with np.load(finished_run / "images" / "confusion_val.npz") as file:
        counts = file["counts"]
        assert file["step"] == best["global_step"]  # the last epoch was the best
    assert images["split"] == "validation" and images["number"] == 500
    assert images["confusion"] == [counts.tolist()]
    probes = [item for item in images["items"] if item["kind"] == "probe"]
    assert [item["label"] for item in probes] == list(range(10))
    shown = {(item["label"], item["predicted"][0]) for item in images["items"]}
    assert {(i, j) for i, j in zip(*np.nonzero(counts), strict=True)} <= shown
    best, probability = probes[0]["answers"][0][0]
    assert best == probes[0]["predicted"][0] and 0.1 < probability <= 1


def test_size_and_time_of_the_default_network(tmp_path_factory):
    folder = default_run(tmp_path_factory)
    assert (folder / "report.html").stat().st_size < 1_500_000
    start = time.process_time()
    write_report([RunDirectory.open(folder)])
    assert time.process_time() - start < 1


def test_a_page_with_images_is_not_replaced_by_one_without(finished_run, tmp_path, monkeypatch):
    run = RunDirectory.open(shutil.copytree(finished_run, tmp_path / "run"))
    page = run.path / "report.html"
    before = page.read_bytes()
    monkeypatch.setattr("simplecnn.page.gather.read_images", open)  # there is no such file
    with pytest.raises(InputError, match="shows images that cannot be read now"):
        write_report([run])
    assert page.read_bytes() == before
    page.unlink()
    for _ in range(2):  # a page without images may be replaced
        assert data_of(write_report([run]))["images"] is None


@pytest.mark.parametrize(("error", "raised", "status"), [
    (ValueError("a <b>mistake</b>"), ValueError, "failed"),
    (KeyboardInterrupt(), SystemExit, "interrupted"),
])  # fmt: skip
def test_a_run_that_fails_or_is_interrupted_writes_its_page(
    error, raised, status, tmp_path, monkeypatch
):
    def stop(callback, trainer, module):
        if trainer.current_epoch == 1:
            raise error

    monkeypatch.setattr("simplecnn.training.epoch_seed.EpochSeed.on_train_epoch_end", stop,
                        raising=False)  # fmt: skip
    overrides = ["callbacks=[checkpoint,curves,report]", "logger=none"]
    with pytest.raises(raised):
        train(compose_run(tmp_path / "run", *overrides), tmp_path / "run")
    run = data_of(tmp_path / "run" / "report.html")["runs"][0]
    assert run["status"] == status and "layers" in run["network"]
    assert run["curves"]["epochs"]["val/loss"][0][0] == 1
    assert "a <b>mistake</b>" in (run["error"] or "") or status == "interrupted"


def test_a_run_succeeds_if_its_page_cannot_be_written(tmp_path, monkeypatch, caplog):
    def fail(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr("simplecnn.page.report.write_report", fail)
    overrides = ["trainer.max_epochs=1", "callbacks=[checkpoint,report]", "logger=none"]
    train(compose_run(tmp_path / "run", *overrides), tmp_path / "run")
    assert RunDirectory.open(tmp_path / "run").record["status"] == "finished"
    assert "report.html could not be written: no space left" in caplog.text


def test_the_page_of_a_run_without_checkpoints_and_pictures(tmp_path):
    overrides = ["trainer.max_epochs=1", "callbacks=report", "logger=none", "monitor=null"]
    train(compose_run(tmp_path / "run", *overrides), tmp_path / "run")
    data = data_of(tmp_path / "run" / "report.html")
    (run,) = data["runs"]
    assert "wrote no checkpoint" in run["network"]["sentence"]
    assert run["curves"] is run["filters"] is run["health"] is None and run["pictures"] == []
    assert len(data["images"]["items"]) == 10 and data["images"]["confusion"] == [None]


def test_the_health_of_a_network_with_layers_that_are_not_measured(tmp_path):
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ConvTranspose2d(2, 2, 3), nn.Linear(4, 2))
    norms = np.array([[0.5, 0.25], [0.125, 1]])
    np.savez(tmp_path / "health_gradients.npz", step=[1, 8], norm=norms, update=norms / 100)
    health = page_health(tmp_path, network)
    assert health["layers"] == ["0", "2"]
    assert health["quantities"]["norm"] == [[[1, 0.5], [8, 0.125]], [[1, 0.25], [8, 1]]]


def test_a_damaged_history_is_left_out_of_the_page(finished_run, tmp_path, caplog):
    shutil.copytree(finished_run, tmp_path / "run")
    for path in (tmp_path / "run" / "images").glob("*.npz"):
        path.write_bytes(path.read_bytes()[:100])
    (run,) = gather([RunDirectory.open(tmp_path / "run")])["runs"]
    assert run["curves"] is run["health"] is None
    assert "curves_epochs.npz cannot be read and is left out" in caplog.text


def test_two_runs_are_compared_on_the_images_of_the_first(finished_run, tmp_path):
    overrides = ["seed=7", "model.optimizer.lr=0.01", "callbacks=[checkpoint,mistakes,report]"]
    train(compose_run(tmp_path / "b", *overrides), tmp_path / "b")
    data = gather([RunDirectory.open(finished_run), RunDirectory.open(tmp_path / "b")])
    assert [run["title"] for run in data["runs"]] == ["train", "train"]
    assert data["title"] == f"{finished_run.name} and b"  # two runs of one name
    assert len(data["runs"]) == len(data["images"]["confusion"]) == 2
    assert data["images"]["is_common"]
    accuracy = np.trace(data["images"]["confusion"][1]) / 500
    best = RunDirectory.open(tmp_path / "b").record["best"]
    assert accuracy == pytest.approx(best["value"], abs=1e-6)
    predictions = [item["predicted"] for item in data["images"]["items"]]
    assert any(a != b for a, b in predictions)


def test_the_page_of_two_runs_is_named_after_the_path_of_the_second(finished_run, tmp_path):
    first, *others = (
        RunDirectory.open(shutil.copytree(finished_run, tmp_path / name))
        for name in ("outputs/A/1", "outputs/A/0", "outputs/opt2/0", "outputs/A/lr=0.1 b")
    )
    names = [write_report([first, other]).name for other in others]
    assert names == ["report_0.html", "report_opt2_0.html", "report_lr_0.1_b.html"]
    assert all((first.path / name).is_file() for name in names)


def test_a_run_of_other_images_is_compared_in_part(finished_run, tmp_path):
    overrides = ["data.channels=3", "+data.split_seed=5", "trainer.max_epochs=1",
                 "callbacks=checkpoint"]  # fmt: skip
    train(compose_run(tmp_path / "b", *overrides), tmp_path / "b")
    data = gather([RunDirectory.open(finished_run), RunDirectory.open(tmp_path / "b")])
    sentence = "B expects 3 x 28 x 28 images, these are 1 x 28 x 28."
    assert data["runs"][1]["network"] == {"sentence": sentence}
    assert not data["images"]["is_common"]
    known, unknown = data["images"]["confusion"]
    assert np.sum(known) == 500 and unknown is None
    assert {item["predicted"][1] for item in data["images"]["items"]} == {None}
    other = RunDirectory.open(tmp_path / "b")
    other.record["class_names"] = ["cat", "dog"]
    with pytest.raises(InputError, match="has other classes than .*compared on the same images"):
        gather([RunDirectory.open(finished_run), other])
    data = gather([RunDirectory.open(tmp_path / "b")])  # three equal channels are still a drawing
    assert data["box"] == 20 and data["shape"] == [3, 28, 28] and data["fit"] is None


def test_weights_that_are_too_large_or_not_finite(finished_run, tmp_path, recwarn):
    shutil.copytree(finished_run, tmp_path / "run")
    path = tmp_path / "run" / "images" / "filter_history_conv1.npz"
    arrays = dict(np.load(path))
    arrays["weights"][-1, 0], arrays["weights"][-1, 1] = 1e6, np.nan
    np.savez(path, **arrays)
    content = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    content["state_dict"]["network.fc2.bias"][0] = np.inf
    torch.save(content, tmp_path / "run" / "checkpoints" / "best.ckpt")
    data = gather([RunDirectory.open(tmp_path / "run")])
    (run,) = data["runs"]
    assert run["filters"]["dtype"] == "float32"
    weights = np.frombuffer(base64.b64decode(run["filters"]["weights"]), np.float32)
    assert np.array_equal(weights.reshape(arrays["weights"].shape), arrays["weights"], True)
    assert "not finite" in run["network"]["sentence"]
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]


def test_outputs_that_are_no_class_of_the_data_have_names(finished_run, tmp_path):
    train(compose_run(tmp_path / "run", "model.network.num_classes=12", "trainer.max_epochs=1",
                      "callbacks=checkpoint"), tmp_path / "run")  # fmt: skip
    run, other = RunDirectory.open(tmp_path / "run"), RunDirectory.open(finished_run)
    assert gather([run])["classes"] == [str(i) for i in range(12)]
    data = gather([other, run])
    assert data["classes"] == [str(i) for i in range(12)]
    assert np.shape(data["images"]["confusion"][0]) == (10, 10)


def test_a_network_that_raises_and_missing_data(finished_run, monkeypatch):
    run = RunDirectory.open(finished_run)
    monkeypatch.setattr(SimpleCNN, "forward", lambda *_: 1 / 0)
    data = gather([run])
    assert data["images"]["items"][0]["predicted"] == [0]  # stored by the run
    assert "answers" not in data["images"]["items"][0]
    monkeypatch.undo()
    config = run.config()
    config["data"] |= {"dataset": "FashionMNIST", "data_dir": str(finished_run / "nothing")}
    monkeypatch.setattr(RunDirectory, "config", lambda _: config)
    monkeypatch.setattr("simplecnn.data.files.urlopen", lambda *_, **__: pytest.fail("a download"))
    data = gather([run])
    assert data["images"] is None and data["box"] == 28 and data["shape"] == [1, 28, 28]
    assert "layers" in data["runs"][0]["network"]


@pytest.mark.parametrize("version", ["earlier", "current"])
def test_stored_predictions_of_other_weights_are_ignored(version, finished_run, tmp_path):
    """Those of an earlier version, and those of a validation some steps before the checkpoint."""
    run = RunDirectory.open(shutil.copytree(finished_run, tmp_path / "run"))
    before = gather([run])["images"]["confusion"]
    content = torch.load(run.path / "checkpoints" / "best.ckpt", weights_only=True)
    assert content["callbacks"]["Mistakes"]["answers"]["step"] == content["global_step"]
    labels = page_datamodule(run).split("val").labels
    all_wrong = {"predictions": (labels + 1) % 10, "wrong": labels >= 0, "step": torch.tensor(1)}
    state = {"answers": all_wrong, "shown": {}}
    content["callbacks"]["Mistakes"] = state if version == "current" else {"drawn_at_step": 16}
    torch.save(content, run.path / "checkpoints" / "best.ckpt")
    assert gather([run])["images"]["confusion"] == before


def test_an_image_file_is_read_as_by_predict(finished_run, tmp_path):
    gray = np.full((90, 60), 255, np.uint8)
    gray[20:70, 28:36] = 10
    Image.fromarray(gray).save(tmp_path / "one.png")
    run = RunDirectory.open(finished_run)
    images = gather([run], own_images=[str(tmp_path / "one.png")])["images"]
    pixels = np.frombuffer(base64.b64decode(images["pixels"]), np.uint8)[:784].reshape(28, 28)
    expected = like_mnist(read_image(tmp_path / "one.png"))
    assert np.abs(pixels / 255 - expected).max() <= 0.5 / 255 + 1e-6
    item = images["items"][0]
    assert (item["kind"], item["name"]) == ("own", "one.png") and "predicted" not in item
    network = load_network(finished_run / "checkpoints" / "best.ckpt")
    expected = network(torch.from_numpy(expected)[None, None]).softmax(1)[0].tolist()
    assert [p for _, p in sorted(item["answers"][0])] == pytest.approx(expected, abs=0.01)
    with pytest.raises(InputError, match="no such file"):
        gather([run], own_images=["nothing.png"])


def test_a_pruned_layer_is_described_by_its_computed_weights():
    layer = prune.identity(nn.Conv2d(1, 2, 3), "weight")
    (described,) = chain(nn.Sequential(layer), (1, 5, 5))
    assert list(described["weights"]) == ["weight", "bias"]


def test_a_chain_is_described_with_the_shapes_of_torch():
    for name, network in networks().items():
        x = torch.rand(1, 1, 28, 28)
        layers = chain(network, (1, 28, 28))
        shape = network(x).shape[1:]
        assert layers[-1]["shape"] == [*shape, 1, 1], name
        assert layers[-1]["name"] == list(network.named_children())[-1][0]


def test_a_layer_that_is_used_twice_is_computed_twice():
    relu = nn.ReLU()
    network = nn.Sequential(nn.Conv2d(1, 2, 3), relu, nn.Conv2d(2, 2, 3), relu, nn.Flatten())
    kinds = [layer["kind"] for layer in chain(network, (1, 8, 8))]
    assert kinds == ["convolution", "relu", "convolution", "relu", "flatten"]


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x):
        return x + self.body(x)


def test_unsupported_networks_and_layers_are_named():
    with pytest.raises(UnsupportedNetworkError, match="Residual is not a chain"):
        chain(Residual(), (1, 28, 28))
    with pytest.raises(UnsupportedNetworkError, match=r"cannot compute the layer 1, Residual\("):
        chain(nn.Sequential(nn.Conv2d(1, 1, 3), Residual()), (1, 28, 28))
    with pytest.raises(UnsupportedNetworkError, match="cannot compute the layer 0, GroupNorm"):
        chain(nn.Sequential(nn.GroupNorm(1, 1), nn.Flatten()), (1, 28, 28))
    with pytest.raises(UnsupportedNetworkError, match="cannot compute the layer 0, Linear"):
        chain(nn.Sequential(nn.Linear(28, 5), nn.Flatten(), nn.Linear(140, 10)), (1, 28, 28))


def test_weights_of_more_than_five_megabytes_are_omitted():
    sentence = network_data(SimpleCNN(pool="none"), (1, 28, 28))["sentence"]
    assert "The weights are 25.8 MB" in sentence and "5 MB" in sentence
    large = network_data(SimpleCNN(hidden=512), (1, 28, 28))["layers"]
    assert large[0]["weights"]["bias"]["dtype"] == "float16"


def test_text_in_a_page_is_escaped():
    hostile = "</script><script>alert(1)</script><!--\u2028'\"&" + "x" * 10_000
    page = html.render("report", {"text": hostile, "nan": float("nan")}, title=hostile).decode()
    assert page.count("</script>") == 2  # the data and the module
    match = re.search(r'id="data">(.*?)</script>', page, re.S)
    assert json.loads(match[1]) == {"text": hostile, "nan": None}


def test_the_page_of_a_sweep_of_24_jobs_is_small(tmp_path):
    curve = [[epoch, 97.123456] for epoch in range(1, 501)]
    job = {"name": "1", "status": "finished", "link": None, "cells": {"lr": "0.1"}, "values": [0.1],
           "result": 97.1, "error": "", "curve": curve}  # fmt: skip
    path = write_sweep_page(tmp_path, {"title": "sweep", "jobs": [job] * 24, "keys": ["lr"]})
    assert path.name == "sweep.html" and path.stat().st_size < 3_000_000


def test_modules_are_bundled_into_one_script_without_name_collisions():
    for module in ("report", "sweep"):
        text = html.script(module)
        names = re.findall(r"^(?:async )?(?:function|class|const|let) (\w+)", text, re.M)
        assert len(names) == len(set(names)) and "import " not in text.split("`")[0]
        assert not re.search(r"^(import|export) ", text, re.M)


def test_errors_for_invalid_overrides(tmp_path):
    for overrides, message in (([], "run or sweep is required"), (["run=[a,b,c]"], "run lists 3"),
                               (["run=a", "sweep=b"], "run or sweep is required")):  # fmt: skip
        with pytest.raises(InputError, match=message):
            compose_config("report", overrides)

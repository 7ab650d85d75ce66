"""The Python interface, the examples in its docstrings, and the model card."""

import doctest
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import simplecnn
from simplecnn import api
from simplecnn.errors import InputError
from simplecnn.inference import trained_run
from simplecnn.inference.evaluate import add_result, evaluate
from simplecnn.inference.model_card import model_card, write_model_card
from simplecnn.inference.trained_run import TrainedRun
from simplecnn.run_directory import RunDirectory
from simplecnn.training.summary import resume_instructions


@pytest.mark.long
def test_the_examples_of_the_docstrings(good_run, tmp_path, monkeypatch):
    shutil.copytree(good_run, tmp_path / "outputs" / "quickstart")
    monkeypatch.chdir(tmp_path)
    for module in (api, trained_run):
        results = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
        assert results.attempted > 2 and results.failed == 0
    folder = tmp_path / "outputs" / "short"
    log = (folder / "train.log").read_text()
    assert "98,442 parameters on" in log and "directory    outputs/short" in log
    record = json.loads((folder / "run.json").read_text())
    assert record["command"].startswith("simplecnn.train(['data=mnist_5k', 'trainer.max_epochs=1'")
    assert record["class_names"] == list("0123456789")
    assert (folder / "model_card.md").is_file()


def test_the_prediction_does_not_depend_on_the_type_of_an_image(good_run, bundled, tmp_path):
    run = simplecnn.load(good_run)
    digit = bundled[0][3600]
    expected = run.predict(digit)
    with torch.no_grad():
        logits = run.network(torch.from_numpy(digit)[None, None].float() / 255)
    np.testing.assert_allclose(expected.probabilities, logits.softmax(1), atol=1e-6)
    Image.fromarray(digit).save(tmp_path / "seven.png")
    for images in (
        torch.from_numpy(digit), torch.from_numpy(digit)[None].float() / 255, digit[None, None],
        np.stack([digit] * 3, 2), Image.fromarray(digit), str(tmp_path / "seven.png"), [digit],
        255 - digit, (torch.from_numpy(digit) / 255).half(),
    ):  # fmt: skip
        predictions = run.predict(images)
        np.testing.assert_allclose(predictions.probabilities, expected.probabilities, atol=1e-5)
    coarse = torch.from_numpy(digit).bfloat16() / 255
    assert run.predict(coarse).classes == ["7"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert run.predict(digit).classes == ["7"]
    large = Image.fromarray(digit).resize((400, 300))
    mixed = run.predict([large, digit, torch.from_numpy(digit), tmp_path / "seven.png"])
    assert mixed.classes == ["7"] * 4 and len(mixed) == 4
    assert str(expected).splitlines()[1].split()[:2] == ["0", "7"]
    maps = run.feature_maps([large, digit])
    assert maps["conv2"].shape == (2, 32, 14, 14) and maps["conv2"].min() == 0
    for images, message in [
        (3, "images is of type int: pass Pillow images, arrays"),
        ([], "images is empty"),
        (np.zeros((28, 28)), "it is blank"),
        (np.full((28, 28), np.nan), "not finite"),
        (np.zeros((28, 30, 4)), r"its shape is \(28, 30, 4\)"),  # one RGBA image, not 28 images
        (torch.zeros(28, 28, device="meta"), "this tensor cannot be read"),
        (np.zeros((2, 2), complex), "its dtype complex128: an image is"),
        ("nothing.png", "image=nothing.png: there is no such file"),
    ]:
        with pytest.raises(InputError, match=message):
            run.predict(images)


def test_public_names_are_completed_in_a_notebook():
    assert {"train", "load", "conv2d", "receptive_fields", "__doc__"} <= set(dir(simplecnn))


def test_the_attributes_of_a_loaded_run(finished_run):
    run = simplecnn.load(finished_run)
    assert run.path == finished_run and not run.network.training
    assert run.config["model"]["network"]["channels"] == [4, 8]
    assert run.metrics == json.loads((finished_run / "run.json").read_text())["metrics"]
    assert {"filters_conv1", "maps_conv2", "curves", "confusion_val"} <= set(run.figures)
    assert all(path.suffix == ".png" and path.is_file() for path in run.figures.values())
    newest = sorted((finished_run / "images").glob("filters_conv1*.png"))[-1]
    assert run.figures["filters_conv1"] == newest
    assert re.fullmatch(r"<run .*finished, best.ckpt, test accuracy \d+\.\d\d %>", repr(run))
    last = simplecnn.load(finished_run, "last")
    assert last.checkpoint.name == "last.ckpt"


def test_the_default_type_of_torch_does_not_matter(finished_run, bundled):
    expected = simplecnn.load(finished_run).predict(bundled[0][:2])
    try:
        torch.set_default_dtype(torch.float64)
        run = simplecnn.load(finished_run)
        np.testing.assert_array_equal(
            run.predict(bundled[0][:2]).probabilities, expected.probabilities
        )
    finally:
        torch.set_default_dtype(torch.float32)


def test_invalid_overrides_are_rejected_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for overrides, message in [
        (["data=mnist_5k", "seeed=3"], "Did you mean seed"),
        (["-m", "seed=1,2"], "-m: simplecnn.train trains one run; type scripts/train.py -m"),
        (["hparams_search=grid"], "simplecnn.train trains one run"),
        (["data=mnist_5k", "+model.optimizer.lrr=1"], "lrr is not a key of torch.optim.Adam"),
        (["resume=outputs/none"], "there is no such folder"),
        (["data=mnist_5k", "callbacks=none"], "returns the run from its checkpoint"),
        (5, r"overrides is 5: pass a list of strings, as \['seed=1'\]."),
        ({"seed": 1}, "overrides is {'seed': 1}: pass a list of strings"),
    ]:
        with pytest.raises(InputError, match=message):
            simplecnn.train(overrides)
    with pytest.raises(InputError, match="run=none: there is no such folder"):
        simplecnn.load("none")
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_this_interface_names_the_call_that_resumes_it(tmp_path):
    directory = RunDirectory(tmp_path / "a run")
    directory.record["command"] = "simplecnn.train(['seed=1'])"
    call = resume_instructions(directory).splitlines()[-1]
    assert call == f"""simplecnn.train(["resume='{tmp_path}/a run'"])"""


def test_the_newest_figure_is_that_of_the_last_step(good_run, tmp_path):
    shutil.copytree(good_run, tmp_path / "run")
    images = tmp_path / "run" / "images"
    images.mkdir(exist_ok=True)
    for epoch, step in ((999, 99_900), (1000, 100_000)):
        (images / f"filters_conv9_epoch={epoch:03d}_step={step:06d}.png").write_bytes(b"")
    (images / "filters_conv9_epoch=1001_step=1000100.png").write_bytes(b"")
    figures = simplecnn.load(tmp_path / "run").figures
    assert figures["filters_conv9"].name == "filters_conv9_epoch=1001_step=1000100.png"


def test_the_test_accuracy_is_shown_for_the_tested_checkpoint_only(good_run):
    directory = RunDirectory.open(good_run)
    accuracy, loss = (directory.record["metrics"][f"test/{name}"] for name in ("acc", "loss"))
    best, last = (directory.checkpoint(name) for name in ("best", "last"))
    assert (
        directory.metrics_of(best).get("test/acc"),
        directory.metrics_of(last).get("test/acc"),
    ) == (accuracy, None)
    assert "test accuracy" in repr(TrainedRun(directory, best))
    assert "test accuracy" not in repr(TrainedRun(directory, last))
    del directory.record["seconds"]["test"]  # the accuracy is that of test_each_epoch
    assert "test/acc" not in directory.metrics_of(best)


def test_the_model_card(good_run, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(good_run, folder)
    directory = RunDirectory.open(folder)
    card = model_card(directory)
    accuracy = directory.record["metrics"]["test/acc"]
    seconds = f"{directory.record['seconds']['fit']:,.0f}"
    training = f"Trained on CPU, 6 of 6 epochs in {seconds} seconds.\n"
    assert f"SimpleCNN, 98,442 parameters.\n{training}" in card
    assert " | - | - |\n" in card and "|  |" not in card and "| |" not in card  # no blank cells
    assert "License: CC BY-SA 3.0." in card
    assert "- model.network.channels: [16, 32, 64]" in card and "- torch 2." in card
    assert "- model.optimizer.lr: 0.005" in card and "- data.batch_size: 64" in card
    assert "data_dir" not in card.partition("## Reproduce")[0]  # a path of this machine
    assert f"| {100 * accuracy:.2f} % [" in card and "n = 500" in card
    assert card.count("not measured yet") == 2
    assert f"```\n{directory.record['command']}\n```" in card
    config, seconds = directory.config(), directory.record["seconds"]
    for is_tested, limits, is_known in [
        (True, {"limit_test_batches": 2}, False), (True, {"limit_test_batches": 1}, False),
        (True, {"limit_test_batches": 1.0, "limit_val_batches": 1}, True),
        # the accuracy is that of test_each_epoch
        (False, {"limit_val_batches": 1}, False), (False, {"overfit_batches": 2}, False),
        (False, {"limit_val_batches": None, "overfit_batches": 0, "fast_dev_run": False}, True),
    ]:  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(directory, "config", lambda limits=limits: {**config, "trainer": limits})
            kept = {k: v for k, v in seconds.items() if is_tested or k != "test"}
            patch.setitem(directory.record, "seconds", kept)
            metrics = model_card(directory).partition("## Metrics")[2]
        assert ("n = 500" in metrics) == is_known, limits
        assert (f"| {100 * accuracy:.2f} % | -" in metrics) != is_known, limits
    evaluate(TrainedRun(directory, directory.checkpoint("best")), data=None)
    part = folder / "explain" / "robustness"
    part.mkdir(parents=True)
    (part / "robustness.json").write_text(json.dumps({"data": "scans", "groups": {"all": {
        "networks": ["outputs/a, b, best.ckpt"],
        "mean_error": {"mean": 0.25, "low": 0.2, "high": 0.3, "n": 9},
        "error": {"blur": [0.0, 0.5], "noise": [0.0, 0.75], "dots": [0.0, 0.1]}}}}))  # fmt: skip
    text = write_model_card(directory).read_text()
    assert "not measured yet" not in text
    assert "Corrupted images (best.ckpt on scans): error rate 25.0 % [20.0, 30.0] over" in text
    assert "noise 75.0 %, blur 50.0 %, dots 10.0 %" in text
    (result,) = json.loads((folder / "evaluation.json").read_text()).values()
    worst = min(result["acc_per_class"], key=lambda k: result["acc_per_class"][k])
    assert f"lowest recall {100 * result['acc_per_class'][worst]:.2f} % ({worst});" in text
    assert f"| {100 * result['ece']:.2f} % |" in text
    epoch = directory.record["best"]["epoch"]
    assert result["epoch"] == epoch and f"of MNIST 5k, after epoch {epoch} | " in text


def test_the_model_card_names_the_whole_recipe_and_what_it_does_not_cover(good_run, monkeypatch):
    directory = RunDirectory.open(good_run)
    config = directory.config()

    def card(**changes) -> str:
        monkeypatch.setattr(directory, "config", lambda: {**config, **changes})
        return model_card(directory)

    trainer = {"accumulate_grad_batches": 3, "gradient_clip_val": 0.5, "default_root_dir": "/me"}
    text = card(trainer={"max_epochs": 6, **trainer})
    assert "- trainer.accumulate_grad_batches: 3\n- trainer.gradient_clip_val: 0.5\n" in text
    assert "- monitor: val/acc\n" in text and "default_root_dir" not in text
    assert "optimistic" not in text and "starting from" not in text
    text = card(monitor="test/acc")
    assert "selected by test/acc: its test results are optimistic.\n" in text
    text = card(ckpt_path="a/best.ckpt")
    assert re.search(r"6 of 6 epochs in .* seconds, starting from a/best\.ckpt\.", text)
    text = card(ckpt_path="a/best.ckpt", train=False)
    assert "\nNot trained by this run" in text and "the weights are from a/best.ckpt.\n" in text
    assert "Trained on" not in text


def test_a_damaged_evaluation_file_is_named(tmp_path):
    for content in ("[1]", "{"):
        (tmp_path / "evaluation.json").write_text(content)
        with pytest.raises(InputError, match=r"evaluation.json is damaged; delete it"):
            add_result(tmp_path, "best on 5 images", {})
    assert (tmp_path / "evaluation.json").read_text() == "{"


def test_a_run_whose_record_has_other_types_is_still_used(finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "run")
    record = json.loads((finished_run / "run.json").read_text())
    (tmp_path / "run/run.json").write_text(
        json.dumps(record | {"class_names": 5, "image_shape": 3})
    )
    assert simplecnn.load(tmp_path / "run").class_names == tuple("0123456789")
    (tmp_path / "run/config.yaml").write_text("model: x\ndata: 3\ntrainer: []\n")
    with pytest.raises(InputError, match="config.yaml is not the configuration of a run"):
        simplecnn.load(tmp_path / "run")


def test_a_network_of_images_that_were_standardized_outside_of_it(
    finished_run, bundled, tmp_path, caplog
):
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    simplecnn.load(run).predict(bundled[0][0])
    assert not caplog.messages
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"image_range": [-0.4241, 2.8214]}))
    simplecnn.load(run).predict(bundled[0][0])
    (warning,) = caplog.messages
    assert warning.startswith("The network was trained on images with values from -0.424 to 2.82,")

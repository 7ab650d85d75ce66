"""Runs of version 0.1, in `old_runs`, can be evaluated and exported, but not resumed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from simplecnn.errors import InputError
from simplecnn.explain.subject import load_subject
from simplecnn.inference.evaluate import evaluate
from simplecnn.inference.export import export
from simplecnn.inference.networks import load_network, load_safetensors
from simplecnn.inference.trained_run import TrainedRun
from simplecnn.run_directory import RunDirectory

OLD_RUNS = Path(__file__).parent / "old_runs"


# SimpleCNN, SimpleCNN with a crop, a network of torch.nn modules
@pytest.fixture(params=["plain", "crop", "other"])
def old_run(request, tmp_path):
    return Path(shutil.copytree(OLD_RUNS / request.param, tmp_path / request.param))


def test_the_evaluation_of_an_old_run_is_reproduced(old_run):
    directory = RunDirectory.open(old_run)
    (expected,) = json.loads((OLD_RUNS / old_run.name / "evaluation.json").read_text()).values()
    run = TrainedRun(directory, directory.checkpoint("best"))
    assert evaluate(run, data=None) == expected["acc"]
    (result,) = json.loads((old_run / "evaluation.json").read_text()).values()
    # version 0.1 rounded cropped images to integer gray values
    tolerance = 1e-3 if old_run.name == "crop" else 1e-6
    assert result["loss"] == pytest.approx(expected["loss"], rel=tolerance)
    assert result["confusion"] == expected["confusion"]


def test_an_old_run_can_be_explained_exported_and_used_to_predict(old_run, ten_digits):
    directory = RunDirectory.open(old_run)
    last = directory.checkpoint("last")
    run = TrainedRun(directory, last)
    subject = load_subject(run)
    network = load_network(last)
    images = torch.from_numpy(ten_digits[0])
    assert torch.equal(subject.network(images), network(images))
    assert not torch.equal(subject.untrained(images), network(images))
    assert hasattr(network, "crop") == (old_run.name == "crop")
    probabilities = run.predict(ten_digits[0]).probabilities
    np.testing.assert_allclose(probabilities, network(images).softmax(1), rtol=1e-6)
    path = old_run / "new.safetensors"
    export(run, path)
    torch.testing.assert_close(load_safetensors(path)(images), network(images))


@pytest.mark.parametrize("name", ["plain", "crop"])
def test_an_old_export_returns_the_same_logits(name, ten_digits):
    images = torch.from_numpy(ten_digits[0])
    best = load_network(OLD_RUNS / name / "checkpoints" / "best.ckpt")
    exported = load_safetensors(OLD_RUNS / name / "model.safetensors")
    torch.testing.assert_close(exported(images), best(images))


def test_an_old_run_is_not_resumed(old_run):
    record = json.loads((old_run / "run.json").read_text())
    (old_run / "run.json").write_text(json.dumps({**record, "status": "interrupted"}))
    with pytest.raises(InputError, match="created by another version of simplecnn.*evaluated"):
        RunDirectory.open_to_resume(old_run)

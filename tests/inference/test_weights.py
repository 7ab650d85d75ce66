"""Exported weights are bit-identical to those of the run."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import simplecnn
from simplecnn.errors import InputError
from simplecnn.inference.export import export
from simplecnn.inference.networks import load_network, load_safetensors
from simplecnn.inference.trained_run import TrainedRun
from simplecnn.models.classifier import Classifier
from simplecnn.models.simple_cnn import SimpleCNN
from simplecnn.run_directory import RunDirectory


@pytest.fixture
def checkpoint(finished_run):
    return finished_run / "checkpoints" / "best.ckpt"


def test_an_export_holds_the_weights_of_the_run(finished_run, checkpoint, ten_digits, tmp_path):
    path = tmp_path / "model.safetensors"
    record = export(TrainedRun(RunDirectory.open(finished_run), checkpoint), path)
    images = torch.from_numpy(ten_digits[0])
    with torch.no_grad():
        expected = load_network(checkpoint)(images)
        # the classifier has another memory format, and therefore other rounding errors
        module = Classifier.load_from_checkpoint(checkpoint, weights_only=True)
        trained = module.network.eval()
        torch.testing.assert_close(expected, trained(images), rtol=1e-5, atol=1e-6)
        state = load_network(checkpoint).state_dict()
        assert all(torch.equal(state[name], value) for name, value in trained.state_dict().items())
        torch.testing.assert_close(load_safetensors(path)(images), expected, rtol=1e-5, atol=1e-6)
    # the file can be loaded with safetensors and SimpleCNN alone
    network = SimpleCNN(channels=(4, 8))
    network.load_state_dict(load_file(path))
    torch.testing.assert_close(network.eval()(images), expected, rtol=1e-5, atol=1e-6)
    with safe_open(path, framework="pt") as file:
        config = json.loads(file.metadata()["network"])
    assert config["_target_"] == "simplecnn.models.simple_cnn.SimpleCNN"
    assert config["channels"] == [4, 8]
    assert (record["num_tensors"], record["num_bytes"]) == (8, path.stat().st_size)
    assert record["num_parameters"] == sum(p.numel() for p in network.parameters())
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, f"{path.name}.json"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_of_any_precision_are_loaded_in_float32(checkpoint, dtype, ten_digits, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    state = {name: value.to(dtype) for name, value in content["state_dict"].items()}
    torch.save({**content, "state_dict": state}, tmp_path / "last.ckpt")
    network = load_network(tmp_path / "last.ckpt")
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32}
    assert torch.equal(network.conv1.weight, state["network.conv1.weight"].float())
    assert network(torch.from_numpy(ten_digits[0])).shape == (10, 10)


def test_a_failed_export_leaves_the_previous_file(finished_run, tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    export(simplecnn.load(finished_run), path)
    before = path.read_bytes()

    def disk_full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("simplecnn.atomic.os.replace", disk_full)
    with pytest.raises(InputError, match="cannot be written: No space left on device."):
        export(simplecnn.load(finished_run), path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 2


def test_damaged_and_malicious_exports_are_rejected(finished_run, tmp_path):
    path = tmp_path / "model.safetensors"
    export(simplecnn.load(finished_run), path)
    weights = load_file(path)
    hostile = json.dumps({"_target_": "os.system", "command": "touch harm"})
    cases = {"truncated": path.read_bytes()[:500], "empty": b"", "text": b"hello" * 10,
             "pickle": b"\x80\x04."}  # fmt: skip
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
    save_file(weights, tmp_path / "nameless")
    save_file(weights, tmp_path / "hostile", {"network": hostile})
    save_file({"x": torch.zeros(1)}, tmp_path / "other", {"network": json.dumps(
        {"_target_": "simplecnn.models.simple_cnn.SimpleCNN"})})  # fmt: skip
    for name in (*cases, "nameless", "hostile", "other"):
        with pytest.raises(InputError) as caught:
            load_safetensors(tmp_path / name)
        message = str(caught.value)
        assert name in message and "\n" not in message, message
    with pytest.raises(InputError, match="'os.system' is not on the list"):
        load_safetensors(tmp_path / "hostile")

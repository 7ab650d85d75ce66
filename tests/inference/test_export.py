"""Exported files return the network's logits for any batch size, and contain its metadata."""

import gc
import hashlib
import json
from collections.abc import Iterator

import pytest
import torch
from children import run_forked
from safetensors import safe_open

import simplecnn
from simplecnn.errors import InputError, RunError
from simplecnn.inference import export as exports
from simplecnn.inference.export import FORMATS, digits_for, export
from simplecnn.inference.networks import load_network, load_safetensors
from simplecnn.inference.trained_run import TrainedRun
from simplecnn.models.simple_cnn import SimpleCNN

SUFFIXES = {"safetensors": "safetensors", "onnx": "onnx", "torch_export": "pt2"}


def cropped(run: TrainedRun) -> TrainedRun:
    """Replace the network of a run by an untrained one with a crop and blur pooling."""
    torch.manual_seed(0)
    run.network_config = {**run.network_config, "crop": [4, 26], "pool": "blur"}
    arguments = {k: v for k, v in run.network_config.items() if k != "_target_"}
    run.network = SimpleCNN(**arguments).eval().requires_grad_(False)
    return run


def read(path, format):
    """Read an exported file; returns a function from images to logits, and the metadata."""
    if format == "torch_export":
        extra = {"metadata.json": ""}
        module = torch.export.load(path, extra_files=extra).module()
        return module, json.loads(extra["metadata.json"])
    if format == "safetensors":
        with safe_open(path, framework="pt") as file:
            texts = dict(file.metadata())
        assert texts.pop("format") == "pt"
        return load_safetensors(path), {key: json.loads(text) for key, text in texts.items()}
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 1, 28, 28]
    texts = session.get_modelmeta().custom_metadata_map
    forward = lambda x: torch.from_numpy(session.run(None, {"images": x.numpy()})[0])  # noqa: E731
    return forward, {key: json.loads(text) for key, text in texts.items()}


@pytest.fixture
def no_session_is_left() -> Iterator[None]:
    """Destroy ONNX Runtime's sessions here: a process forked later would wait for their threads."""
    yield
    gc.collect()


@pytest.mark.long
@pytest.mark.usefixtures("no_session_is_left")
@pytest.mark.parametrize("format", FORMATS)
def test_an_exported_file_agrees_with_the_network(format, good_run, tmp_path, caplog):
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    run = cropped(simplecnn.load(good_run))
    path = tmp_path / f"model.{SUFFIXES[format]}"
    with caplog.at_level("INFO", "simplecnn"):
        record = export(run, path, format)
    forward, metadata = read(path, format)
    digits = digits_for(run)
    assert digits.shape == (1000, 1, 28, 28)
    with torch.no_grad():
        for size in (1, 7, 1000):
            expected = run.network(digits[:size])
            logits = forward(digits[:size].contiguous())
            assert torch.equal(logits.argmax(1), expected.argmax(1))
            assert float((logits - expected).abs().max()) < 1e-4
    assert metadata["class_names"] == list("0123456789")
    assert (
        metadata["metrics"] == run.checkpoint_metrics and 0.9 < metadata["metrics"]["test/acc"] <= 1
    )
    assert metadata["preprocessing"]["box"] == 20
    assert metadata["preprocessing"]["crop"]["pixels"] == [4, 26]
    written = json.loads((tmp_path / f"{path.name}.json").read_text())
    assert written == record and {key: written[key] for key in metadata} == metadata
    assert written["num_bytes"] == path.stat().st_size
    assert written["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert written["checked"]["num_images"] == 1000
    message = caplog.messages[-1]
    assert written["sha256"] in message and f"{written['num_bytes']:,} bytes" in message
    assert ("opset 2" in message) == (format == "onnx")


def test_a_file_that_does_not_agree_with_the_network_is_not_written(
    good_run, tmp_path, monkeypatch
):
    run = simplecnn.load(good_run)

    def flipped(run, metadata):
        content, forward, properties = exports._safetensors(run, metadata)
        return content, lambda images: forward(images.flip(3)), properties

    monkeypatch.setitem(FORMATS, "safetensors", flipped)
    message = r"does not agree with the network: \d+ of 1,000 classes"
    with pytest.raises(RunError, match=message):
        export(run, tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_extra_is_reported_with_its_install_command(good_run, tmp_path, monkeypatch):
    monkeypatch.setattr("simplecnn.errors.find_spec", lambda name: None)
    with pytest.raises(
        InputError, match="format=onnx needs the packages onnx, .*uv sync --extra export"
    ):
        exports._onnx(simplecnn.load(good_run), {})


@pytest.mark.long
def test_the_command(good_run, tmp_path):
    done = run_forked(tmp_path, "export.py", f"run={good_run}", "to=mine.safetensors")
    assert done.returncode == 0 and "mine.safetensors   safetensors, 98,442" in done.stdout
    images = digits_for(simplecnn.load(good_run))[:10]
    expected = load_network(good_run / "checkpoints" / "best.ckpt")(images)
    assert torch.equal(load_safetensors(tmp_path / "mine.safetensors")(images), expected)
    before = sorted(path.name for path in tmp_path.iterdir())
    assert before == ["mine.safetensors", "mine.safetensors.json"]
    for overrides, message in [
        (["format=keras"], "format is 'keras': it must be safetensors, onnx or torch_export."),
        (["to=nowhere/x.pt2", "format=torch_export"], "to=nowhere/x.pt2: there is no folder nowhe"),
        (["to=x.onnx"], "to=x.onnx: format is safetensors. Type format=onnx"),
        (["to=best.ckpt"], "to=best.ckpt: format is safetensors. End the name with .safetensors"),
        (["checkpoint=first"], "checkpoint=first: first does not exist."),
    ]:
        done = run_forked(tmp_path, "export.py", f"run={good_run}", *overrides)
        assert done.returncode == 2 and message in done.stderr, done
    assert sorted(path.name for path in tmp_path.iterdir()) == before

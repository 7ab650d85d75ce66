"""Export the network of a run to a file: safetensors, ONNX or a torch.export program."""

import hashlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from simplecnn.atomic import atomic_write
from simplecnn.data.files import read_bundled
from simplecnn.errors import InputError, RunError, relative_path, require_packages, reraise
from simplecnn.inference.networks import BATCH_SIZE, NETWORK, logits
from simplecnn.inference.trained_run import TrainedRun
from simplecnn.run_directory import write_json

log = logging.getLogger(__name__)

NUM_CHECKED = 1000  # digits on which the exported file must agree with the network
TOLERANCE = 1e-4  # of logits
INPUT, OUTPUT = "images", "logits"
Forward = Callable[[Tensor], Tensor]


def export(run: TrainedRun, to: Path, format: str = "safetensors") -> dict[str, Any]:
    """Write the network of a run to the file `to`, and its metadata also to `to`.json.

    format: `safetensors`, the weights named as in the state_dict; `onnx`, by torch.onnx;
        `torch_export`, a program for `torch.export.load`. The latter two accept any batch size.

    The metadata contain preprocessing, class names and metrics. Before anything is written, the
    exported network must agree with the original on 1,000 digits: the same classes, logits within
    1e-4.

    Returns the content of the JSON file. Raises InputError if the network cannot be exported or the
    file cannot be written, RunError if the logits differ.
    """
    metadata = describe(run)
    content, forward, properties = FORMATS[format](run, metadata)
    checked = check(run, forward)
    record = {
        "file": to.name,
        "format": format,
        **properties,
        "num_parameters": sum(p.numel() for p in run.network.parameters()),
        "num_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "checked": checked,
        **metadata,
    }
    try:
        atomic_write(to, content)
        write_json(to.with_name(f"{to.name}.json"), record)
    except OSError as error:
        raise InputError(f"{relative_path(to)} cannot be written: {error.strerror}.") from None
    opset = f"   opset {properties['opset']}" if "opset" in properties else ""
    log.info(
        f"{relative_path(to)}   {format}, {record['num_parameters']:,} parameters, "
        f"{len(content):,} bytes{opset}\nsha256 {record['sha256']}\n"
        f"checked on {checked['num_images']:,} bundled digits, prepared as images are for this "
        f"network: the same classes, "
        f"logits within {checked['largest_difference']:.1e}"
    )
    return record


def describe(run: TrainedRun) -> dict[str, Any]:
    """The metadata of an exported file: all that is needed to use the network."""
    preprocessing: dict[str, Any] = run.preprocessing.record()
    if crop := run.network_config.get("crop"):
        preprocessing["crop"] = {"pixels": list(crop), "applied_by": "the network itself"}
    return {
        NETWORK: run.network_config or None,
        "class_names": list(run.class_names),
        "preprocessing": preprocessing,
        "metrics": run.checkpoint_metrics,
        "output": f"{OUTPUT} (N, {len(run.class_names)}): softmax gives probabilities",
        "checkpoint": run.checkpoint.name,
        "command": run.record.get("command"),
        "versions": run.record.get("versions"),
    }


def check(run: TrainedRun, forward: Forward) -> dict[str, Any]:
    """Compare the logits (N, classes) of an exported network with the original's on digits."""
    images = digits_for(run)
    expected = logits(run.network, images)
    with torch.no_grad():
        exported = torch.cat([forward(batch) for batch in images.split(BATCH_SIZE)])
    difference = float((expected - exported).abs().max())
    num_different = int((expected.argmax(1) != exported.argmax(1)).sum())
    if num_different or not difference <= TOLERANCE:
        raise RunError(
            f"The export does not agree with the network: {num_different} of {len(images):,} "
            f"classes differ, logits by up to {difference:.1e}; nothing was written."
        )
    return {"num_images": len(images), "largest_difference": difference}


def digits_for(run: TrainedRun) -> Tensor:
    """1,000 bundled digits, preprocessed for the network of a run."""
    digits, _ = read_bundled()
    return run.prepare(digits[:: len(digits) // NUM_CHECKED])


def _safetensors(run: TrainedRun, metadata: dict[str, Any]) -> tuple[bytes, Forward, dict]:
    if not run.network_config:
        raise InputError(
            f"{relative_path(run.checkpoint)} is a checkpoint of a custom LightningModule: "
            f"safetensors export requires a Classifier without a forward of its own. Type "
            f"format=onnx or format=torch_export."
        )
    weights = {  # clones, because a layer that is used twice has one tensor with two names
        name: value.clone(memory_format=torch.contiguous_format)
        for name, value in run.network.state_dict().items()
    }
    content = save(weights, {"format": "pt", **_json_values(metadata)})
    loaded = load(content)
    forward = partial(torch.func.functional_call, run.network, loaded)
    return content, forward, {"num_tensors": len(loaded)}


def _torch_export(run: TrainedRun, metadata: dict[str, Any]) -> tuple[bytes, Forward, dict]:
    dynamic_shapes = ({0: torch.export.Dim("batch", min=1)},)
    with _exporting():
        program = torch.export.export(run.network, _example(run), dynamic_shapes=dynamic_shapes)
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"metadata.json": json.dumps(metadata)})
    loaded = torch.export.load(io.BytesIO(buffer.getvalue())).module()
    return buffer.getvalue(), loaded, {"input": INPUT}


def _onnx(run: TrainedRun, metadata: dict[str, Any]) -> tuple[bytes, Forward, dict]:
    require_packages("format=onnx", "onnx", "onnxruntime", "onnxscript")
    import onnx
    import onnxruntime

    with _exporting():
        program = torch.onnx.export(
            run.network, _example(run), dynamic_shapes=({0: "batch"},), input_names=[INPUT],
            output_names=[OUTPUT], dynamo=True, verbose=False,
        )  # fmt: skip
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, _json_values(metadata))
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def forward(images: Tensor) -> Tensor:
        (logits,) = session.run([OUTPUT], {INPUT: images.contiguous().numpy()})
        return torch.from_numpy(logits)

    opset = next(entry.version for entry in model.opset_import if not entry.domain)
    return content, forward, {"opset": opset, "input": INPUT}


def _json_values(metadata: dict[str, Any]) -> dict[str, str]:
    return {key: json.dumps(value) for key, value in metadata.items()}


def _example(run: TrainedRun) -> tuple[Tensor]:
    return (torch.zeros(2, *run.preprocessing.shape),)


@contextmanager
def _exporting() -> Iterator[None]:
    """Raise InputError if torch cannot export the network, and silence the exporter's warnings."""
    with reraise("torch.export cannot trace this network"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


FORMATS = {"safetensors": _safetensors, "onnx": _onnx, "torch_export": _torch_export}

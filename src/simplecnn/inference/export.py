"""The network of a run as one file for others: safetensors, ONNX, or a program of torch.export."""

import hashlib
import importlib.util
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
from simplecnn.config.build import first_line
from simplecnn.data.files import read_bundled
from simplecnn.errors import InputError, RunError, short
from simplecnn.inference.networks import NETWORK
from simplecnn.inference.trained_run import BATCH, TrainedRun
from simplecnn.run_directory import write_json

log = logging.getLogger(__name__)

NUM_CHECKED = 1000  # digits on which the file must answer like the network
TOLERANCE = 1e-4  # of a logit
INPUT, OUTPUT = "images", "logits"
Answers = Callable[[Tensor], Tensor]


def export(run: TrainedRun, to: Path, format: str = "safetensors") -> dict[str, Any]:
    """Write the network of a run to the file `to`, and what must be known of it to `to`.json.

    format: `safetensors`, the weights under the names of the state_dict; `onnx`, by torch's own
        exporter; `torch_export`, a program for `torch.export.load`. The latter two take any number
        of images. Preprocessing, class names and metrics are in the metadata of each.

    What is to be written first answers on 1,000 digits: the same classes, logits within 1e-4.
    Gives the content of the JSON file. Raises InputError where it cannot be exported or written,
    RunError where the answers differ.
    """
    metadata = describe(run)
    content, answers, facts = FORMATS[format](run, metadata)
    checked = check(run, answers)
    record = {
        "file": to.name,
        "format": format,
        **facts,
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
        raise InputError(f"{short(to)} cannot be written: {error.strerror}.") from None
    opset = f"   opset {facts['opset']}" if "opset" in facts else ""
    log.info(
        f"{short(to)}   {format}, {record['num_parameters']:,} parameters, {len(content):,} bytes"
        f"{opset}\nsha256 {record['sha256']}\nchecked on {checked['num_images']:,} digits: "
        f"the same classes, logits within {checked['largest_difference']:.1e}"
    )
    return record


def describe(run: TrainedRun) -> dict[str, Any]:
    """What must be known to use the network: for the metadata of a file, and beside it."""
    preprocessing: dict[str, Any] = run.preprocessing.record()
    if crop := run.network_config.get("crop"):
        preprocessing["crop"] = {"pixels": list(crop), "applied_by": "the network itself"}
    return {
        NETWORK: run.network_config or None,
        "class_names": list(run.class_names),
        "preprocessing": preprocessing,
        "metrics": run.metrics,
        "output": f"{OUTPUT} (N, {len(run.class_names)}): softmax gives probabilities",
        "checkpoint": run.checkpoint.name,
        "command": run.record.get("command"),
        "versions": run.record.get("versions"),
    }


def check(run: TrainedRun, answers: Answers) -> dict[str, Any]:
    """Hold the answers (N, classes) of a file against the network's on digits."""
    images = digits_for(run)
    with torch.no_grad():
        pairs = [(run.network(part), answers(part)) for part in images.split(BATCH)]
    expected, exported = (torch.cat(logits) for logits in zip(*pairs, strict=True))
    difference = float((expected - exported).abs().max())
    num_other = int((expected.argmax(1) != exported.argmax(1)).sum())
    if num_other or not difference <= TOLERANCE:
        raise RunError(
            f"The export answers otherwise than the network: {num_other} of {len(images):,} "
            f"classes differ, logits by up to {difference:.1e}; nothing was written."
        )
    return {"num_images": len(images), "largest_difference": difference}


def digits_for(run: TrainedRun) -> Tensor:
    """1,000 bundled digits as the network takes them, in any size and color."""
    digits, _ = read_bundled()
    return run.prepare(digits[:: len(digits) // NUM_CHECKED])


def _safetensors(run: TrainedRun, metadata: dict[str, Any]) -> tuple[bytes, Answers, dict]:
    if not run.network_config:
        raise InputError(
            f"{short(run.checkpoint)} is that of a LightningModule of your own: as safetensors, "
            f"only the network of a Classifier is exported. Type format=onnx or torch_export."
        )
    weights = {name: value.contiguous() for name, value in run.network.state_dict().items()}
    content = save(weights, {"format": "pt", **_texts(metadata)})
    written = load(content)
    answers = partial(torch.func.functional_call, run.network, written)
    return content, answers, {"num_tensors": len(written)}


def _torch_export(run: TrainedRun, metadata: dict[str, Any]) -> tuple[bytes, Answers, dict]:
    sizes = ({0: torch.export.Dim("batch", min=1)},)
    with _followed_by_torch():
        program = torch.export.export(run.network, _example(run), dynamic_shapes=sizes)
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"metadata.json": json.dumps(metadata)})
    written = torch.export.load(io.BytesIO(buffer.getvalue())).module()
    return buffer.getvalue(), written, {"input": INPUT}


def _onnx(run: TrainedRun, metadata: dict[str, Any]) -> tuple[bytes, Answers, dict]:
    missing = [n for n in ("onnx", "onnxruntime", "onnxscript") if not importlib.util.find_spec(n)]
    if missing:
        raise InputError(
            f"format=onnx needs {', '.join(missing)}, which a plain installation leaves out. Type "
            f"uv sync --extra export, or pip install 'simplecnn[export]'."
        )
    import onnx
    import onnxruntime

    with _followed_by_torch():
        program = torch.onnx.export(
            run.network, _example(run), dynamic_shapes=({0: "batch"},), input_names=[INPUT],
            output_names=[OUTPUT], dynamo=True, verbose=False,
        )  # fmt: skip
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, _texts(metadata))
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def answers(images: Tensor) -> Tensor:
        (logits,) = session.run([OUTPUT], {INPUT: images.contiguous().numpy()})
        return torch.from_numpy(logits)

    opset = next(entry.version for entry in model.opset_import if not entry.domain)
    return content, answers, {"opset": opset, "input": INPUT}


def _texts(metadata: dict[str, Any]) -> dict[str, str]:
    return {key: json.dumps(value) for key, value in metadata.items()}


def _example(run: TrainedRun) -> tuple[Tensor]:
    shape = run.preprocessing
    return (torch.zeros(2, shape.channels, shape.size, shape.size),)


@contextmanager
def _followed_by_torch() -> Iterator[None]:
    """Raises InputError where torch cannot follow the network, without its exporter's warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        reason = f"torch.export cannot follow this network: {first_line(error)}"
        raise InputError(reason) from None


FORMATS = {"safetensors": _safetensors, "onnx": _onnx, "torch_export": _torch_export}

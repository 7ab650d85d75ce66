"""The rows of the benchmark, and how they are shown: a table as text, bars as a picture."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from simplecnn.figures.benchmark import Bars

TUTORIAL = "the tutorial's loop"
USUAL = "Lightning as usually written"
TEMPLATE = "lightning-hydra-template"
WHOLE = "bare loop, batch not split"
BARE = "bare loop of our step"
FIT = "Trainer.fit, defaults on"
ALONE = "with data.steps_together=1"
CHANGED = "with data/augmentation=elastic"
NOTHING = "without any of them"
# The same with one of them off: the callbacks and loggers that are left out.
PICTURES = ("filters", "feature_maps", "film", "health", "mistakes", "confusion", "curves")
WITHOUT = {
    "without pictures": PICTURES,
    "without checkpoints": ("best", "last"),
    "without TensorBoard": ("tensorboard",),
    "without the bar": ("bar",),
    NOTHING: (*PICTURES, "best", "last", "tensorboard", "csv", "bar", "lines", "lr_monitor"),
}
OURS = (BARE, FIT, WHOLE)  # the bars of another colour
START_UP = ("import pytorch_lightning", "first step", "--help", "--cfg job", "a mistake")
TARGET = 0.99  # test accuracy


def caption(result: Mapping[str, Any]) -> str:
    known = result["machine"]
    gpu = f"{result['gpu']['name']}, " if result.get("gpu") else ""
    return (
        f"{gpu}{known['processor']}, {known['num_threads']} threads, torch {known['torch']}, "
        f"batch {result['batch_size']}, float32; "
        f"medians of {result['rounds']} turns, for a start of {result['repeats']}"
    )


def ratios(times: Sequence[float], others: Sequence[float]) -> list[float]:
    """Round by round, so that what slows both down does not count."""
    return [a / b for a, b in zip(times, others, strict=True)]


def medians(times: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in times.items()}


def table(result: Mapping[str, Any]) -> str:
    """What was measured, as text."""
    rows, memory, fits = result["ms_per_step"], result["memory_mb"], result["seconds_of_a_fit"]
    heads = f"{'ms':>8}{'of bare':>10}{'as fast':>10}{'memory':>11}{'whole fit':>12}"
    lines = [f"{'a training step':32}{heads}"]
    for name, ms in rows.items():
        of_bare = statistics.median(ratios(ms, rows[BARE]))
        as_fast = statistics.median(ratios(rows[TUTORIAL], ms))
        numbers = f"{statistics.median(ms):8.2f}{of_bare:10.2f}{as_fast:8.2f} x"
        fit = f"{fits[name]:10.2f} s" if name in fits else ""
        lines.append(f"{name:32}{numbers}{memory[name]:8.0f} MB{fit}")
    fed = medians(result["seconds_of_feeding_60000"])
    lines += [
        "as fast: as the tutorial's loop; whole fit: with its start, validation and pictures",
        "",
        f"{100 * result['share_of_sgemm']:.0f} % of sgemm's "
        f"{result['peak_gflops']:.0f} GFLOP/s "
        f"({result['gflop_per_step']:.3f} GFLOP a step)",
        f"feeding 60,000 digits {1000 * fed['ours']:.0f} ms, torchvision's DataLoader "
        f"{fed['torchvision DataLoader']:.1f} s: {result['feeding']:.0f} times as fast",
    ]
    if gpu := result.get("gpu"):
        lines.append(
            f"a copy on the GPU {gpu['copy_gb_per_s']} GB/s, a launch {gpu['launch_us']} µs"
        )
    if "seconds_of_start" in result:
        start = medians(result["seconds_of_start"])
        lines += ["", *(f"{name:32}{value:8.2f} s" for name, value in start.items())]
        lines.append(
            f"from the start of a process to its first step: "
            f"{result['first_step_against_import']:.2f} of importing Lightning"
        )
        phases = "  ".join(f"{k} {v:.1f} s" for k, v in result["seconds_by_phase"].items())
        lines.append(f"that process by phase: {phases}")
        lines.append(f"its peak memory: {result['peak_memory_mb']:.0f} MB")
    if "fast" in result:
        fast, tutorial = result["fast"], result["tutorial"]
        reached = "reached" if tutorial["reached"] else "did not reach"
        lines += [
            "",
            f"experiment=fast: {100 * fast['mean_accuracy']:.2f} % "
            f"± {100 * fast['deviation']:.2f} (n = {len(fast['seconds'])}) "
            f"in {statistics.mean(fast['seconds']):.1f} s",
            f"the tutorial's loop {reached} {100 * TARGET:.1f} % in {tutorial['seconds']:.1f} s, "
            f"{len(tutorial['test_accuracy'])} epochs: "
            f"{result['tutorial_against_fast']:.1f} times as long",
        ]
    return "\n".join([*lines, "", caption(result)])


def panels(result: Mapping[str, Any]) -> list[Bars]:
    """What was measured, as bars."""
    rows = result["ms_per_step"]
    step = medians(rows)
    as_fast = {n: statistics.median(ratios(rows[TUTORIAL], rows[n])) for n in rows}
    shown = [TUTORIAL, USUAL, TEMPLATE, WHOLE, BARE, FIT]
    found = [
        Bars(
            "milliseconds a training step (x: times as fast as the tutorial's loop)",
            [(n, step[n], f"{step[n]:.1f} ms, {as_fast[n]:.2f} x", n in OURS) for n in shown],
        )
    ]
    if "seconds_of_start" in result:
        start = medians(result["seconds_of_start"])
        rows = [(n, v, f"{v:.1f} s", n != START_UP[0]) for n, v in start.items()]
        found.append(Bars("seconds from the start of a process", rows))
    if "fast" in result:
        mean = statistics.mean(result["fast"]["seconds"])
        other = result["tutorial"]["seconds"]
        accuracy = f"{100 * result['fast']['mean_accuracy']:.2f} %"
        rows = [
            ("the tutorial's loop", other, f"{other:.0f} s", False),
            ("experiment=fast", mean, f"{mean:.0f} s, {accuracy}", True),
        ]
        found.append(Bars("seconds to 99.0 % of the test digits", rows))
    return found

"""Error rates on corrupted images, by kind of corruption and severity."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from simplecnn.explain.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from simplecnn.explain.findings import Findings
from simplecnn.explain.intervals import (
    MIN_NUMBERS,
    interval_over,
    mean_interval,
    percent_series,
    sample_size,
)
from simplecnn.explain.subject import Subject, groups, mean_note, row_name, slug
from simplecnn.figures.explain.comparison import Panel, comparison_figure
from simplecnn.figures.explain.robustness import corruption_figure
from simplecnn.inference.networks import logits
from simplecnn.table import table

KINDS = list(CORRUPTIONS)


def robustness(subjects: Sequence[Subject], *, num_images: int = 1000, seed: int = 0) -> Findings:
    """Measure the error rates of one network, or compare several by their swept values.

    All networks are tested on the same images with the same noise.
    """
    wrong = np.array([wrong_predictions(s, num_images=num_images, seed=seed) for s in subjects])
    errors = wrong.mean(3)  # (networks, kinds, severities + 1)
    images, labels = subjects[0].sample(num_images, seed=seed)
    image_note = f"{len(labels):,} test images of {subjects[0].data_name}"
    example = images[[int(labels.argmax())]]
    examples = np.array(
        [[corrupt(example, k, s, seed=seed)[0].numpy() for s in (0, *SEVERITIES)] for k in KINDS]
    )
    grouped = groups(subjects)
    # By group, for each kind: mean error over the severities, (networks, images).
    by_kind = {t: list(wrong[m][:, :, 1:].mean(2).swapaxes(0, 1)) for t, m in grouped.items()}
    figures = []
    for title, members in grouped.items():
        interval = " [95 % interval]" * (len(members) >= MIN_NUMBERS)
        networks = f", mean{interval} over {len(members)} networks" * (len(members) > 1)
        figure = corruption_figure(
            examples,
            100 * errors[members].mean(0),
            kinds=KINDS,
            units=[CORRUPTIONS[k].unit for k in KINDS],
            amounts=[CORRUPTIONS[k].amounts for k in KINDS],
            intervals=100 * _intervals(errors[members]),
            title=f"Error rate on corrupted images (lower is better){title and f', {title}'}\n"
            f"{image_note}{networks}",
        )
        name = "errors" if len(grouped) == 1 else f"errors_{slug(title)}"
        figures.append((name, figure))
    setting = image_note + mean_note(grouped)
    if len(grouped) > 1:
        series = {title: percent_series(kinds) for title, kinds in by_kind.items()}
        panel = Panel("mean over five severities", "error rate in %", KINDS, series)
        heading = (
            "Error rate on corrupted images (lower is better)\n"
            "bar: mean; dot: one network; line: 95 % confidence interval"
        )
        figures.append(("compared", comparison_figure([panel], title=f"{heading}\n{setting}")))
    lines = [f"{setting}, each corrupted in {len(KINDS)} ways at {len(SEVERITIES)} severities"]
    if len(subjects) == 1:
        clean = interval_over(wrong[:, 0, 0])
        lines.append(f"error rate on the original images: {clean.text(factor=100)} %")
    return Findings(
        lines=[*lines, *_table(by_kind)],
        record={
            "data": subjects[0].data_name,
            "num_images": len(labels),
            "seed": seed,
            "severities": {k: list(CORRUPTIONS[k].amounts) for k in KINDS},
            "groups": {
                title or "all": {
                    "networks": [subjects[i].name for i in members],
                    "mean_error": interval_over(np.mean(by_kind[title], 0)).record(),
                    "interval_over": sample_size(by_kind[title][0]).split()[1],
                    "error": dict(
                        zip(KINDS, errors[members].mean(0).round(6).tolist(), strict=True)
                    ),
                }
                for title, members in grouped.items()
            },
        },
        arrays={"errors": errors, "examples": examples},
        figures=figures,
    )


def wrong_predictions(subject: Subject, *, num_images: int, seed: int) -> NDArray:
    """Return booleans (kinds, severities + 1, images), true for an incorrect prediction.

    Severity 0 is the original image.
    """
    images, labels = subject.sample(num_images, seed=seed)

    def wrong(kind: str, severity: int) -> NDArray:
        corrupted = corrupt(images, kind, severity, seed=seed)
        return (logits(subject.network, corrupted).argmax(1) != labels).numpy()

    clean = wrong("noise", 0)
    return np.array([[clean, *(wrong(k, s) for s in SEVERITIES)] for k in KINDS])


def _intervals(errors: NDArray) -> NDArray:
    """Ends (2, kinds, severities + 1) of the intervals over networks; NaN for fewer than three."""

    def ends(of_networks: NDArray) -> tuple[float, float]:
        interval = mean_interval(of_networks, top=1)
        return interval.low, interval.high

    return np.apply_along_axis(ends, 0, errors)


def _table(by_kind: Mapping[str, Sequence[NDArray]]) -> list[str]:
    """Mean error rate and those of the three worst kinds, in percent with 95 % intervals."""
    rows = [
        ("error rate in % [95 % interval]", "all kinds", "worst kind", "second", "third",
         "interval over")
    ]  # fmt: skip
    for title, kinds in by_kind.items():
        ranked = np.argsort([-kind.mean() for kind in kinds], kind="stable")
        worst, second, third = (
            f"{KINDS[i]} {interval_over(kinds[i]).text('.1f', factor=100)}" for i in ranked[:3]
        )
        mean = interval_over(np.mean(kinds, 0)).text(factor=100)
        name = row_name(title, len(kinds[0]))
        rows.append((name, mean, worst, second, third, sample_size(kinds[0])))
    return table(rows).splitlines()

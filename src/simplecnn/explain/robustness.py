"""How many errors a network makes on corrupted images, by kind and severity."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from simplecnn.explain.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from simplecnn.explain.findings import Findings
from simplecnn.explain.intervals import mean_interval, share_interval
from simplecnn.explain.subject import Subject, file_name, groups, logits, mean_over
from simplecnn.figures.explain.comparison import Panel, Series, comparison_figure
from simplecnn.figures.explain.robustness import corruption_figure
from simplecnn.table import table

KINDS = list(CORRUPTIONS)


def robustness(subjects: Sequence[Subject], *, num_images: int = 1000, seed: int = 0) -> Findings:
    """The error of one network, or of several compared by what a sweep varied.

    The same images and the same noise for all of them.
    """
    wrong = np.array([measure_mistakes(s, num_images=num_images, seed=seed) for s in subjects])
    errors = wrong.mean(3)  # (networks, kinds, severities + 1)
    images, labels = subjects[0].sample(num_images, seed=seed)
    n = len(labels)
    of_images = f"n = {n:,} test images of {subjects[0].data_name}"
    grouped = groups(subjects)
    first = int(labels.argmax())
    examples = np.stack(
        [
            [corrupt(images[first : first + 1], k, s, seed=seed)[0].numpy() for s in range(6)]
            for k in KINDS
        ]
    )
    samples = {title: _sample(wrong[members]) for title, members in grouped.items()}
    figures = []
    for title, members in grouped.items():
        networks = f", mean ± 95 % interval over {len(members)} networks" * (len(members) > 1)
        figure = corruption_figure(
            examples,
            100 * errors[members].mean(0),
            kinds=KINDS,
            units=[CORRUPTIONS[k].unit for k in KINDS],
            amounts=[CORRUPTIONS[k].amounts for k in KINDS],
            margins=100 * _margins(errors[members]),
            title=f"Errors on corrupted images{', ' + title if title else ''}; "
            f"{of_images}{networks}",
        )
        name = "errors" if len(grouped) == 1 else "errors_" + file_name(title)
        figures.append((name, figure))
    setting = of_images + mean_over(grouped)
    if len(grouped) > 1:
        by_kind = {
            title: _series(errors[members][:, :, 1:].mean(2).T, samples[title][0])
            for title, members in grouped.items()
        }
        panel = Panel("mean over five severities", "error in %", KINDS, by_kind)
        heading = "Errors on corrupted images; dot: network; line: 95 % interval"
        figures.append(("compared", comparison_figure([panel], title=f"{heading}\n{setting}")))
    lines = [setting]
    if len(subjects) == 1:
        clean = share_interval(int(wrong[0, 0, 0].sum()), n)
        lines.append(f"error on the unchanged images {clean.text(factor=100)} %")
    return Findings(
        lines=[*lines, *_table(samples)],
        record={
            "num_images": n,
            "seed": seed,
            "severities": {k: list(CORRUPTIONS[k].amounts) for k in KINDS},
            "groups": {
                title or "all": {
                    "networks": [subjects[i].name for i in members],
                    "mean_error": mean_interval(samples[title][0].mean(1), share=True).record(),
                    "interval_over": samples[title][1],
                    "error": {
                        k: [round(float(x), 6) for x in errors[members].mean(0)[j]]
                        for j, k in enumerate(KINDS)
                    },
                }
                for title, members in grouped.items()
            },
        },
        arrays={"errors": errors, "examples": examples},
        figures=figures,
    )


def measure_mistakes(subject: Subject, *, num_images: int, seed: int) -> NDArray:
    """Booleans (kinds, severities + 1, images): wrong answers; severity 0 changes nothing."""
    images, labels = subject.sample(num_images, seed=seed)

    def wrong(kind: str, severity: int) -> NDArray:
        answers = logits(subject.network, corrupt(images, kind, severity, seed=seed)).argmax(1)
        return (answers != labels).numpy()

    clean = wrong("noise", 0)
    return np.array([[clean, *(wrong(k, s) for s in SEVERITIES)] for k in KINDS])


def _sample(wrong: NDArray) -> tuple[NDArray, str]:
    """Errors (n, kinds) that an interval is about, and what the n are.

    Networks where there are several: they differ by more than the choice of images does. Of one
    network, its images.
    """
    corrupted = wrong[:, :, 1:].mean(2)  # (networks, kinds, images)
    return (corrupted.mean(2), "networks") if len(wrong) > 1 else (corrupted[0].T, "images")


def _series(networks: NDArray, sample: NDArray) -> Series:
    """In percent: errors (kinds, networks), and intervals from a sample (n, kinds)."""
    intervals = [mean_interval(kind, share=True) for kind in sample.T]
    low, high = (100 * np.array([getattr(x, end) for x in intervals]) for end in ("low", "high"))
    return Series(100 * networks, low, high)


def _margins(errors: NDArray) -> NDArray:
    """Half the widths (kinds, severities + 1) of intervals over networks; NaN for one network."""
    intervals = [[mean_interval(cell) for cell in row] for row in errors.transpose(1, 2, 0)]
    return np.array([[(x.high - x.low) / 2 for x in row] for row in intervals])


def _table(samples: Mapping[str, tuple[NDArray, str]]) -> list[str]:
    """Mean error and the three worst kinds, in percent with 95 % intervals."""
    rows: list[tuple[str, ...]] = [
        ("error in %", "mean", "worst kind", "second", "third", "interval over")
    ]
    for title, (sample, what) in samples.items():
        mean = mean_interval(sample.mean(1), share=True)
        worst = [
            f"{KINDS[i]} {mean_interval(sample[:, i], share=True).text('.1f', factor=100)}"
            for i in np.argsort(-sample.mean(0), kind="stable")[:3]
        ]
        over = f"{len(sample):,} {what}"
        rows.append((title or "this network", mean.text(factor=100), *worst, over))
    return table(rows).splitlines()

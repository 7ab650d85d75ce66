"""How many errors a network makes on images that are spoiled, by kind and severity."""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from simplecnn.explain.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from simplecnn.explain.findings import Findings
from simplecnn.explain.intervals import mean_interval, share_interval
from simplecnn.explain.subject import Subject, file_name, groups, logits, mean_over
from simplecnn.figures.robustness import compared_figure, corruption_figure


def robustness(subjects: Sequence[Subject], *, num_images: int = 1000, seed: int = 0) -> Findings:
    """The error of one network, or of several compared by what a sweep varied.

    The same images and the same noise for all of them.
    """
    wrong = np.array([measure_mistakes(s, num_images=num_images, seed=seed) for s in subjects])
    errors = wrong.mean(3)  # (networks, kinds, severities + 1)
    images, labels = subjects[0].sample(num_images, seed=seed)
    kinds, n = list(CORRUPTIONS), len(labels)
    one = f"n = {n:,} test images of {subjects[0].data_name}"
    grouped = groups(subjects)
    setting = one + mean_over(grouped)
    first = int(labels.argmax())
    tiles = np.stack(
        [
            [corrupt(images[first : first + 1], k, s, seed=seed)[0].numpy() for s in range(6)]
            for k in kinds
        ]
    )
    amounts = [[f"{a:g}" for a in CORRUPTIONS[k].amounts] for k in kinds]
    units = [CORRUPTIONS[k].unit for k in kinds]
    samples = {title: _sample(wrong[members]) for title, members in grouped.items()}
    figures = []
    for title, members in grouped.items():
        name = "errors" if len(grouped) == 1 else "errors_" + file_name(title)
        figure = corruption_figure(
            tiles, 100 * errors[members].mean(0), kinds=kinds, units=units, amounts=amounts,
            halves=100 * _halves(errors[members]),
            title=f"Errors on spoiled digits{', ' + title if title else ''}; {one}"
            + f", mean ± 95 % interval over {len(members)} networks" * (len(members) > 1),
        )  # fmt: skip
        figures.append((name, figure))
    if len(grouped) > 1:
        by_kind = {t: errors[m][:, :, 1:].mean(2) for t, m in grouped.items()}
        intervals = {
            t: [mean_interval(k, share=True) for k in s.T] for t, (s, _) in samples.items()
        }
        figures.append(
            ("compared", compared_figure(by_kind, intervals, kinds=kinds, setting=setting))
        )
    return Findings(
        lines=_lines(samples, errors, kinds, setting, n),
        record={
            "num_images": n,
            "seed": seed,
            "severities": {k: list(CORRUPTIONS[k].amounts) for k in kinds},
            "groups": {
                title or "all": {
                    "networks": [subjects[i].name for i in members],
                    "mean_error": asdict(mean_interval(samples[title][0].mean(1), share=True)),
                    "interval_over": samples[title][1],
                    "error": {
                        k: [round(float(x), 6) for x in errors[members].mean(0)[j]]
                        for j, k in enumerate(kinds)
                    },
                }
                for title, members in grouped.items()
            },
        },
        arrays={"errors": errors, "examples": tiles},
        figures=figures,
    )


def measure_mistakes(subject: Subject, *, num_images: int, seed: int) -> NDArray:
    """Booleans (kinds, severities + 1, images): wrong answers; severity 0 is unspoiled."""
    images, labels = subject.sample(num_images, seed=seed)

    def wrong(kind: str, severity: int) -> NDArray:
        answers = logits(subject.network, corrupt(images, kind, severity, seed=seed)).argmax(1)
        return (answers != labels).numpy()

    clean = wrong("noise", 0)
    return np.array([[clean, *(wrong(k, s) for s in SEVERITIES)] for k in CORRUPTIONS])


def _sample(wrong: NDArray) -> tuple[NDArray, str]:
    """Errors (n, kinds) that an interval is about, and what the n are.

    Networks where there are several: they differ by more than the choice of images does. Of one
    network, its images.
    """
    spoiled = wrong[:, :, 1:].mean(2)  # (networks, kinds, images)
    return (spoiled.mean(2), "networks") if len(wrong) > 1 else (spoiled[0].T, "images")


def _halves(errors: NDArray) -> NDArray:
    """Half the widths (kinds, severities + 1) of intervals over networks; NaN for one network."""
    intervals = [[mean_interval(errors[:, i, j]) for j in range(errors.shape[2])]
                 for i in range(errors.shape[1])]  # fmt: skip
    return np.array([[(x.high - x.low) / 2 for x in row] for row in intervals])


def _lines(
    samples: dict[str, tuple[NDArray, str]],
    errors: NDArray,
    kinds: Sequence[str],
    setting: str,
    n: int,
) -> list[str]:
    lines = [setting]
    if len(errors) == 1:
        clean = share_interval(round(errors[0, 0, 0] * n), n)
        lines.append(f"error unspoiled {clean.text(factor=100, unit=' %', of='images')}")
    for title, (sample, what) in samples.items():
        mean = mean_interval(sample.mean(1), share=True).text(factor=100, unit=" %", of=what)
        lines.append(f"{title + ': ' if title else ''}mean error {mean}; worst:")
        for i in np.argsort(-sample.mean(0), kind="stable")[:3]:
            error = mean_interval(sample[:, i], share=True).text(
                digits=1, factor=100, unit=" %", of=what
            )
            lines.append(f"  {kinds[i]} {error}")
    return lines

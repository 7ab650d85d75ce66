"""How many errors a network makes on corrupted images, by kind and severity."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from simplecnn.explain.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from simplecnn.explain.findings import Findings
from simplecnn.explain.intervals import interval_over, mean_interval, over, percent_series
from simplecnn.explain.subject import Subject, file_name, groups, logits, mean_over
from simplecnn.figures.explain.comparison import Panel, comparison_figure
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
    of_images = f"n = {len(labels):,} test images of {subjects[0].data_name}"
    example = images[[int(labels.argmax())]]
    examples = np.array(
        [[corrupt(example, k, s, seed=seed)[0].numpy() for s in (0, *SEVERITIES)] for k in KINDS]
    )
    grouped = groups(subjects)
    # By group, over severities: (networks, images) for each kind.
    by_kind = {t: list(wrong[m][:, :, 1:].mean(2).swapaxes(0, 1)) for t, m in grouped.items()}
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
            title=f"Errors on corrupted images{title and f', {title}'}; {of_images}{networks}",
        )
        name = "errors" if len(grouped) == 1 else f"errors_{file_name(title)}"
        figures.append((name, figure))
    setting = of_images + mean_over(grouped)
    if len(grouped) > 1:
        series = {title: percent_series(kinds) for title, kinds in by_kind.items()}
        panel = Panel("mean over five severities", "error in %", KINDS, series)
        heading = "Errors on corrupted images; dot: network; line: 95 % interval"
        figures.append(("compared", comparison_figure([panel], title=f"{heading}\n{setting}")))
    lines = [setting]
    if len(subjects) == 1:
        clean = interval_over(wrong[:, 0, 0])
        lines.append(f"error on the unchanged images {clean.text(factor=100)} %")
    return Findings(
        lines=[*lines, *_table(by_kind)],
        record={
            "num_images": len(labels),
            "seed": seed,
            "severities": {k: list(CORRUPTIONS[k].amounts) for k in KINDS},
            "groups": {
                title or "all": {
                    "networks": [subjects[i].name for i in members],
                    "mean_error": interval_over(np.mean(by_kind[title], 0)).record(),
                    "interval_over": over(by_kind[title][0]).split()[1],
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


def measure_mistakes(subject: Subject, *, num_images: int, seed: int) -> NDArray:
    """Booleans (kinds, severities + 1, images): wrong answers; severity 0 changes nothing."""
    images, labels = subject.sample(num_images, seed=seed)

    def wrong(kind: str, severity: int) -> NDArray:
        answers = logits(subject.network, corrupt(images, kind, severity, seed=seed)).argmax(1)
        return (answers != labels).numpy()

    clean = wrong("noise", 0)
    return np.array([[clean, *(wrong(k, s) for s in SEVERITIES)] for k in KINDS])


def _margins(errors: NDArray) -> NDArray:
    """Half the widths (kinds, severities + 1) of intervals over networks; NaN for one network."""
    return np.apply_along_axis(lambda e: mean_interval(e).high - e.mean(), 0, errors)


def _table(by_kind: Mapping[str, Sequence[NDArray]]) -> list[str]:
    """Mean error and the three worst kinds, in percent with 95 % intervals."""
    rows = [("error in %", "mean", "worst kind", "second", "third", "interval over")]
    for title, kinds in by_kind.items():
        ranked = np.argsort([-kind.mean() for kind in kinds], kind="stable")
        worst, second, third = (
            f"{KINDS[i]} {interval_over(kinds[i]).text('.1f', factor=100)}" for i in ranked[:3]
        )
        mean = interval_over(np.mean(kinds, 0)).text(factor=100)
        rows.append((title or "this network", mean, worst, second, third, over(kinds[0])))
    return table(rows).splitlines()

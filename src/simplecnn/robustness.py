"""How many errors a network makes on images that are spoiled, by kind and severity."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from simplecnn.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from simplecnn.figures.robustness import compared_figure, corruption_figure
from simplecnn.findings import Findings
from simplecnn.intervals import mean_interval, share_interval
from simplecnn.subject import Subject, logits
from simplecnn.sweep import short_names, value_text


def robustness(subjects: Sequence[Subject], *, num_images: int = 1000, seed: int = 0) -> Findings:
    """The error of one network, or of several compared by what a sweep varied.

    The same images and the same noise for all of them.
    """
    errors = np.array(
        [measure_errors(s, num_images=num_images, seed=seed) for s in subjects]
    )  # (networks, kinds, severities + 1)
    images, labels = subjects[0].sample(num_images, seed=seed)
    kinds, n = list(CORRUPTIONS), len(labels)
    setting = f"n = {n:,} test images of {subjects[0].data_name}"
    groups: dict[str, list[int]] = {}
    for i, subject in enumerate(subjects):
        names = short_names(list(subject.values))
        title = ", ".join(f"{names[k]} {value_text(v)}" for k, v in subject.values.items())
        groups.setdefault(title, []).append(i)
    if len(subjects) > 1:
        setting += ", mean over " + " / ".join(str(len(g)) for g in groups.values()) + " networks"
    first = int(labels.argmax())
    tiles = np.stack(
        [
            [corrupt(images[first : first + 1], k, s, seed=seed)[0].numpy() for s in range(6)]
            for k in kinds
        ]
    )
    amounts = [[f"{a:g}" for a in CORRUPTIONS[k].amounts] for k in kinds]
    units = [CORRUPTIONS[k].unit for k in kinds]
    figures = []
    for title, members in groups.items():
        name = "errors" if len(groups) == 1 else "errors_" + _file_name(title)
        figure = corruption_figure(
            tiles, 100 * errors[members].mean(0), kinds=kinds, units=units, amounts=amounts,
            title=f"Errors on spoiled digits{', ' + title if title else ''}; {setting}",
        )  # fmt: skip
        figures.append((name, figure))
    by_kind = {t: 100 * errors[m][:, :, 1:].mean(2) for t, m in groups.items()}
    if len(groups) > 1:
        figures.append(("compared", compared_figure(by_kind, kinds=kinds, setting=setting)))
    return Findings(
        lines=_lines(by_kind, errors, kinds, setting, n),
        record={
            "num_images": n,
            "seed": seed,
            "severities": {k: list(CORRUPTIONS[k].amounts) for k in kinds},
            "groups": {
                title or "all": {
                    "networks": [subjects[i].name for i in members],
                    "error": {
                        k: [round(float(x), 6) for x in errors[members].mean(0)[j]]
                        for j, k in enumerate(kinds)
                    },
                }
                for title, members in groups.items()
            },
        },
        arrays={"errors": errors, "examples": tiles},
        figures=figures,
    )


def measure_errors(subject: Subject, *, num_images: int, seed: int) -> NDArray:
    """(kinds, severities + 1) shares of wrong answers; the first column is for images unspoiled."""
    images, labels = subject.sample(num_images, seed=seed)

    def error(kind: str, severity: int) -> float:
        answers = logits(subject.network, corrupt(images, kind, severity, seed=seed)).argmax(1)
        return float((answers != labels).double().mean())

    clean = error("noise", 0)
    return np.array([[clean, *(error(k, s) for s in SEVERITIES)] for k in CORRUPTIONS])


def _lines(
    by_kind: dict[str, NDArray], errors: NDArray, kinds: Sequence[str], setting: str, n: int
) -> list[str]:
    lines = [setting]
    if len(errors) == 1:
        clean = share_interval(round(errors[0, 0, 0] * n), n)
        lines.append(f"error unspoiled {clean.text(factor=100, unit=' %')}")
    for title, table in by_kind.items():
        means = table.mean(0)
        order = np.argsort(-means)
        worst = ", ".join(f"{kinds[i]} {means[i]:.1f} %" for i in order[:3])
        mean = mean_interval(list(table.mean(1))).text(unit=" %")
        lines.append(f"{title + ': ' if title else ''}mean error {mean}; worst: {worst}")
    return lines


def _file_name(title: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in title).strip("_")

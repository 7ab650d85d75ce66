"""The five summary claims of the tutorial, judged by measurements on trained networks.

A claim is held, held in part, or not shown, by the rules beside each measurement below and by 95 %
intervals over networks with different seeds. With fewer than three networks the numbers are
reported, but no claim is judged.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simplecnn.explain.evidence import SINGLES_OUT, Evidence, consistency, gather
from simplecnn.explain.findings import Findings
from simplecnn.explain.intervals import MIN_NUMBERS, Interval, mean_interval
from simplecnn.explain.subject import Subject, groups
from simplecnn.explain.translation import NEAR
from simplecnn.figures.explain.comparison import Panel, Series, comparison_figure
from simplecnn.table import table

HELD, IN_PART, NOT_SHOWN, NOT_JUDGED = "held", "held in part", "not shown", "not judged"
EXACT = 1e-5  # relative to the sum of the absolute terms: a few times the rounding of float32
EQUIVARIANT = 1e-4  # largest relative error of a map that shifts with the image
INVARIANT = 99  # % of shift pairs with the same prediction
MOSTLY_INK = 50  # % of a filter's response that brightness explains
COMMANDS = "the run's command with -m seed=1,2,3, then uv run scripts/explain.py sweep=last"


@dataclass(frozen=True)
class Claim:
    """A claim with the numbers and parts by which it is judged, and the panels of its figure.

    It is held if all parts are true. It is held in part if all `needed` parts are true or, without
    needed parts, if any part is.
    """

    claim: str
    figure: str
    numbers: Mapping[str, Interval]
    parts: Mapping[str, bool]
    panels: Sequence[Panel]
    needed: Sequence[str] = ()
    why_not: str = ""  # the reason why it cannot be judged

    @property
    def result(self) -> str:
        if self.why_not:
            return NOT_JUDGED
        if all(self.parts.values()):
            return HELD
        some = all(self.parts[p] for p in self.needed) if self.needed else any(self.parts.values())
        return IN_PART if some else NOT_SHOWN

    @property
    def reason(self) -> str:
        """The parts that are confirmed and those that are not."""
        if self.why_not:
            return self.why_not
        true = ", ".join(p for p, is_true in self.parts.items() if is_true)
        false = ", ".join(p for p, is_true in self.parts.items() if not is_true)
        by_heading = {"confirmed": true, "not confirmed": false}
        return "; ".join(f"{heading}: {parts}" for heading, parts in by_heading.items() if parts)


def claims(subjects: Sequence[Subject], *, num_images: int = 300, seed: int = 0) -> Findings:
    """Judge the five claims on the first group of networks, which differ only in their seed.

    If a sweep also trained the same networks without pooling, the claim on pooling is compared
    with them. Measurements use `num_images` test images per network.
    """
    title, members = next(iter(groups(subjects).items()))
    group = [subjects[i] for i in members]
    values = dict(group[0].values)
    pool = next((key for key in values if key.endswith("network.pool")), "")
    is_pooled = bool(pool) and values[pool] != "none"
    unpooled = [s for s in subjects if is_pooled and s.values == {**values, pool: "none"}]
    evidence = [gather(s, num_images=num_images, seed=seed) for s in group]
    without_pooling = [consistency(s, num_images=num_images, seed=seed) for s in unpooled]
    num_sampled = len(group[0].sample(num_images, seed=seed)[1])
    results = judge(evidence, without_pooling)
    setting = f"{len(group)} network{'s' * (len(group) > 1)}{title and f' with {title}'}, "
    setting += f"{num_sampled} test images of {group[0].data_name}{' each' * (len(group) > 1)}"
    lines = [setting + "; means" * (len(group) > 1)]
    num_others = len(subjects) - len(group) - len(unpooled)
    if num_others:
        lines.append(
            f"These are the first of the groups that differ in more than their seed; {num_others} "
            f"other networks are left out. To judge others, list them: run=[…,…]."
        )
    if len(group) >= MIN_NUMBERS:
        lines[0] += " [95 % interval over networks]"
    else:
        lines.append(
            f"Not judged: this needs {MIN_NUMBERS} networks with different seeds. Type {COMMANDS}."
        )
    titles = [
        "\n".join([f"{r.claim}: {r.result}", *r.reason.split("; "), f"{setting}; dot: one network"])
        for r in results
    ]
    return Findings(
        lines=[*lines, *_lines(results)],
        record={
            "networks": [s.name for s in group],
            "without_pooling": [s.name for s in unpooled],
            "num_images": num_sampled,
            "claims": [
                {
                    "claim": r.claim,
                    "result": r.result,
                    "reason": r.reason,
                    "numbers": {label: value.record() for label, value in r.numbers.items()},
                    "figure": f"{r.figure}.png",
                }
                for r in results
            ],
        },
        arrays={
            f"{i}/{measurement}/{name}": np.array(x)
            for i, e in enumerate(evidence)
            for measurement, numbers in e.items()
            for name, x in numbers.items()
        },
        figures=[
            (r.figure, comparison_figure([p for p in r.panels if p.categories], title=title))
            for r, title in zip(results, titles, strict=True)
        ],
    )


def judge(evidence: Sequence[Evidence], without_pooling: Sequence[float]) -> list[Claim]:
    """Judge the five claims by the evidence of each network.

    `without_pooling`: the consistencies, in percent, of the same networks without pooling.
    """
    judged = (
        _convolution(evidence),
        _weight_sharing(evidence),
        _pooling(evidence, without_pooling),
        _hierarchy(evidence),
        _receptive_field(evidence),
    )
    why_not = ""
    if len(evidence) < MIN_NUMBERS:
        why_not = f"this needs {MIN_NUMBERS} networks with different seeds, not {len(evidence)}"
    elif min(e["gain"]["answers"] for e in evidence) <= 0:
        why_not = "a network is no better than always predicting the most frequent class"
    return [replace(claim, why_not=why_not) for claim in judged]


def _convolution(evidence: Sequence[Evidence]) -> Claim:
    ink = mean_interval(np.median(_values(evidence, "ink/trained"), 1), top=100)
    exact = _values(evidence, "exactness")[:, 0]
    equal, local = "equals the definition", "ignores pixels outside the receptive field"
    return Claim(
        "Convolution is a sliding dot product and detects local patterns",
        "claim_1_convolution",
        {
            "response of the median first-layer filter explained by brightness, %": ink,
            "largest difference from the definition, relative to the sum of absolute terms":
                mean_interval(exact),
        },
        {
            equal: bool((exact <= EXACT).all()),
            local: bool((_values(evidence, "locality") == 100).all()),
            f"brightness explains less than {MOSTLY_INK} % of a median filter's response": (
                ink.high < MOSTLY_INK
            ),
        },
        [
            _panel(
                evidence, "First-layer responses explained by brightness", "% of variance",
                _states("ink"), note="filters, in descending order", top=100.0,
            ),
            _panel(
                evidence, "Unchanged by noise outside the receptive field", "% of images",
                {"trained": "locality"}, top=105.0,
            ),
        ],
        needed=(equal, local),
    )  # fmt: skip


def _weight_sharing(evidence: Sequence[Evidence]) -> Claim:
    consistencies = _values(evidence, "consistency")[:, 0]
    same = mean_interval(consistencies, top=100)
    largest = [max(e["moved_along"].values(), default=np.nan) for e in evidence]
    equivariant = "maps shift with the image by multiples of the stride, away from borders"
    return Claim(
        "Weight sharing gives translation invariance",
        "claim_2_weight_sharing",
        {
            f"same prediction for two shifts by up to {NEAR} pixels, % of all pairs": same,
            "largest relative error of a map that should shift with the image":
                mean_interval(largest),
        },
        {
            equivariant: all(error <= EQUIVARIANT for error in largest),  # False for NaN
            f"at least {INVARIANT} % of shift pairs get the same prediction": same.low >= INVARIANT,
        },
        [
            _panel(
                evidence, "Map change for a shift by one stride", "relative difference",
                {"vs. original map": "left_in_place", "vs. shifted original map": "moved_along"},
                logarithmic=True,
            ),
            _consistency_panel({"trained": consistencies}),
        ],
        needed=(equivariant,),
    )  # fmt: skip


def _pooling(evidence: Sequence[Evidence], without_pooling: Sequence[float]) -> Claim:
    ratios = _values(evidence, "pooled") / _values(evidence, "before_pooling")
    ratio = mean_interval(ratios.mean(1) if ratios.size else [np.nan] * len(evidence))
    label = "map change for a shift by 1 pixel after pooling, relative to before pooling"
    numbers = {label: ratio} if ratios.size else {}
    downsamples = "pooling reduces the resolution"
    parts = {
        downsamples: all(e["pooled"] for e in evidence),
        "maps change less after pooling": ratio.high < 1,
    }
    consistencies = _values(evidence, "consistency")[:, 0]
    if len(without_pooling) == len(evidence):
        gain = mean_interval(consistencies - without_pooling)
        label = "same prediction for two shifts: gained over networks without pooling"
        numbers[f"{label}, percentage points"] = gain
        parts["predictions are more consistent than without pooling"] = gain.low > 0
    else:
        needs = f"needs {len(evidence)} such networks"
        parts[f"predictions are more consistent than without pooling ({needs})"] = False
    compared = {"trained": consistencies}
    if without_pooling:
        compared = {"with pooling": consistencies, "without": np.array(without_pooling)}
    return Claim(
        "Pooling downsamples and gives invariance",
        "claim_3_pooling",
        numbers,
        parts,
        [
            _panel(
                evidence, "Map change for a shift by 1 pixel", "relative difference",
                {"before pooling": "before_pooling", "after": "pooled"},
            ),
            _consistency_panel(compared),
        ],
        needed=(downsamples,),
    )  # fmt: skip


def _hierarchy(evidence: Sequence[Evidence]) -> Claim:
    trained, untrained = (_values(evidence, key) for key in _states("class_share").values())
    edges_after, edges_before = (_values(evidence, key)[:, 0] for key in _states("edges").values())
    edges = mean_interval(edges_after - edges_before)
    by_depth = mean_interval(trained[:, -1] - trained[:, 0])
    by_training = mean_interval(trained[:, -1] - untrained[:, -1])
    detectors = mean_interval(_values(evidence, "singled_out/trained")[:, 0], top=100)
    return Claim(
        "A hierarchy: edges, textures, parts, objects",
        "claim_4_hierarchy",
        {
            "edge energy of first-layer filters: gained by training, percentage points": edges,
            "between-class variance of channels: last minus first convolution, percentage points":
                by_depth,
            "between-class variance of the last convolution: gained by training, percentage points":
                by_training,
            f"channels of the last convolution with a ROC AUC ≥ {SINGLES_OUT} for one class, %":
                detectors,
        },
        {
            "training makes first-layer filters more like edges": edges.low > 0,
            "channels separate classes better with depth and with training": (
                by_depth.low > 0 and by_training.low > 0
            ),
            "most channels of the last convolution detect one class": detectors.low > 50,
        },
        [
            _panel(evidence, "Edges in first-layer filters", "% of energy", _states("edges")),
            _panel(
                evidence, "Between-class variance of channels", "% of variance",
                _states("class_share"),
            ),
            _panel(
                evidence, "Channels of the last convolution that detect one class",
                f"% with ROC AUC ≥ {SINGLES_OUT}", _states("singled_out"), top=100.0,
            ),
        ],
    )  # fmt: skip


def _receptive_field(evidence: Sequence[Evidence]) -> Claim:
    sizes, effective = _values(evidence, "sizes"), _values(evidence, "effective")
    theory, last = "the theoretical size grows with each layer", list(evidence[0]["effective"])[-1]
    return Claim(
        "The receptive field grows with depth",
        "claim_5_receptive_field",
        {
            f"{last}: side of the square with 95 % of the gradient, pixels":
                mean_interval(effective[:, -1]),
        },
        {theory: _grows(sizes), "the measured size grows with each layer": _grows(effective)},
        [
            _panel(
                evidence, "Receptive field", "pixels",
                {"in theory": "sizes", "measured: square with 95 % of the gradient": "effective"},
            )
        ],
        needed=(theory,),
    )  # fmt: skip


def _states(measurement: str) -> dict[str, str]:
    return {state: f"{measurement}/{state}" for state in ("trained", "untrained")}


def _values(evidence: Sequence[Evidence], key: str, names: Iterable[str] = ()) -> NDArray:
    """A measurement (networks, names), by default with the names of the first network; NaN where a
    network lacks a name."""
    names = list(names) or list(evidence[0][key])
    return np.array([[e[key].get(name, np.nan) for name in names] for e in evidence], float)


def _panel(
    evidence: Sequence[Evidence], title: str, unit: str, keys: Mapping[str, str], **options: Any
) -> Panel:
    """A panel of the measurements `keys`, by their label in the legend; options are Panel's."""
    names = list(evidence[0][next(iter(keys.values()))])
    series = {label: Series(_values(evidence, key, names).T) for label, key in keys.items()}
    return Panel(title, unit, names, series, **options)


def _consistency_panel(consistencies: Mapping[str, NDArray]) -> Panel:
    """A panel of consistencies (networks,) in percent, by their label in the legend."""
    series = {label: Series(values[None]) for label, values in consistencies.items()}
    title = f"Same prediction for shifts up to ±{NEAR} pixels"
    return Panel(title, "% of pairs", ["predictions"], series, top=100.0)


def _grows(by_layer: NDArray) -> bool:
    return by_layer.shape[1] > 1 and bool((np.diff(by_layer) > 0).all())


def _lines(results: Sequence[Claim]) -> list[str]:
    """The result and reason of each claim, and its numbers, aligned over all claims."""
    rows = [
        (f"  {label}", x.text(".1e" if 0 < abs(x.mean) < 0.01 else ".2f"))
        for r in results
        for label, x in r.numbers.items()
    ]
    numbers = iter(table(rows).splitlines())
    lines = []
    for r in results:
        judged = r.result != NOT_JUDGED
        lines.append(f"{r.result.upper()}: {r.claim}" if judged else r.claim)
        lines += [f"  {part}" for part in r.reason.split("; ")] if judged else []
        lines += [next(numbers) for _ in r.numbers]
    return lines

"""The tutorial's five summary claims, each with what was measured on trained networks.

A claim is held, held in part, or not shown: by rules that stand beside each measurement here,
with 95 % intervals over networks that differ in their seed. With fewer than three networks none is
judged; the numbers are given all the same.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simplecnn.explain.evidence import SINGLES_OUT, Evidence, consistency, gather
from simplecnn.explain.findings import Findings
from simplecnn.explain.intervals import Interval, mean_interval
from simplecnn.explain.subject import Subject
from simplecnn.explain.translation import NEAR
from simplecnn.figures.explain.comparison import Panel, Series, comparison_figure
from simplecnn.sweeps.jobs import value_text
from simplecnn.table import table

HELD, IN_PART, NOT_SHOWN, NOT_JUDGED = "held", "held in part", "not shown", "not judged"
MIN_SEEDS = 3
EXACT = 1e-5  # of the sum of the absolute terms: some times what float32 rounds away
EQUIVARIANT = 1e-4  # relative error of a map
INVARIANT = 99  # % of all pairs of shifts get the same answer
MOSTLY_INK = 50  # % of a filter's response
ONE_ANSWER = f"Pairs of shifts to ±{NEAR} with one answer"
COMMANDS = "the run's command with -m seed=1,2,3, then uv run scripts/explain.py sweep=last"


@dataclass(frozen=True)
class Claim:
    """What is said, by which numbers and parts it is judged, and what its figure shows.

    It is held if all parts are true; in part if those `needed` are, or without such if any is.
    """

    claim: str
    figure: str
    numbers: Mapping[str, Interval]
    parts: Mapping[str, bool]
    panels: Sequence[Panel]
    needed: Sequence[str] = ()
    why_not: str = ""  # it cannot be judged

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
        """Which parts are true, and which are not."""
        if self.why_not:
            return self.why_not
        true = ", ".join(p for p, is_true in self.parts.items() if is_true)
        false = ", ".join(p for p, is_true in self.parts.items() if not is_true)
        return "; ".join(x for x in (true, false and f"not: {false}") if x)


def claims(subjects: Sequence[Subject], *, num_images: int = 300, seed: int = 0) -> Findings:
    """The five claims, judged on the first group of networks that differ in their seed only.

    Networks without pooling but otherwise the same, where a sweep trained them, are what the claim
    on pooling is compared with. `num_images` test images are shown to each network.
    """
    values = dict(subjects[0].values)
    ours = [s for s in subjects if s.values == values]
    pool = next((key for key in values if key.endswith("network.pool")), "")
    is_pooled = bool(pool) and values[pool] != "none"
    unpooled = [s for s in subjects if is_pooled and s.values == {**values, pool: "none"}]
    evidence = [gather(s, num_images=num_images, seed=seed) for s in ours]
    without = [consistency(s, num_images=num_images, seed=seed) for s in unpooled]
    num_seen = len(ours[0].sample(num_images, seed=seed)[1])
    results = judge(evidence, without)
    name = " ".join(f"{k}={value_text(v)}" for k, v in values.items())
    setting = f"{len(ours)} network{'s' * (len(ours) > 1)}{f' of {name}' if name else ''}, "
    setting += f"{num_seen} test images of {ours[0].data_name}{' each' * (len(ours) > 1)}"
    lines = [setting]
    if len(ours) < MIN_SEEDS:
        lines.append(
            f"Not judged: that takes {MIN_SEEDS} networks of different seeds. Type {COMMANDS}."
        )
    titles = [f"{r.claim}: {r.result}\n{r.reason}\n{setting}" for r in results]
    return Findings(
        lines=[*lines, *_lines(results)],
        record={
            "networks": [s.name for s in ours],
            "without_pooling": [s.name for s in unpooled],
            "num_images": num_seen,
            "claims": [
                {
                    "claim": r.claim,
                    "result": r.result,
                    "reason": r.reason,
                    "numbers": {name: interval.record() for name, interval in r.numbers.items()},
                    "figure": f"{r.figure}.png",
                }
                for r in results
            ],
        },
        arrays={
            f"{i}/{what}/{name}": np.array(x)
            for i, e in enumerate(evidence)
            for what, numbers in e.items()
            for name, x in numbers.items()
        },
        figures=[
            (r.figure, comparison_figure([p for p in r.panels if p.categories], title=title))
            for r, title in zip(results, titles, strict=True)
        ],
    )


def judge(evidence: Sequence[Evidence], without: Sequence[float]) -> list[Claim]:
    """The five claims; `without`: the consistencies, in percent, of networks without pooling."""
    judged = (
        _convolution(evidence),
        _weight_sharing(evidence),
        _pooling(evidence, without),
        _hierarchy(evidence),
        _receptive_field(evidence),
    )
    why_not = ""
    if len(evidence) < MIN_SEEDS:
        why_not = f"it takes {MIN_SEEDS} networks of different seeds, here: {len(evidence)}"
    elif min(e["gain"]["answers"] for e in evidence) <= 0:
        why_not = "a network is no better than to name the most frequent class each time"
    return [replace(claim, why_not=why_not) for claim in judged]


def _convolution(evidence: Sequence[Evidence]) -> Claim:
    ink = mean_interval(np.median(_values(evidence, "ink/trained"), 1))
    exact = _values(evidence, "exactness")[:, 0]
    equal, blind = "equal to the definition", "blind to what lies outside the field"
    return Claim(
        "Convolution is a sliding dot product and detects local patterns",
        "claim_1_convolution",
        {
            "% of a median filter's response that brightness explains": ink,
            "largest difference from the definition": mean_interval(exact),
        },
        {
            equal: bool((exact <= EXACT).all()),
            blind: bool((_values(evidence, "locality") == 100).all()),
            "patterns rather than brightness": ink.high < MOSTLY_INK,
        },
        [
            _panel(
                evidence, "What brightness alone explains of the first filters' response", "%",
                _states("ink"), note="filters, from most to least", top=100.0,
            ),
            _panel(
                evidence, "Unchanged by noise outside the field", "% of images",
                {"trained": "locality"}, top=105.0,
            ),
        ],
        needed=(equal, blind),
    )  # fmt: skip


def _weight_sharing(evidence: Sequence[Evidence]) -> Claim:
    same = mean_interval(_values(evidence, "consistency")[:, 0])
    largest = [max(e["moved_along"].values(), default=np.nan) for e in evidence]
    moves = "maps move along, away from borders and by whole units"
    return Claim(
        "Weight sharing gives translation invariance",
        "claim_2_weight_sharing",
        {
            f"% of pairs of shifts to ±{NEAR} with one answer": same,
            "largest interior error of a map moved along": mean_interval(largest),
        },
        {
            moves: all(error <= EQUIVARIANT for error in largest),  # NaN is not
            "answers stay the same": same.low >= INVARIANT,
        },
        [
            _panel(
                evidence, "A map when the image moves by one unit", "relative change",
                {"as it was": "left_in_place", "moved along, interior": "moved_along"},
                logarithmic=True,
            ),
            _panel(evidence, ONE_ANSWER, "%", {"trained": "consistency"}, top=100.0),
        ],
        needed=(moves,),
    )  # fmt: skip


def _pooling(evidence: Sequence[Evidence], without: Sequence[float]) -> Claim:
    ratios = _values(evidence, "pooled") / _values(evidence, "before_pooling")
    shrinks = mean_interval(ratios.mean(1) if ratios.size else [np.nan] * len(evidence))
    numbers = {"change by 1 pixel after pooling, in shares of before": shrinks}
    parts = {
        "fewer units": all(e["pooled"] for e in evidence),
        "maps change less": shrinks.high < 1,
    }
    consistencies = _values(evidence, "consistency")[:, 0]
    if len(without) == len(evidence):
        gain = mean_interval(consistencies - without)
        numbers["points of consistency more than without pooling"] = gain
        parts["answers more consistent than without pooling"] = gain.low > 0
    else:
        parts["compared with networks without pooling"] = False
    compared = {"trained": Series(consistencies[None])}
    if without:
        compared = {"with pooling": compared["trained"], "without": Series(np.array([without]))}
    return Claim(
        "Pooling downsamples and gives invariance",
        "claim_3_pooling",
        numbers,
        parts,
        [
            _panel(
                evidence, "A map when the image moves by 1 pixel", "relative change",
                {"before pooling": "before_pooling", "after": "pooled"},
            ),
            Panel(ONE_ANSWER, "%", ["answers"], compared, top=100.0),
        ],
        needed=("fewer units",),
    )  # fmt: skip


def _hierarchy(evidence: Sequence[Evidence]) -> Claim:
    trained, untrained = (_values(evidence, key) for key in _states("class_share").values())
    edges_now, edges_before = (_values(evidence, key)[:, 0] for key in _states("edges").values())
    edges = mean_interval(edges_now - edges_before)
    climb = mean_interval(trained[:, -1] - trained[:, 0])
    learned = mean_interval(trained[:, -1] - untrained[:, -1])
    objects = mean_interval(_values(evidence, "singled_out/trained")[:, 0])
    return Claim(
        "A hierarchy: edges, textures, parts, objects",
        "claim_4_hierarchy",
        {
            "points of edge energy more than before training": edges,
            "points of class variance, last layer over first": climb,
            "the same, last layer over before training": learned,
            "% of last channels that single out a class": objects,
        },
        {
            "first filters became edges": edges.low > 0,
            "classes part with depth, more than before training": climb.low > 0 and learned.low > 0,
            "most last channels single out one class": objects.low > 50,
        },
        [
            _panel(evidence, "Edges among the first filters", "% of energy", _states("edges")),
            _panel(evidence, "Variance of a channel between classes", "%", _states("class_share")),
            _panel(
                evidence, "Last channels that single out a class",
                f"% with ROC area ≥ {SINGLES_OUT}", _states("singled_out"), top=100.0,
            ),
        ],
    )  # fmt: skip


def _receptive_field(evidence: Sequence[Evidence]) -> Claim:
    sizes, effective = _values(evidence, "sizes"), _values(evidence, "effective")
    return Claim(
        "The receptive field grows with depth",
        "claim_5_receptive_field",
        {"pixels of the last layer's effective field (95 %)": mean_interval(effective[:, -1])},
        {"in theory": _grows(sizes), "as measured, layer by layer": _grows(effective)},
        [
            _panel(
                evidence, "Receptive field", "pixels",
                {"in theory": "sizes", "square with 95 % of the gradient": "effective"},
            )
        ],
        needed=("in theory",),
    )  # fmt: skip


def _states(what: str) -> dict[str, str]:
    return {state: f"{what}/{state}" for state in ("trained", "untrained")}


def _values(evidence: Sequence[Evidence], what: str, names: Iterable[str] = ()) -> NDArray:
    """One measurement (networks, names), by default those of the first network; NaN where one has
    none."""
    names = list(names) or list(evidence[0][what])
    return np.array([[e[what].get(name, np.nan) for name in names] for e in evidence], float)


def _panel(
    evidence: Sequence[Evidence], title: str, unit: str, shown: Mapping[str, str], **options: Any
) -> Panel:
    """Measurements by what the legend says of each; options are those of a Panel."""
    names = list(evidence[0][next(iter(shown.values()))])
    series = {label: Series(_values(evidence, what, names).T) for label, what in shown.items()}
    return Panel(title, unit, names, series, **options)


def _grows(by_layer: NDArray) -> bool:
    return by_layer.shape[1] > 1 and bool((np.diff(by_layer) > 0).all())


def _lines(results: Sequence[Claim]) -> list[str]:
    """Each claim with what became of it, and its numbers, which stand in one column."""
    rows = [
        (f"  {name}", x.text(".1e" if 0 < abs(x.mean) < 0.01 else ".2f"))
        for r in results
        for name, x in r.numbers.items()
    ]
    numbers = iter(table(rows).splitlines())
    lines = []
    for r in results:
        judged = r.result != NOT_JUDGED
        lines += [f"{r.result.upper()}: {r.claim}", f"  {r.reason}"] if judged else [r.claim]
        lines += [next(numbers) for _ in r.numbers]
    return lines

"""The tutorial's five summary claims, each with what was measured on trained networks.

A claim is held, held in part, or not shown: by rules that stand beside each measurement here,
with 95 % intervals over networks that differ in their seed. With fewer than three networks none is
judged; the numbers are given all the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

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
INVARIANT = 0.99  # of all pairs of shifts get the same answer
MOSTLY_INK = 0.5  # of a filter's response
COMMANDS = "uv run scripts/train.py -m seed=1,2,3, then uv run scripts/explain.py sweep=last"


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
        arrays={f"{i}/{key}": x for i, e in enumerate(evidence) for key, x in e.arrays().items()},
        figures=[
            (r.figure, comparison_figure(r.panels, title=title))
            for r, title in zip(results, titles, strict=True)
        ],
    )


def judge(evidence: Sequence[Evidence], without: Sequence[float]) -> list[Claim]:
    """The five claims; `without` are the consistencies of networks without pooling."""
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
    elif min(e.gain for e in evidence) <= 0:
        why_not = "a network is no better than to name the most frequent class each time"
    return [replace(claim, why_not=why_not) for claim in judged]


def _convolution(evidence: Sequence[Evidence]) -> Claim:
    first = evidence[0]
    ink = mean_interval([100 * float(np.median(e.ink["trained"])) for e in evidence])
    exact = mean_interval([e.exactness for e in evidence])
    equal, blind = "equal to the definition", "blind to what lies outside the field"
    filters = [str(i + 1) for i in range(len(first.ink["trained"]))]
    sorted_ink = {
        state: _series([-np.sort(-e.ink[state]) for e in evidence], 100) for state in first.ink
    }
    same = {"trained": _by_layer(evidence, "locality", 100)}
    return Claim(
        "Convolution is a sliding dot product and detects local patterns",
        "claim_1_convolution",
        {
            "% of a median filter's response that brightness explains": ink,
            "largest difference from the definition": exact,
        },
        {
            equal: all(e.exactness <= EXACT for e in evidence),
            blind: all(s == 1 for e in evidence for s in e.locality.values()),
            "patterns rather than brightness": ink.high < 100 * MOSTLY_INK,
        },
        [
            Panel(
                "What brightness alone explains of the first filters' response", "%", filters,
                sorted_ink, note="filters, from most to least", top=100.0,
            ),
            Panel(
                "Unchanged by noise outside the field", "% of images", list(first.locality), same,
                top=105.0,
            ),
        ],
        needed=(equal, blind),
    )  # fmt: skip


def _weight_sharing(evidence: Sequence[Evidence]) -> Claim:
    same = mean_interval([100 * e.consistency for e in evidence])
    largest = [max(e.moved_along.values(), default=np.nan) for e in evidence]
    moves = "maps move along, away from borders and by whole units"
    layers = list(evidence[0].left_in_place)
    changes = {
        "as it was": _by_layer(evidence, "left_in_place"),
        "moved along, interior": _by_layer(evidence, "moved_along", layers=layers),
    }
    return Claim(
        "Weight sharing gives translation invariance",
        "claim_2_weight_sharing",
        {
            f"% of pairs of shifts to ±{NEAR} with one answer": same,
            "largest interior error of a map moved along": mean_interval(largest),
        },
        {
            moves: all(error <= EQUIVARIANT for error in largest),  # NaN is not
            "answers stay the same": same.low >= 100 * INVARIANT,
        },
        [
            Panel("A map when the image moves by one unit", "relative change", layers, changes,
                  logarithmic=True),
            _consistency_panel({"trained": [e.consistency for e in evidence]}),
        ],
        needed=(moves,),
    )  # fmt: skip


def _pooling(evidence: Sequence[Evidence], without: Sequence[float]) -> Claim:
    nothing = {"": (np.nan, np.nan)}
    shrinks = mean_interval(
        [np.mean([b / a for a, b in (e.pooled or nothing).values()]) for e in evidence]
    )
    numbers = {"change by 1 pixel after pooling, in shares of before": shrinks}
    parts = {"fewer units": all(e.pooled for e in evidence), "maps change less": shrinks.high < 1}
    consistencies = [e.consistency for e in evidence]
    compared = {"trained": consistencies}
    if without:
        compared = {"with pooling": consistencies, "without": list(without)}
    if len(without) == len(evidence):
        gain = mean_interval(100 * (np.array(consistencies) - without))
        numbers["points of consistency more than without pooling"] = gain
        parts["answers more consistent than without pooling"] = gain.low > 0
    else:
        parts["compared with networks without pooling"] = False
    pools = list(evidence[0].pooled)
    sides = {
        side: _series([[e.pooled.get(p, nothing[""])[i] for p in pools] for e in evidence])
        for i, side in enumerate(("before pooling", "after"))
    }
    changes = Panel("A map when the image moves by 1 pixel", "relative change", pools, sides)
    same = _consistency_panel(compared)
    return Claim(
        "Pooling downsamples and gives invariance",
        "claim_3_pooling",
        numbers,
        parts,
        [changes, same] if pools else [same],
        needed=("fewer units",),
    )


def _hierarchy(evidence: Sequence[Evidence]) -> Claim:
    states = list(evidence[0].edges)
    shares = {s: np.array([list(e.class_share[s].values()) for e in evidence]) for s in states}
    trained, untrained = 100 * shares["trained"], 100 * shares["untrained"]
    edges = mean_interval([100 * (e.edges["trained"] - e.edges["untrained"]) for e in evidence])
    climb = mean_interval(trained[:, -1] - trained[:, 0])
    learned = mean_interval(trained[:, -1] - untrained[:, -1])
    objects = mean_interval([100 * e.singled_out for e in evidence])
    of_edges = {s: _series([[e.edges[s]] for e in evidence], 100) for s in states}
    of_classes = {s: _series(shares[s], 100) for s in states}
    single = {"trained": _series([[e.singled_out] for e in evidence], 100)}
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
            Panel("Edges among the first filters", "% of energy", ["first layer"], of_edges),
            Panel("Variance of a channel between classes", "%",
                  list(evidence[0].class_share["trained"]), of_classes),
            Panel("Last channels that single out a class", f"% with ROC area ≥ {SINGLES_OUT}",
                  ["last"], single, top=100.0),
        ],
    )  # fmt: skip


def _receptive_field(evidence: Sequence[Evidence]) -> Claim:
    last = mean_interval([list(e.effective.values())[-1] for e in evidence])
    fields = {
        "in theory": _by_layer(evidence, "sizes"),
        "square with 95 % of the gradient": _by_layer(evidence, "effective"),
    }
    return Claim(
        "The receptive field grows with depth",
        "claim_5_receptive_field",
        {"pixels of the last layer's effective field (95 %)": last},
        {
            "in theory": all(_grows(e.sizes) for e in evidence),
            "as measured, layer by layer": all(_grows(e.effective) for e in evidence),
        },
        [Panel("Receptive field", "pixels", list(evidence[0].sizes), fields)],
        needed=("in theory",),
    )


def _consistency_panel(shares: Mapping[str, Sequence[float]]) -> Panel:
    series = {name: Series(100 * np.array([values])) for name, values in shares.items()}
    title = f"Pairs of shifts to ±{NEAR} with one answer"
    return Panel(title, "%", ["answers"], series, top=100.0)


def _series(by_network: Sequence[Sequence[float] | NDArray], factor: float = 1.0) -> Series:
    """Of each network a number for each category."""
    return Series(factor * np.array(by_network).T)


def _by_layer(
    evidence: Sequence[Evidence], what: str, factor: float = 1.0, layers: Sequence[str] = ()
) -> Series:
    """One measurement; NaN where a layer has none."""
    names = list(layers or getattr(evidence[0], what))
    return _series([[getattr(e, what).get(n, np.nan) for n in names] for e in evidence], factor)


def _grows(by_layer: dict[str, int]) -> bool:
    values = list(by_layer.values())
    return len(values) > 1 and bool((np.diff(values) > 0).all())


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

"""The tutorial's five summary claims, each with what was measured on trained networks.

A claim is held, held in part, or not shown: by rules that stand beside each measurement here,
with 95 % intervals over networks that differ in their seed. With fewer than three networks nothing
counts as shown; the numbers are given all the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from simplecnn.convolution.definition import conv2d
from simplecnn.errors import InputError
from simplecnn.explain.channel_cards import layer_fields
from simplecnn.explain.findings import Findings
from simplecnn.explain.intervals import Interval, mean_interval
from simplecnn.explain.subject import BATCH, Subject
from simplecnn.explain.translation import NEAR, equivariance_errors, growing, measure_shifts
from simplecnn.figures.verdicts import Panel, verdict_figure
from simplecnn.models.activations import convolutions, feature_maps
from simplecnn.receptive_field.effective_field import effective_fields
from simplecnn.receptive_field.fields import receptive_fields
from simplecnn.sweeps.report import value_text

HELD, IN_PART, NOT_SHOWN = "held", "held in part", "not shown"
MIN_SEEDS = 3
EXACT = 1e-5  # of the sum of the absolute terms: what float32 rounds away, with room
EQUIVARIANT = 1e-4  # relative error of a map
INVARIANT = 0.99  # of all pairs of shifts get the same answer
MOSTLY_INK = 0.5  # of a filter's response
SINGLES_OUT = 0.95  # area under the ROC curve of a unit for one class


@dataclass(frozen=True)
class Verdict:
    """What is said, what became of it, and by which number."""

    claim: str
    verdict: str
    numbers: dict[str, Interval]
    reason: str
    figure: str


@dataclass
class Evidence:
    """What was measured on one network; by layer where it is a dict."""

    exactness: float = 0.0
    locality: dict[str, float] = field(default_factory=dict)
    ink: dict[str, NDArray] = field(default_factory=dict)  # trained, untrained: (filters,)
    consistency: float = 0.0
    moved_along: dict[str, float] = field(default_factory=dict)  # interior, by one unit
    left_in_place: dict[str, float] = field(default_factory=dict)  # the same shift
    pooled: dict[str, tuple[float, float]] = field(default_factory=dict)  # change before, after
    halved: bool = True
    edges: dict[str, float] = field(default_factory=dict)  # trained, untrained
    class_share: dict[str, dict[str, float]] = field(default_factory=dict)
    singled_out: float = 0.0
    sizes: dict[str, int] = field(default_factory=dict)
    effective: dict[str, int] = field(default_factory=dict)


def verdicts(subjects: Sequence[Subject], *, num_images: int = 300, seed: int = 0) -> Findings:
    """The five verdicts on the first group of networks that differ in their seed only.

    Networks without pooling but otherwise the same, where a sweep trained them, are what the claim
    on pooling is held against. `num_images` test images are shown to each network.
    """
    values = dict(subjects[0].values)
    ours = [s for s in subjects if dict(s.values) == values]
    bare = [s for s in subjects if _is_without_pooling(s, values)]
    evidence = [gather(s, num_images=num_images, seed=seed) for s in ours]
    without = [_consistency(s, num_images=num_images, seed=seed) for s in bare]
    num_seen = len(ours[0].sample(num_images, seed=seed)[1])
    results = judge(evidence, without)
    name = " ".join(f"{k}={value_text(v)}" for k, v in values.items())
    setting = f"{len(ours)} network{'s' * (len(ours) > 1)}"
    setting += f" of {name}" if name else ""
    setting += f", {num_seen} test images of {ours[0].data_name}"
    setting += " each" * (len(ours) > 1)
    figures = [
        (r.figure, verdict_figure(panels, title=f"{r.claim}: {r.verdict}\n{r.reason}\n{setting}"))
        for r, panels in zip(results, _panels(evidence, without), strict=True)
    ]
    return Findings(
        lines=[setting, *(line for r in results for line in _lines(r))],
        record={
            "networks": [s.name for s in ours],
            "without_pooling": [s.name for s in bare],
            "num_images": num_seen,
            "verdicts": [
                {
                    "claim": r.claim,
                    "verdict": r.verdict,
                    "reason": r.reason,
                    "numbers": {
                        k: {"mean": i.mean, "low": _finite(i.low), "high": _finite(i.high),
                            "n": i.n}
                        for k, i in r.numbers.items()
                    },
                    "figure": f"{r.figure}.png",
                }
                for r in results
            ],
        },
        arrays={
            f"{i}/{key}": np.asarray(value)
            for i, e in enumerate(evidence)
            for key, value in _flat(vars(e)).items()
        },
        figures=figures,
    )  # fmt: skip


def gather(subject: Subject, *, num_images: int, seed: int) -> Evidence:
    """All measurements on one network."""
    images, labels = subject.sample(num_images, seed=seed)
    networks = {"trained": subject.network, "untrained": subject.untrained}
    if not convolutions(subject.network):
        raise InputError("verdicts: this network has no 2-D convolution to judge.")
    e = Evidence()
    e.exactness = exactness(subject.network, images[:8])
    e.locality = locality(subject.network, images[:8], seed=seed)
    e.ink = {state: ink_share(network, images[:64]) for state, network in networks.items()}
    e.consistency = _consistency(subject, num_images=num_images, seed=seed)
    _gather_maps(e, subject.network, images[:64])
    e.edges = {state: edge_share(network) for state, network in networks.items()}
    for state, network in networks.items():
        shares, aucs = class_shares(network, images, labels, subject.num_classes)
        e.class_share[state] = shares
        if state == "trained":
            e.singled_out = float((aucs >= SINGLES_OUT).mean())
    measured = effective_fields(subject.network, images[:64])
    fields = receptive_fields(subject.network, tuple(images.shape[1:]))
    e.sizes = {name: max(fields[name].size) for name in measured}
    e.effective = {name: f.square(0.95) for name, f in measured.items()}
    return e


# What is measured, a function each.


@torch.no_grad()
def exactness(network: nn.Module, images: Tensor) -> float:
    """Largest difference between the first convolution and conv2d's sliding dot product, in
    shares of the sum of the absolute terms; NaN where conv2d does not know its padding."""
    name, module = next(iter(convolutions(network).items()))
    x = _inputs(network, images, module)
    if isinstance(module.padding, str) or x is None:
        return float("nan")
    options: dict[str, Any] = {
        "stride": module.stride, "padding": module.padding, "dilation": module.dilation,
        "groups": module.groups, "padding_mode": module.padding_mode,
    }  # fmt: skip
    weight = module.weight.numpy().astype(np.float64)
    given = x.numpy().astype(np.float64)
    bias = None if module.bias is None else module.bias.numpy().astype(np.float64)
    ours = conv2d(given, weight, bias=bias, **options)
    size = None if bias is None else abs(bias)
    terms = conv2d(abs(given), abs(weight), bias=size, **options)
    return float((abs(module(x).numpy() - ours) / np.maximum(terms, 1e-12)).max())


@torch.no_grad()
def locality(network: nn.Module, images: Tensor, *, seed: int) -> dict[str, float]:
    """By convolution: the share of images on which the unit nearest the middle answers the same
    to the last bit when all pixels outside its receptive field are replaced by noise."""
    generator = torch.Generator().manual_seed(seed)
    before, _ = feature_maps(network, images)
    shares = {}
    for name, f in layer_fields(network, tuple(images.shape[1:])).items():
        unit = (f.units[0] // 2, f.units[1] // 2)
        (top, bottom), (left, right) = f.clipped(unit)
        if bottom - top + 1 >= images.shape[-2] and right - left + 1 >= images.shape[-1]:
            continue  # it sees the whole image
        other = torch.rand(images.shape, generator=generator)
        seen = (..., slice(top, bottom + 1), slice(left, right + 1))
        other[seen] = images[seen]
        after, _ = feature_maps(network, other)
        same = (before[name][:, :, *unit] == after[name][:, :, *unit]).all(1)
        shares[name] = float(same.float().mean())
    return shares


@torch.no_grad()
def ink_share(network: nn.Module, images: Tensor) -> NDArray:
    """(filters,) squared correlation of the first convolution's response with the mean brightness
    of what it sees, over all positions with any ink: 1 where a filter only weighs ink."""
    module = next(iter(convolutions(network).values()))
    x = _inputs(network, images, module)
    assert x is not None
    response = module(x)
    flat = torch.ones(1, x.shape[1], *module.weight.shape[2:]) / module.weight[0, 0].numel()
    ink = functional.conv2d(x, flat, None, module.stride, module.padding, module.dilation)
    there = (ink > 0).expand_as(response[:, :1])[:, 0]
    weights = response.transpose(0, 1)[:, there].double()
    ink = ink[:, 0][there].double()
    weights, ink = weights - weights.mean(1, keepdim=True), ink - ink.mean()
    both = (weights @ ink) ** 2 / ((weights**2).sum(1) * (ink**2).sum()).clamp(min=1e-30)
    return both.numpy()


def edge_share(network: nn.Module) -> float:
    """Mean over the first filters of the energy that a step edge of any direction explains.

    The edges are the two derivatives of a Gaussian a third as wide as the kernel; among random
    filters of 3 x 3 their share is 2 / 9. NaN for kernels of a single pixel.
    """
    weight = next(iter(convolutions(network).values())).weight.detach().double()
    rows, columns = (torch.arange(n).double() - (n - 1) / 2 for n in weight.shape[2:])
    if max(weight.shape[2:]) == 1:
        return float("nan")
    spread = max(weight.shape[2:]) / 3
    bell = torch.exp(-(rows[:, None] ** 2 + columns**2) / (2 * spread**2))
    share = torch.zeros(weight.shape[:2], dtype=torch.float64)
    for slope in (rows[:, None].expand_as(bell), columns.expand_as(bell)):
        pattern = slope * bell
        norm = pattern.norm()
        if norm > 0:
            share += (weight * pattern / norm).sum((2, 3)) ** 2
    energy = (weight**2).sum((1, 2, 3)).clamp(min=1e-30)
    return float((share.sum(1) / energy).mean())


@torch.no_grad()
def class_shares(
    network: nn.Module, images: Tensor, labels: Tensor, num_classes: int
) -> tuple[dict[str, float], NDArray]:
    """By convolution: the mean share of the variance of a unit's peak that lies between the
    classes. And (units,) of the last one: the largest area under the ROC curve for one class."""
    peaks: dict[str, list[Tensor]] = {}
    for part in images.split(BATCH):
        maps, _ = feature_maps(network, part)
        for name, values in maps.items():
            peaks.setdefault(name, []).append(values.amax((2, 3)))
    members = functional.one_hot(labels, num_classes).double()
    counts = members.sum(0).clamp(min=1)
    shares, last = {}, torch.zeros(0)
    for name, parts in peaks.items():
        last = torch.cat(parts).double()
        means = members.T @ last / counts[:, None]
        between = (counts[:, None] * (means - last.mean(0)) ** 2).sum(0)
        total = ((last - last.mean(0)) ** 2).sum(0)
        alive = total > 1e-20
        shares[name] = float((between[alive] / total[alive]).mean()) if alive.any() else 0.0
    # Ranks with ties in their middle give the area under the curve (Mann and Whitney).
    ordered = last.sort(0).values.T.contiguous()
    values = last.T.contiguous()
    ranks = torch.searchsorted(ordered, values) + torch.searchsorted(ordered, values, right=True)
    sums = (ranks.double() + 1) / 2 @ members
    n = members.sum(0)
    areas = (sums - n * (n + 1) / 2) / (n * (len(labels) - n)).clamp(min=1)
    return shares, areas.max(1).values.numpy()


def _gather_maps(e: Evidence, network: nn.Module, images: Tensor) -> None:
    reach = min(8, min(images.shape[-2:]) // 3)
    errors = equivariance_errors(network, images, reach=reach)
    modules = dict(network.named_modules())
    names = list(errors)
    for name in growing(errors):
        error = errors[name]
        step = int(error.jump)
        if step == error.jump and step <= reach:
            e.left_in_place[name] = float(error.unmoved[step])
            if np.isfinite(error.interior[step]):
                e.moved_along[name] = float(error.interior[step])
    for before, after in zip(names, names[1:], strict=False):
        pools = not isinstance(modules.get(after), nn.Conv2d)
        if pools and errors[after].jump > errors[before].jump:
            e.pooled[after] = (float(errors[before].unmoved[1]), float(errors[after].unmoved[1]))


def _inputs(network: nn.Module, images: Tensor, module: nn.Module) -> Tensor | None:
    found: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda m, args: found.append(args[0].clone()))
    try:
        network(images)
    finally:
        handle.remove()
    return found[0] if found else None


def _consistency(subject: Subject, *, num_images: int, seed: int) -> float:
    images, labels = subject.sample(num_images, seed=seed)
    return measure_shifts(subject.network, images, labels, reach=NEAR).consistency()


def _is_without_pooling(subject: Subject, values: dict[str, object]) -> bool:
    keys = [k for k in values if k.endswith("network.pool")]
    if not keys or values[keys[0]] == "none":
        return False
    return dict(subject.values) == {**values, keys[0]: "none"}


# What counts as what.


def judge(evidence: Sequence[Evidence], without: Sequence[float]) -> list[Verdict]:
    """The five verdicts; `without` are the consistencies of networks without pooling."""
    enough = len(evidence) >= MIN_SEEDS
    few = f"it takes {MIN_SEEDS} networks of different seeds, here: {len(evidence)}"

    def verdict(
        claim: str, figure: str, numbers: dict[str, Interval], parts: dict[str, bool],
        *, needed: Sequence[str] = (),
    ) -> Verdict:  # fmt: skip
        """Held if all parts are true; in part if those needed are, or without such if any is."""
        if all(parts.values()):
            result = HELD
        elif all(parts[p] for p in needed) if needed else any(parts.values()):
            result = IN_PART
        else:
            result = NOT_SHOWN
        true = [p for p, is_true in parts.items() if is_true]
        false = [p for p, is_true in parts.items() if not is_true]
        reason = "; ".join(
            x for x in (", ".join(true), f"not: {', '.join(false)}" if false else "") if x
        )
        if not enough:
            result, reason = NOT_SHOWN, few
        return Verdict(claim, result, numbers, reason, figure)

    ink = mean_interval([100 * float(np.median(e.ink["trained"])) for e in evidence])
    consistency = mean_interval([100 * e.consistency for e in evidence])
    along = mean_interval([max(e.moved_along.values(), default=np.nan) for e in evidence])
    ratios = [float(np.mean([b / a for a, b in e.pooled.values()])) if e.pooled else np.nan
              for e in evidence]  # fmt: skip
    shrinks = mean_interval(ratios)
    gain = _difference([100 * e.consistency for e in evidence], [100 * w for w in without])
    edges = mean_interval([100 * (e.edges["trained"] - e.edges["untrained"]) for e in evidence])
    climbs = [_ends(e.class_share["trained"]) for e in evidence]
    climb = mean_interval([100 * (last - first) for first, last in climbs])
    learned = mean_interval(
        [100 * (_ends(e.class_share["trained"])[1] - _ends(e.class_share["untrained"])[1])
         for e in evidence]
    )  # fmt: skip
    objects = mean_interval([100 * e.singled_out for e in evidence])
    growth = mean_interval([float(_ends(e.effective)[1]) for e in evidence])
    return [
        verdict(
            "Convolution is a sliding dot product and detects local patterns",
            "claim_1_convolution",
            {"% of a median filter's response that ink explains": ink,
             "largest difference from the definition":
             mean_interval([e.exactness for e in evidence])},
            {"equal to the definition": all(e.exactness <= EXACT for e in evidence),
             "blind to what lies outside the field":
             all(s == 1 for e in evidence for s in e.locality.values()),
             "patterns rather than ink": ink.high < 100 * MOSTLY_INK},
            needed=["equal to the definition", "blind to what lies outside the field"],
        ),
        verdict(
            "Weight sharing gives translation invariance",
            "claim_2_weight_sharing",
            {f"% of pairs of shifts to ±{NEAR} with one answer": consistency,
             "largest interior error of a map moved along": along},
            {"maps move along, away from borders and by whole units":
             all(e.moved_along and max(e.moved_along.values()) <= EQUIVARIANT for e in evidence),
             "answers stay the same": consistency.low >= 100 * INVARIANT},
            needed=["maps move along, away from borders and by whole units"],
        ),
        verdict(
            "Pooling downsamples and gives invariance",
            "claim_3_pooling",
            {"change by 1 pixel after pooling, in shares of before": shrinks}
            | ({"points of consistency more than without pooling": gain} if gain else {}),
            {"fewer units": all(e.pooled for e in evidence),
             "maps change less": bool(shrinks.high < 1),
             "answers more consistent than without pooling" if gain else
             "compared with networks without pooling": bool(gain and gain.low > 0)},
            needed=["fewer units"],
        ),
        verdict(
            "A hierarchy: edges, textures, parts, objects",
            "claim_4_hierarchy",
            {"points of edge energy more than before training": edges,
             "points of class variance, last layer over first": climb,
             "the same, last layer over before training": learned,
             "% of last units that single out a class": objects},
            {"first filters became edges": edges.low > 0,
             "classes part with depth, more than before training":
             climb.low > 0 and learned.low > 0,
             "most last units single out one class": objects.low > 50},
        ),
        verdict(
            "The receptive field grows with depth",
            "claim_5_receptive_field",
            {"pixels of the last layer's effective field (95 %)": growth},
            {"in theory": all(_grows(e.sizes) for e in evidence),
             "as measured, layer by layer": all(_grows(e.effective) for e in evidence)},
            needed=["in theory"],
        ),
    ]  # fmt: skip


def _difference(ours: Sequence[float], others: Sequence[float]) -> Interval | None:
    """Mean difference and its interval, seed by seed; None without as many of the others."""
    if not others or len(others) != len(ours):
        return None
    return mean_interval([a - b for a, b in zip(ours, others, strict=True)])


def _ends(by_layer: dict) -> tuple[float, float]:
    values = list(by_layer.values())
    return values[0], values[-1]


def _grows(by_layer: dict[str, int]) -> bool:
    values = list(by_layer.values())
    return len(values) > 1 and all(a < b for a, b in zip(values, values[1:], strict=False))


def _lines(result: Verdict) -> list[str]:
    lines = [f"{result.verdict.upper()}: {result.claim}", f"  {result.reason}"]
    for name, interval in result.numbers.items():
        small = 0 < abs(interval.mean) < 0.01
        shown = f"{interval.mean:.1e} (n = {interval.n})" if small else interval.text()
        lines.append(f"  {name}: {shown}")
    return [*lines, f"  {result.figure}.png"]


def _panels(evidence: Sequence[Evidence], without: Sequence[float]) -> list[list[Panel]]:
    """The panels of the five figures; one dot a network."""
    first = evidence[0]
    filters = range(len(first.ink["trained"]))
    consistency = {"trained": np.array([[100 * e.consistency for e in evidence]])}
    if without:
        consistency = {
            "with pooling": np.array([[100 * e.consistency for e in evidence]]),
            "without": np.array([[100 * c for c in without]]),
        }
    pools = list(first.pooled)
    return [
        [Panel("What ink alone explains of the first filters' response", "%",
               [str(i + 1) for i in filters], "filters, from most to least",
               {s: 100 * np.array([np.sort(e.ink[s])[::-1] for e in evidence]).T
                for s in first.ink}, top=100.0),
         Panel("Unchanged by noise outside the field", "% of images", list(first.locality),
               "", {"trained": 100 * _table(evidence, "locality")}, top=105.0)],
        [Panel("A map when the image moves by one unit", "relative change",
               list(first.left_in_place), "",
               {"as it was": _table(evidence, "left_in_place"),
                "moved along, interior": _table(evidence, "moved_along", first.left_in_place)},
               logarithmic=True),
         Panel(f"Pairs of shifts to ±{NEAR} with one answer", "%", ["answers"], "",
               {"trained": consistency[next(iter(consistency))]}, top=100.0)],
        [Panel("A map when the image moves by 1 pixel", "relative change", pools, "",
               {"before pooling": np.array([[e.pooled[p][0] for e in evidence] for p in pools]),
                "after": np.array([[e.pooled[p][1] for e in evidence] for p in pools])}),
         Panel(f"Pairs of shifts to ±{NEAR} with one answer", "%", ["answers"], "",
               consistency, top=100.0)],
        [Panel("Edges among the first filters", "% of energy", ["first layer"], "",
               {s: np.array([[100 * e.edges[s] for e in evidence]]) for s in first.edges}),
         Panel("Variance of a unit between classes", "%", list(first.class_share["trained"]), "",
               {s: 100 * np.array([list(e.class_share[s].values()) for e in evidence]).T
                for s in first.class_share}),
         Panel("Last units that single out a class", f"% with area ≥ {SINGLES_OUT}", ["last"], "",
               {"trained": np.array([[100 * e.singled_out for e in evidence]])}, top=100.0)],
        [Panel("Receptive field", "pixels", list(first.sizes), "",
               {"in theory": _table(evidence, "sizes"),
                "square with 95 % of the gradient": _table(evidence, "effective")})],
    ]  # fmt: skip


def _table(
    evidence: Sequence[Evidence], what: str, names: dict[str, float] | None = None
) -> NDArray:
    keys = list(names or getattr(evidence[0], what))
    return np.array([[getattr(e, what).get(key, np.nan) for e in evidence] for key in keys])


def _flat(values: dict[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}/")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _finite(number: float) -> float | None:
    return None if np.isnan(number) else number

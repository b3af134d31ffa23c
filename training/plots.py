"""Evaluations → pictures as SVG text: reliability of each file, accuracy over arithmetic beside published networks."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.metadata import Evaluation
from training.cifar10 import LABELS
from training.repository import read_models

PANEL, MARGIN = 220, 44  # pixels
LETTER = 6.4  # pixels that a letter takes on average, in a wide font
ACCURACY = "accuracy.svg"
MACS, ACCURACIES = (9, 150), (0.90, 0.965)  # millions, and shares: what that plot shows
Place = tuple[float, float]  # pixels from the left and from the top


def reliability_svg(evaluations: Sequence[Evaluation]) -> str:
    """One panel per evaluation: how often the answer is right, over the probability that it was given."""
    panels = [
        f'<g transform="translate({place * (PANEL + MARGIN) + MARGIN} {MARGIN})">{_reliability(each)}</g>'
        for place, each in enumerate(evaluations)
    ]
    return _svg(len(evaluations) * (PANEL + MARGIN) + MARGIN, PANEL + 2 * MARGIN, panels)


def _reliability(evaluation: Evaluation) -> str:
    bins, width = evaluation.reliability, PANEL / len(evaluation.reliability)
    bars = "".join(
        f'<rect x="{i * width:.1f}" y="{PANEL * (1 - b.accuracy):.1f}" width="{width - 1:.1f}" '
        f'height="{PANEL * b.accuracy:.1f}" fill="#4477aa" opacity="{0.25 + 0.75 * b.images / evaluation.images:.2f}">'
        f"<title>{b.images:,} images, probability {b.probability:.3f}, right {b.accuracy:.3f}</title></rect>"
        for i, b in enumerate(bins)
        if b.images
    )
    title = f"{evaluation.precision}, {evaluation.split} split, ECE {evaluation.ece:.2%}"
    return (
        f"{_frame([(v, f'{v:.1f}') for v in (0, 0.5, 1)], [(v, f'{v:.1f}') for v in (0, 0.5, 1)], PANEL, PANEL)}{bars}"
        f'<path d="M0 {PANEL}L{PANEL} 0" stroke="#cc3311" stroke-dasharray="4 3"/>'
        f'<text x="0" y="-10">{title}</text>'
        f'<text x="{PANEL / 2}" y="{PANEL + 34}" text-anchor="middle">probability of the answer</text>'
    )


@dataclass(frozen=True)
class Network:
    """A point of the plot: single-view test accuracy and million multiply-accumulates per image."""

    name: str
    macs: float  # millions
    accuracy: float
    ours: bool = False


# pytorch-cifar-models (chenyaofo), CondenseNet (ShichenLiu, learned group convolutions) and pytorch-cifar (kuangliu).
PUBLISHED = (
    Network("ShuffleNetV2 0.5", 10.9, 0.9013),
    Network("MobileNetV2 0.5", 28.0, 0.9288),
    Network("CondenseNet-50", 28.6, 0.9378),
    Network("ResNet-20", 40.8, 0.9260),
    Network("CondenseNet-74", 51.9, 0.9472),
    Network("MobileNetV2 0.75", 59.3, 0.9372),
    Network("CondenseNet-86", 65.8, 0.9494),
    Network("ResNet-32", 69.1, 0.9353),
    Network("CondenseNet-98", 81.3, 0.9517),
    Network("MobileNetV2 1.0", 88.0, 0.9379),
    Network("MobileNetV2, stride-1 stem", 91.2, 0.9443),
    Network("ResNet-44", 97.4, 0.9401),
    Network("CondenseNet-110", 98.2, 0.9537),
    Network("CondenseNet-122", 116.7, 0.9552),
    Network("ResNet-56", 125.8, 0.9437),
)


def shipped(models: Path) -> list[Network]:
    """Every file in the model repository `models` that was measured on CIFAR-10's test split.

    A folder of pictures may have the same classes; that it was given stands in the recorded command.
    """
    return [
        Network(f"{metadata.name}/{metadata.version} {e.precision}", metadata.macs / 1e6, e.accuracy, ours=True)
        for metadata in read_models(models)
        if metadata.labels == LABELS
        for e in metadata.evaluations
        if e.split == "test" and "--data" not in shlex.split(e.command)
    ]


def in_frame(network: Network) -> bool:
    """Whether the plot of accuracy over arithmetic has a place for it."""
    return MACS[0] <= network.macs <= MACS[1] and ACCURACIES[0] <= network.accuracy <= ACCURACIES[1]


def accuracy_svg(ours: Iterable[Network]) -> str:
    """Accuracy over multiply-accumulates (logarithmic), of published networks and `ours` in the frame, those in red."""
    width, height = 760, 420
    (low, high), (left, right) = ACCURACIES, map(math.log, MACS)

    def place(network: Network) -> Place:
        return width * (math.log(network.macs) - left) / (right - left), height * (high - network.accuracy) / (
            high - low
        )

    shown = sorted(filter(in_frame, (*ours, *PUBLISHED)), key=lambda n: not n.ours)
    labels = [f"{network.name}, {network.accuracy:.2%}" for network in shown]
    frame = _frame(
        [((math.log(v) - left) / (right - left), str(v)) for v in (10, 20, 30, 50, 100)],
        [((v - low) / (high - low), f"{v:.0%}") for v in (0.90, 0.91, 0.92, 0.93, 0.94, 0.95, 0.96)],
        width,
        height,
    )
    caption = (
        f'<text x="{width / 2}" y="{height + 34}" text-anchor="middle">million multiply-accumulates per image</text>'
        '<text x="0" y="-10">CIFAR-10 test accuracy, one view; published networks blue, these red</text>'
    )
    points = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{"#cc3311" if network.ours else "#4477aa"}"/>'
        f'<text x="{at[0]:.1f}" y="{at[1]:.1f}" fill="{"#cc3311" if network.ours else "#4477aa"}">{label}</text>'
        for network, (x, y), at, label in zip(
            shown, map(place, shown), beside([*map(place, shown)], labels), labels, strict=True
        )
    )
    return _svg(
        width + 4 * MARGIN,
        height + 2 * MARGIN,
        [f'<g transform="translate({MARGIN} {MARGIN})">{frame}{caption}{points}</g>'],
    )


def beside(points: Sequence[Place], labels: Sequence[str]) -> list[Place]:
    """Where each label begins, on its base line: the first place around its point that nothing else takes."""
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in points]
    found = []
    for (x, y), label in zip(points, labels, strict=True):
        length = LETTER * len(label)
        rows = (-8, 16, -20, 28, -32, 40)  # above and below: files of one network lie close together
        offsets = [(7, 4), (-7 - length, 4), *((dx, dy) for dy in rows for dx in (4, -4 - length))]
        places = [(x + dx, y + dy) for dx, dy in offsets]
        free = (at for at in places if not any(_overlap(_box(at, label), other) for other in taken))
        found.append(next(free, places[0]))
        taken.append(_box(found[-1], label))
    return found


def _box(at: Place, label: str) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a label that begins at `at`."""
    return at[0], at[1] - 10, at[0] + LETTER * len(label), at[1] + 2


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _frame(xs: list[tuple[float, str]], ys: list[tuple[float, str]], width: float, height: float) -> str:
    """Axes with grid lines at fractions of the way along each, and what is written there."""
    vertical = "".join(
        f'<path d="M{f * width:.1f} 0V{height}" stroke="#dddddd"/>'
        f'<text x="{f * width:.1f}" y="{height + 16}" text-anchor="middle">{label}</text>'
        for f, label in xs
    )
    horizontal = "".join(
        f'<path d="M0 {(1 - f) * height:.1f}H{width}" stroke="#dddddd"/>'
        f'<text x="-6" y="{(1 - f) * height + 4:.1f}" text-anchor="end">{label}</text>'
        for f, label in ys
    )
    return f'{vertical}{horizontal}<path d="M0 0V{height}H{width}" fill="none" stroke="#333333"/>'


def _svg(width: float, height: float, parts: Iterable[str]) -> str:
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="11">\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )

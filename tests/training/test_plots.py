"""Plots are well-formed and show what they are given where it belongs."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from service.metadata import Evaluation, ModelMetadata, ReliabilityBin
from training.plots import LETTER, PANEL, PUBLISHED, Network, accuracy_svg, in_frame, reliability_svg, shipped

SVG = "{http://www.w3.org/2000/svg}"


def evaluation(bins: tuple[ReliabilityBin, ...]) -> Evaluation:
    return Evaluation(
        split="test",
        precision="int8",
        images=100,
        accuracy=0.9,
        nll=0.2,
        brier=0.1,
        ece=0.0123,
        ece_uncalibrated=0.1,
        class_accuracy={},
        reliability=bins,
        command="",
    )


def test_reliability_has_a_bar_for_every_bin_with_images() -> None:
    empty = ReliabilityBin(images=0, probability=0, accuracy=0)
    bins = (empty, empty, ReliabilityBin(images=40, probability=0.5, accuracy=0.25), empty)
    root = ElementTree.fromstring(reliability_svg([evaluation(bins), evaluation(bins)]))
    bars = [bar for bar in root.iter(f"{SVG}rect") if bar.find(f"{SVG}title") is not None]
    assert len(bars) == 2
    assert float(bars[0].attrib["height"]) == PANEL * 0.25
    assert float(bars[0].attrib["x"]) == PANEL * 0.5
    assert [t.text for t in root.iter(f"{SVG}text")].count("int8, test split, ECE 1.23%") == 2


def test_networks_stand_where_their_accuracy_and_arithmetic_put_them() -> None:
    ours = [Network("a", 30, 0.95, ours=True), Network("b", 60, 0.94, ours=True)]
    root = ElementTree.fromstring(accuracy_svg(ours))
    red = [c for c in root.iter(f"{SVG}circle") if c.attrib["fill"] == "#cc3311"]
    assert len(list(root.iter(f"{SVG}circle"))) == len(PUBLISHED) + 2
    assert float(red[0].attrib["cx"]) < float(red[1].attrib["cx"])
    assert float(red[0].attrib["cy"]) < float(red[1].attrib["cy"])  # higher up


def test_only_what_was_measured_on_cifar10_itself_is_among_the_shipped(tmp_path: Path) -> None:
    model = ModelMetadata.read(Path(__file__).parents[2] / "models" / "tutorial-cnn" / "1")
    (measured,) = (e for e in model.evaluations if e.split == "test")
    (folder := tmp_path / "tutorial-cnn" / "1").mkdir(parents=True)
    model.write(folder)
    assert [network.accuracy for network in shipped(tmp_path)] == [measured.accuracy]
    elsewhere = measured.model_copy(update={"command": f"{measured.command} --data pictures"})  # of the same classes
    model.model_copy(update={"evaluations": (elsewhere,)}).write(folder)
    assert shipped(tmp_path) == []


def test_no_label_hides_another_or_a_point() -> None:
    files = (("9 fp32", 0.9456), ("9 fp16", 0.9457), ("9 int8", 0.9452))
    ours = [Network(f"cifar10/{name}", 97.7, accuracy, ours=True) for name, accuracy in files]
    root = ElementTree.fromstring(accuracy_svg([*ours, Network("small/1 int8", 29.1, 0.9450, ours=True)]))
    labels = [
        (x, y - 10, x + LETTER * len(text.text or ""), y + 2)
        for text in root.iter(f"{SVG}text")
        if text.attrib.get("fill")
        for x, y in [(float(text.attrib["x"]), float(text.attrib["y"]))]
    ]
    points = [
        (x - 4, y - 4, x + 4, y + 4)
        for circle in root.iter(f"{SVG}circle")
        for x, y in [(float(circle.attrib["cx"]), float(circle.attrib["cy"]))]
    ]
    for one, other in (*itertools.combinations(labels, 2), *itertools.product(labels, points)):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1], (one, other)


@pytest.mark.parametrize(("macs", "accuracy"), [(30, 0.74), (30, 0.97), (4.5, 0.92), (557, 0.95)])
def test_a_network_outside_the_frame_is_left_out(macs: float, accuracy: float) -> None:
    network = Network("far away", macs, accuracy, ours=True)
    assert not in_frame(network)
    assert accuracy_svg([network]) == accuracy_svg([])


@pytest.mark.parametrize("network", PUBLISHED, ids=lambda network: network.name)
def test_published_networks_are_within_the_frame(network: Network) -> None:
    assert re.search(re.escape(f"{network.name}, {network.accuracy:.2%}"), accuracy_svg([]))

"""A coverage asked for → from which probability on a class is in a prediction set, and how well such sets did."""

from __future__ import annotations

from typing import NamedTuple

from service.metadata import ModelMetadata, Precision


class Coverage(NamedTuple):
    """What decides a prediction set, and what whoever asked for it is told."""

    threshold: float
    shown: dict[str, float | int | str]  # see `service.api.bodies.Coverage`


def coverage_of(metadata: ModelMetadata, precision: Precision, asked: str | float) -> Coverage:
    """The prediction sets of the file of that precision for the coverage `asked`; raises `ValueError` for others.

    Each precision has thresholds and measurements of its own.
    """
    thresholds = metadata.calibration.thresholds.get(precision, {})
    if not thresholds:
        raise ValueError("this version has no thresholds for prediction sets; leave it out.")
    known = {float(coverage): coverage for coverage in thresholds}
    try:
        coverage = known[float(asked)]
    except (ValueError, KeyError) as exc:
        raise ValueError(f"this version has sets for {', '.join(thresholds)}.") from exc
    shown: dict[str, float | int | str] = {"asked": float(coverage)}
    if measured := metadata.sets_measured(precision, coverage):
        sets = measured.prediction_sets[coverage]
        shown |= {"measured": sets.coverage, "mean_size": sets.mean_size}
        shown |= {"split": measured.split, "images": measured.images}
    return Coverage(thresholds[coverage], shown)

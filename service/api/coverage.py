"""?coverage= → from which probability on a class is in a prediction set, and how well such sets kept their promise."""

from __future__ import annotations

from typing import NamedTuple

from service.errors import MalformedRequest
from service.loading import LoadedModel


class Coverage(NamedTuple):
    """What a request for prediction sets is answered with."""

    threshold: float
    shown: dict[str, float | int | str | None]  # see `service.api.bodies.Coverage`


def coverage_of(model: LoadedModel, asked: str) -> Coverage:
    """The model's prediction sets for the coverage `asked`; raises `MalformedRequest` when it has none.

    Thresholds and measurements are those of the file that serves: each precision has its own.
    """
    precision, metadata = model.engine.precision, model.metadata
    thresholds = metadata.calibration.thresholds.get(precision, {})
    if not thresholds:
        raise MalformedRequest("query coverage: this version has no thresholds for prediction sets; leave it out.")
    known = {float(coverage): coverage for coverage in thresholds}
    try:
        coverage = known[float(asked)]
    except (ValueError, KeyError) as exc:
        raise MalformedRequest(f"query coverage: this version has sets for {', '.join(thresholds)}.") from exc
    shown: dict[str, float | int | str | None] = {"asked": float(coverage)}
    if measured := metadata.sets_measured(precision, coverage):
        sets = measured.prediction_sets[coverage]
        shown |= {"measured": sets.coverage, "mean_size": sets.mean_size}
        shown |= {"split": measured.split, "images": measured.images}
    return Coverage(thresholds[coverage], shown)

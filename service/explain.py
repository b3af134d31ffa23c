"""One picture → its prediction, which parts of it that rests on, and what every stage of the network makes of it."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from service.classifier import Classifier
from service.drawing import contact_sheet, heat_map
from service.engine import background_thread
from service.errors import DeadlineExceeded, InvalidImage, ServiceError
from service.metadata import StageKind
from service.prediction import Prediction
from service.preparation import Picture
from service.serving import Served
from service.types import Probabilities, RGBImage, Rows

HIDDEN = 4  # the square that is hidden has that part of the height and width
PLACES = 7  # of that square, down and across
GREY = 128
SMALLEST = 1e-7  # probabilities nearer to 0 or 1 count as so near: float32 has a single number nearer to 1


class Occlusion(NamedTuple):
    """What is lost when parts of the picture are hidden, row by row from the top left."""

    grid: npt.NDArray[np.float32]  # (PLACES, PLACES): how far the log-odds of the predicted class fall, in nats
    probabilities: npt.NDArray[np.float32]  # (PLACES, PLACES): that class's, with the part hidden
    image: bytes  # PNG: what the network sees, redder where more is lost


class StagePicture(NamedTuple):
    """One stage's output."""

    name: str
    kind: StageKind
    shape: tuple[int, ...]  # (C, H, W)
    image: bytes  # PNG: its channels side by side


class Explanation(NamedTuple):
    """What there is to see."""

    prediction: Prediction
    occlusion: Occlusion
    stages: list[StagePicture]


class Explainer:
    """Asks the classifier, the batcher before its model, and, on a thread that gives way, the model's stages."""

    def __init__(self, classifier: Classifier, most_images: int) -> None:
        """`most_images` may be under way at a time for one client."""
        self._classifier, self._most = classifier, most_images
        self._thread = background_thread(1) or ThreadPoolExecutor(1, thread_name_prefix="explain")

    async def explain(self, picture: Picture | InvalidImage, model: Served, deadline: float) -> Explanation:
        """Everything about one picture; only the picture itself is counted among what was predicted.

        Raises what `Classifier.row` and `Classifier.classify` do.
        """
        row = await self._classifier.row(picture, model, deadline)
        (prediction,) = await self._classifier.classify(row, model=model, deadline=deadline)
        if isinstance(prediction, ServiceError):
            raise prediction
        left = await self._probabilities(occluded(row[0]), model, deadline)
        drawing = asyncio.get_running_loop().run_in_executor(self._thread, _draw, row, prediction, left, model)
        try:
            async with asyncio.timeout_at(deadline):
                return await drawing
        except TimeoutError as exc:
            raise DeadlineExceeded(
                "The request's time was up before its stages were drawn; allow more time or try again later."
            ) from exc

    async def _probabilities(self, rows: Rows, model: Served, deadline: float) -> Probabilities:
        """What is left: all at once, where a client may have so many under way."""
        found: list[Probabilities] = []
        for some in np.split(rows, range(self._most, len(rows), self._most)):
            with self._classifier.share(len(some)):
                left, failures = await model.batcher.submit(some, deadline=deadline)
            for failure in failures.values():
                raise failure
            found.append(left)
        return np.concatenate(found)

    def close(self) -> None:
        """Let the thread end; what it has begun is finished."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def occluded(image: RGBImage) -> Rows:
    """`image` (H, W, 3) with a grey square at each of its places: (PLACES², H, W, 3).

    M. Zeiler and R. Fergus, "Visualizing and understanding convolutional networks", 2014.
    """
    rows = np.repeat(image[np.newaxis], PLACES * PLACES, 0)
    for row, part in zip(rows, _parts(*image.shape[:2]), strict=True):
        row[part] = GREY
    return rows


def _parts(height: int, width: int) -> list[tuple[slice, slice]]:
    """The places of the square, row by row; they overlap, and reach from edge to edge."""
    h, w = -(-height // HIDDEN), -(-width // HIDDEN)
    tops = np.rint(np.linspace(0, height - h, PLACES)).astype(int)
    lefts = np.rint(np.linspace(0, width - w, PLACES)).astype(int)
    return [(slice(top, top + h), slice(left, left + w)) for top in tops for left in lefts]


def _draw(row: Rows, prediction: Prediction, left: Probabilities, model: Served) -> Explanation:
    stages = [
        StagePicture(stage.name, stage.kind, output.shape, contact_sheet(output))
        for stage, output in model.loaded.stages.view(row)
    ]
    return Explanation(prediction, _occlusion(row[0], prediction, left[:, prediction.index].copy()), stages)


def _occlusion(image: RGBImage, prediction: Prediction, left: npt.NDArray[np.float32]) -> Occlusion:
    lost = _log_odds(prediction.probabilities[prediction.index]) - _log_odds(left)
    sums, times = np.zeros(image.shape[:2], np.float32), np.zeros(image.shape[:2], np.float32)
    for part, nats in zip(_parts(*image.shape[:2]), lost, strict=True):
        sums[part] += max(nats, np.float32(0))
        times[part] += 1
    grid, probabilities = (each.reshape(PLACES, PLACES) for each in (lost, left))
    return Occlusion(grid, probabilities, heat_map(image, sums / times.clip(1)))


def _log_odds(p: npt.NDArray[np.float32] | np.float32) -> npt.NDArray[np.float32]:
    inside = np.clip(p, SMALLEST, 1 - SMALLEST)
    odds: npt.NDArray[np.float32] = np.log(inside / (1 - inside), dtype=np.float32)
    return odds

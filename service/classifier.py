"""The whole flow: bytes → image → row → batch → probabilities → prediction. Open this first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import numpy as np

from service.decoding import decode
from service.errors import DeadlineExceeded, InvalidImage, ServiceError
from service.metadata import InputSpec
from service.metrics import Metrics
from service.prediction import Prediction
from service.preprocessing import fit
from service.queueing import Priority
from service.serving import Served, ServedModels
from service.settings import Settings
from service.types import RGBImage

INLINE_BYTES = 16 << 10  # decoding less than this takes less than handing it to a thread
REDUCED_TO = 4  # times the model's input: how far a photo may be reduced while it is decoded
Picture = bytes | RGBImage  # encoded, or decoded by the client
Row = RGBImage | InvalidImage


class Classifier:
    """The way through the models that are served."""

    def __init__(self, models: ServedModels, settings: Settings, metrics: Metrics) -> None:
        self._models, self._max_pixels = models, settings.max_image_pixels
        self._decoded = metrics.histogram("convoy_stage_seconds", "decode")
        self._preprocessed = metrics.histogram("convoy_stage_seconds", "preprocess")

    async def classify(
        self,
        pictures: Sequence[Picture | InvalidImage],
        *,
        model: Served | None = None,
        deadline: float | None = None,
        priority: Priority = Priority.INTERACTIVE,
    ) -> list[Prediction | ServiceError]:
        """One prediction, `InvalidImage` or `InferenceFailed` per picture, in order.

        `model` is one that `ServedModels.choose` gave, by default the default one; `deadline` is on the event loop's
        clock. Raises `Overloaded`, `DeadlineExceeded`, `Draining` or `InferenceFailed` for the request as a whole.
        """
        served = model or self._models.choose()
        try:
            rows = await self._prepare(pictures, served.loaded.metadata.input, deadline)
            good = [row for row in rows if not isinstance(row, InvalidImage)]
            answers = iter(await _answer(served, good, priority, deadline) if good else ())
        except ServiceError as exc:
            served.counts.failed(exc.slug, len(pictures))
            raise
        outcomes = [row if isinstance(row, InvalidImage) else next(answers) for row in rows]
        for outcome in outcomes:
            if isinstance(outcome, ServiceError):
                served.counts.failed(outcome.slug)
        return outcomes

    async def _prepare(
        self, pictures: Sequence[Picture | InvalidImage], spec: InputSpec, deadline: float | None
    ) -> list[Row]:
        """Everything that can fail for one picture happens here, before the queue."""
        if sum(_work(picture, spec) for picture in pictures) <= INLINE_BYTES:
            rows, stages = self._rows(pictures, spec)
        else:
            try:
                async with asyncio.timeout_at(deadline):
                    rows, stages = await asyncio.to_thread(self._rows, pictures, spec)
            except TimeoutError as exc:
                raise DeadlineExceeded(
                    "The request's time was up before its images were decoded; allow more time or send fewer images."
                ) from exc
        self._decoded.observe(stages[0])
        self._preprocessed.observe(stages[1])
        return rows

    def _rows(
        self, pictures: Sequence[Picture | InvalidImage], spec: InputSpec
    ) -> tuple[list[Row], tuple[float, float]]:
        """The model's input for each picture, and the seconds spent on decoding and on preprocessing."""
        rows: list[Row] = []
        decode_s = preprocess_s = 0.0
        at_least = REDUCED_TO * max(spec.height, spec.width)
        for picture in pictures:
            began = decoded = time.perf_counter()
            row: Row
            try:
                if isinstance(picture, InvalidImage):
                    raise picture
                image = (
                    decode(picture, max_pixels=self._max_pixels, at_least=at_least)
                    if isinstance(picture, bytes)
                    else picture
                )
                decoded = time.perf_counter()
                row = fit(image, height=spec.height, width=spec.width, resize_policy=spec.resize_policy)
            except InvalidImage as exc:
                row = exc
            rows.append(row)
            decode_s, preprocess_s = decode_s + decoded - began, preprocess_s + time.perf_counter() - decoded
        return rows, (decode_s, preprocess_s)


def _work(picture: Picture | InvalidImage, spec: InputSpec) -> int:
    """Bytes that have to be gone through before the picture is a row."""
    if isinstance(picture, bytes):
        return len(picture)
    return 0 if isinstance(picture, InvalidImage) or picture.shape == (spec.height, spec.width, 3) else picture.nbytes


async def _answer(
    served: Served, rows: list[RGBImage], priority: Priority, deadline: float | None
) -> list[Prediction | ServiceError]:
    """What the engine says of rows that are fit for it, counted."""
    stacked = rows[0][np.newaxis] if len(rows) == 1 else np.stack(rows)
    answer = await served.batcher.submit(stacked, priority=priority, deadline=deadline)
    good = np.delete(answer.probabilities, list(answer.failures), 0) if answer.failures else answer.probabilities
    served.counts.predicted(good.argmax(1).tolist(), good.max(1).tolist())
    identity = served.loaded.identity
    return [answer.failures.get(i) or Prediction(identity, p) for i, p in enumerate(answer.probabilities)]

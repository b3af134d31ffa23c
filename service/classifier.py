"""The whole flow: bytes → image → row → batch → probabilities → prediction. Open this first."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from service.cores import default_workers, threads_per_worker
from service.errors import ImageTooLarge, InvalidImage, ServiceError
from service.metadata import InputSpec
from service.metrics import Metrics
from service.prediction import Prediction, predictions
from service.preparation import Picture, Pictures, Preparation, work
from service.queueing import Priority
from service.serving import Served, ServedModels
from service.settings import Settings
from service.shares import Shares
from service.turns import Turns, run_in
from service.types import Rows

INLINE_BYTES = 16 << 10  # decoding less than this takes less than handing it to a thread
INLINE_PIXELS = 1 << 14  # unless it has more pixels: a few bytes may be many, and each of them costly
UNLIMITED = nullcontext()


class Classifier:
    """The way through the models that are served."""

    def __init__(self, models: ServedModels, settings: Settings, metrics: Metrics) -> None:
        self._models, self._max_pixels = models, settings.max_image_pixels
        # Whatever is sent, other threads stay free; and so few large pictures are unpacked at once, by all workers.
        threads = threads_per_worker(settings.workers or default_workers(settings.device))
        self._turns = Turns(threads, max_bytes=settings.queue_bytes)
        self._background_turns = Turns(1, max_bytes=settings.queue_bytes)  # each model's engine has a thread for them
        self._shares = Shares(settings.client_images) if settings.client_share < 1 else None
        self._decoded = metrics.histogram("convoy_stage_seconds", "decode")
        self._preprocessed = metrics.histogram("convoy_stage_seconds", "preprocess")

    async def classify(
        self,
        pictures: Pictures,
        *,
        model: Served | None = None,
        deadline: float | None = None,
        priority: Priority = Priority.INTERACTIVE,
    ) -> list[Prediction | ServiceError]:
        """One prediction, `InvalidImage` or `InferenceFailed` per picture, in order.

        `model` is one that `ServedModels.choose` gave, by default the default one; `deadline` is on the event loop's
        clock. Raises `Overloaded`, `DeadlineExceeded`, `Draining`, `InferenceFailed` or `TooManyRequests` for the
        request as a whole.
        """
        served = model or self._models.choose()
        try:
            with self.share(len(pictures)):
                outcomes = await self._outcomes(pictures, served, deadline, priority)
        except ServiceError as exc:
            served.counts.failed(exc.slug, len(pictures))
            raise
        served.counts.classified(outcomes)
        return outcomes

    def share(self, images: int) -> AbstractContextManager[None]:
        """Holds so many for the client that asks, see `Shares.hold`; free where clients have no limit."""
        return self._shares.hold(images) if self._shares else UNLIMITED

    async def _outcomes(
        self, pictures: Pictures, served: Served, deadline: float | None, priority: Priority
    ) -> list[Prediction | ServiceError]:
        spec, batcher = served.loaded.metadata.input, served.batcher_for(priority)
        nbytes = len(pictures) * served.row_bytes
        if refused := batcher.refusal(len(pictures), nbytes, priority=priority, deadline=deadline):
            raise refused
        invalid: Mapping[int, InvalidImage] = {}
        if isinstance(pictures, np.ndarray) and pictures.shape[1:3] == (spec.height, spec.width):
            rows = pictures
        else:
            background = served.loaded.engine.background if priority is Priority.BULK else None
            rows, invalid = await self._prepare(pictures, spec, deadline, background)
        outcomes: list[Prediction | ServiceError] = []
        if len(rows):
            probabilities, failures = await batcher.submit(rows, priority=priority, deadline=deadline)
            outcomes += predictions(served.loaded.identity, probabilities)
            for place, failure in failures.items():
                outcomes[place] = failure
        for place, error in invalid.items():
            outcomes.insert(place, error)
        return outcomes

    async def row(self, picture: Picture | InvalidImage, model: Served, deadline: float) -> Rows:
        """What the model is shown of one picture, uint8 (1, H, W, 3); raises `InvalidImage` or `DeadlineExceeded`."""
        rows, invalid = await self._prepare([picture], model.loaded.metadata.input, deadline, None)
        if invalid:
            model.counts.classified(list(invalid.values()))
            raise invalid[0]
        return rows

    async def _prepare(
        self, pictures: Pictures, spec: InputSpec, deadline: float | None, background: Executor | None
    ) -> tuple[Rows, Mapping[int, InvalidImage]]:
        """Everything that can fail for one picture happens here, before the queue; `background` for what can wait."""
        nbytes = work(pictures, spec)
        preparation = None if background or nbytes > INLINE_BYTES else self._inline(pictures, spec)
        if preparation is None:
            preparation = Preparation(pictures, spec, self._max_pixels)
            if background and deadline is None:  # a batch's: one piece at a time, which clients' work must not shut out
                await run_in(background, preparation.steps())
            elif background:
                await self._background_turns.run(preparation.steps(), nbytes, deadline, background)
            else:
                await self._turns.run(preparation.steps(), nbytes, deadline)
        self._decoded.observe(preparation.decode_s)
        self._preprocessed.observe(preparation.preprocess_s)
        return preparation.rows, preparation.invalid

    def _inline(self, pictures: Pictures, spec: InputSpec) -> Preparation | None:
        """All of it at once; None where few bytes are many pixels."""
        few = min(INLINE_PIXELS // max(1, len(pictures)), self._max_pixels)
        preparation = Preparation(pictures, spec, few)
        for _ in preparation.steps():
            pass
        too_large = any(isinstance(error, ImageTooLarge) for error in preparation.invalid.values())
        return None if too_large and few < self._max_pixels else preparation

"""The whole flow: bytes → image → row → batch → probabilities → prediction. Open this first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from threading import Event
from typing import NamedTuple

import numpy as np

from service.cores import usable_cores
from service.decoding import decode
from service.errors import DeadlineExceeded, ImageTooLarge, InvalidImage, ServiceError
from service.metadata import InputSpec
from service.metrics import Metrics
from service.prediction import Prediction, predictions
from service.preprocessing import fit
from service.queueing import Priority
from service.serving import Served, ServedModels
from service.settings import Settings
from service.shares import Shares
from service.types import RGBImage, Rows

INLINE_BYTES = 16 << 10  # decoding less than this takes less than handing it to a thread
INLINE_PIXELS = 1 << 18  # unless a few bytes unpack to more than that
REDUCED_TO = 4  # times the model's input: how far a photo may be reduced while it is decoded
Picture = bytes | RGBImage  # encoded, or decoded by the client
Pictures = Sequence[Picture | InvalidImage] | Rows  # each encoded, decoded, or known to be none
UNLIMITED = nullcontext()
NEVER = Event()
NO_ROWS = np.empty((0, 0, 0, 3), np.uint8)


class Prepared(NamedTuple):
    """What is left of pictures before the queue."""

    rows: Rows  # the good ones
    invalid: Mapping[int, InvalidImage]  # the others, by their place, ascending
    decode_s: float
    preprocess_s: float


class Classifier:
    """The way through the models that are served."""

    def __init__(self, models: ServedModels, settings: Settings, metrics: Metrics) -> None:
        self._models, self._max_pixels = models, settings.max_image_pixels
        # Whatever is sent, other threads stay free; and so few large pictures are unpacked at once.
        self._decoding = ThreadPoolExecutor(usable_cores(), thread_name_prefix="decode")
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
        inline = not background and sum(_work(picture, spec) for picture in pictures) <= INLINE_BYTES
        prepared = self._rows(pictures, spec, NEVER, INLINE_PIXELS // max(1, len(pictures))) if inline else None
        if prepared is None or any(isinstance(error, ImageTooLarge) for error in prepared.invalid.values()):
            prepared = await self._rows_in_thread(pictures, spec, deadline, background or self._decoding)
        self._decoded.observe(prepared.decode_s)
        self._preprocessed.observe(prepared.preprocess_s)
        return prepared.rows, prepared.invalid

    async def _rows_in_thread(
        self, pictures: Pictures, spec: InputSpec, deadline: float | None, threads: Executor
    ) -> Prepared:
        given_up = Event()  # nobody waits for the pictures that are left
        try:
            async with asyncio.timeout_at(deadline):
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(threads, self._rows, pictures, spec, given_up, self._max_pixels)
        except TimeoutError as exc:
            raise DeadlineExceeded(
                "The request's time was up before its images were decoded; allow more time or send fewer images."
            ) from exc
        finally:
            given_up.set()

    def _rows(self, pictures: Pictures, spec: InputSpec, given_up: Event, max_pixels: int) -> Prepared:
        """Counts nothing: it may run in a thread, and counts belong to the event loop's."""
        rows: list[RGBImage] = []
        invalid: dict[int, InvalidImage] = {}
        decode_s = preprocess_s = 0.0
        at_least = REDUCED_TO * max(spec.height, spec.width)
        for place, picture in enumerate(pictures):
            if given_up.is_set():
                break
            began = time.perf_counter()
            image = _decoded(picture, min(max_pixels, self._max_pixels), at_least)
            decoded = time.perf_counter()
            if isinstance(image, InvalidImage):
                invalid[place] = image
            else:
                rows.append(fit(image, height=spec.height, width=spec.width, resize_policy=spec.resize_policy))
            decode_s, preprocess_s = decode_s + decoded - began, preprocess_s + time.perf_counter() - decoded
        stacked = rows[0][np.newaxis] if len(rows) == 1 else np.stack(rows) if rows else NO_ROWS
        return Prepared(stacked, invalid, decode_s, preprocess_s)


def _decoded(picture: Picture | InvalidImage, max_pixels: int, at_least: int) -> RGBImage | InvalidImage:
    if not isinstance(picture, bytes):
        return picture
    try:
        return decode(picture, max_pixels=max_pixels, at_least=at_least)
    except InvalidImage as exc:
        return exc


def _work(picture: Picture | InvalidImage, spec: InputSpec) -> int:
    """Bytes that have to be gone through before the picture is a row."""
    if isinstance(picture, bytes):
        return len(picture)
    return 0 if isinstance(picture, InvalidImage) or picture.shape == (spec.height, spec.width, 3) else picture.nbytes

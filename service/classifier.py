"""The whole flow: bytes → image → row → batch → probabilities → prediction. Open this first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.batching import BATCHERS, DynamicBatcher
from service.decoding import decode
from service.errors import DeadlineExceeded, InvalidImage, NotReady, Overloaded, ServiceError
from service.metadata import InputSpec
from service.metrics import Metrics, ModelMetrics
from service.prediction import Prediction
from service.preprocessing import fit
from service.queueing import Priority
from service.repository import LoadedModel, ModelRepository
from service.settings import Settings
from service.types import RGBImage

INLINE_BYTES = 16 << 10  # decoding less than this takes less than handing it to a thread
REDUCED_TO = 4  # times the model's input: how far a photo may be reduced while it is decoded
HEARTBEAT_S = 5.0
Picture = bytes | RGBImage  # encoded, or decoded by the client
Row = RGBImage | InvalidImage


@dataclass(frozen=True, slots=True)
class Served:
    """A loaded model, the queue before it, and its counts."""

    model: LoadedModel
    batcher: DynamicBatcher
    counts: ModelMetrics


class Classifier:
    """Models, their batchers, and the way through them."""

    def __init__(self, repository: ModelRepository, settings: Settings, metrics: Metrics) -> None:
        self.repository, self._settings, self._metrics = repository, settings, metrics
        self._served: dict[str, Served] = {}  # by digest
        self._decoded = metrics.histogram("convoy_stage_seconds", "decode")
        self._preprocessed = metrics.histogram("convoy_stage_seconds", "preprocess")
        self._heartbeat: asyncio.Task[None] | None = None
        self._unwell: dict[str, str] = {}  # model name → why it can't answer
        self.draining = False

    async def classify(
        self,
        pictures: Sequence[Picture | InvalidImage],
        *,
        model: str | None = None,
        version: str | None = None,
        deadline: float | None = None,
        priority: Priority = Priority.INTERACTIVE,
    ) -> list[Prediction | ServiceError]:
        """One prediction, `InvalidImage` or `InferenceFailed` per picture, in order.

        `deadline` is on the running event loop's clock. Raises `ModelNotFound`, `Overloaded`, `DeadlineExceeded`,
        `Draining` or `InferenceFailed` for the request as a whole.
        """
        served = self._served[self.choose(model, version).identity.digest]
        try:
            rows = await self._prepare(pictures, served.model.metadata.input, deadline)
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

    def choose(self, model: str | None, version: str | None) -> LoadedModel:
        """The model that answers a request; raises `ModelNotFound`."""
        return self.repository.get(model or self._settings.default_model, version)

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
                    decode(picture, max_pixels=self._settings.max_image_pixels, at_least=at_least)
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

    async def start(self) -> None:
        """Begin to form batches and to watch them."""
        for versions in self.repository.models.values():
            for loaded in versions.values():
                self._served[loaded.identity.digest] = self._serve(loaded)
        await self._check_all()
        self._heartbeat = asyncio.create_task(self._watch())

    def _serve(self, loaded: LoadedModel) -> Served:
        identity, settings = loaded.identity, self._settings
        counts = ModelMetrics(self._metrics, identity.name, identity.version, identity.labels)
        self._metrics.cell(
            "convoy_model_info",
            identity.name, identity.version, identity.digest, loaded.engine.provider, loaded.precision,
        ).set(1)  # fmt: skip
        batcher = BATCHERS["dynamic"](
            loaded.engine.run,
            max_batch_size=loaded.engine.max_batch_size,
            batch_sizes=loaded.engine.padded_sizes,
            max_queue_delay_ms=settings.max_queue_delay_ms,
            queue_capacity=settings.queue_capacity,
            queue_bytes=settings.queue_bytes,
            observer=counts,
        )
        return Served(loaded, batcher, counts)

    async def stop(self) -> None:
        """Answer what is queued, up to the drain timeout, and refuse the rest."""
        self.draining = True
        if self._heartbeat:
            self._heartbeat.cancel()
        await asyncio.gather(
            *(served.batcher.stop(self._settings.drain_timeout_ms / 1000) for served in self._served.values())
        )
        for served in self._served.values():
            served.model.engine.close()

    def check_ready(self) -> None:
        """Raise `NotReady` unless the default model's last inference, at most two heartbeats ago, was good."""
        if not self.repository.models:
            raise NotReady("No model is loaded.")
        if self._heartbeat is None or self._heartbeat.done():
            raise NotReady("The service is not started, or the task that watches its models has ended.")
        if reason := self._unwell.get(self._settings.default_model):
            raise NotReady(reason)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            await self._check_all()

    async def _check_all(self) -> None:
        for name in self.repository.models:
            active = self.repository.get(name)
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._served[active.identity.digest].batcher.submit(active.canary)
            except TimeoutError:
                self._unwell[name] = f"The model {name} has not answered for {HEARTBEAT_S:.0f} s."
            except Overloaded:
                continue  # busy is not unwell; the next heartbeat asks again
            except ServiceError as exc:
                self._unwell[name] = f"The model {name} fails: {exc.detail}"
            else:
                self._unwell.pop(name, None)


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
    identity = served.model.identity
    return [answer.failures.get(i) or Prediction(identity, p) for i, p in enumerate(answer.probabilities)]

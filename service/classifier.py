"""The whole flow: bytes → image → row → batch → probabilities → prediction. Open this first."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from service.batching import BATCHERS, DynamicBatcher
from service.decoding import decode
from service.errors import DeadlineExceeded, InvalidImage, NotReady, Overloaded, ServiceError
from service.metadata import InputSpec
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


class Classifier:
    """Models, their batchers, and the way through them."""

    def __init__(self, repository: ModelRepository, settings: Settings) -> None:
        self.repository, self._settings = repository, settings
        self._batchers: dict[str, DynamicBatcher] = {}  # by digest
        self._heartbeat: asyncio.Task[None] | None = None
        self._unwell: dict[str, str] = {}  # model name → why it can't answer
        self.draining = False

    async def classify(
        self,
        pictures: Sequence[Picture],
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
        chosen = self.choose(model, version)
        try:
            async with asyncio.timeout_at(deadline):
                rows = await self._prepare(pictures, chosen.metadata.input)
        except TimeoutError as exc:
            raise DeadlineExceeded(
                "The request's time was up before its images were decoded; allow more time or send fewer images."
            ) from exc
        good = [row for row in rows if not isinstance(row, InvalidImage)]
        if not good:
            return [row for row in rows if isinstance(row, InvalidImage)]
        answer = await self._batchers[chosen.identity.digest].submit(
            np.stack(good), priority=priority, deadline=deadline
        )
        outcomes = iter(
            answer.failures.get(i) or Prediction(chosen.identity, probabilities)
            for i, probabilities in enumerate(answer.probabilities)
        )
        return [row if isinstance(row, InvalidImage) else next(outcomes) for row in rows]

    def choose(self, model: str | None, version: str | None) -> LoadedModel:
        """The model that answers a request; raises `ModelNotFound`."""
        return self.repository.get(model or self._settings.default_model, version)

    async def _prepare(self, pictures: Sequence[Picture], spec: InputSpec) -> list[RGBImage | InvalidImage]:
        """Everything that can fail for one picture happens here, before the queue."""
        work = sum(len(p) if isinstance(p, bytes) else p.nbytes for p in pictures)
        if work <= INLINE_BYTES:
            return [self._row(picture, spec) for picture in pictures]
        return await asyncio.to_thread(lambda: [self._row(picture, spec) for picture in pictures])

    def _row(self, picture: Picture, spec: InputSpec) -> RGBImage | InvalidImage:
        try:
            image = (
                decode(
                    picture,
                    max_pixels=self._settings.max_image_pixels,
                    at_least=REDUCED_TO * max(spec.height, spec.width),
                )
                if isinstance(picture, bytes)
                else picture
            )
            return fit(image, height=spec.height, width=spec.width, resize_policy=spec.resize_policy)
        except InvalidImage as exc:
            return exc

    async def start(self) -> None:
        """Begin to form batches and to watch them."""
        for versions in self.repository.models.values():
            for loaded in versions.values():
                self._batchers[loaded.identity.digest] = BATCHERS["dynamic"](
                    loaded.engine.run,
                    max_batch_size=loaded.engine.max_batch_size,
                    batch_sizes=loaded.engine.padded_sizes,
                    max_queue_delay_ms=self._settings.max_queue_delay_ms,
                    queue_capacity=self._settings.queue_capacity,
                    queue_bytes=self._settings.queue_bytes,
                )
        await self._check_all()
        self._heartbeat = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Answer what is queued, up to the drain timeout, and refuse the rest."""
        self.draining = True
        if self._heartbeat:
            self._heartbeat.cancel()
        await asyncio.gather(
            *(batcher.stop(self._settings.drain_timeout_ms / 1000) for batcher in self._batchers.values())
        )
        for versions in self.repository.models.values():
            for loaded in versions.values():
                loaded.engine.close()

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
                    await self._batchers[active.identity.digest].submit(active.canary)
            except TimeoutError:
                self._unwell[name] = f"The model {name} has not answered for {HEARTBEAT_S:.0f} s."
            except Overloaded:
                continue  # busy is not unwell; the next heartbeat asks again
            except ServiceError as exc:
                self._unwell[name] = f"The model {name} fails: {exc.detail}"
            else:
                self._unwell.pop(name, None)

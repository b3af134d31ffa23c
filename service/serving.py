"""Loaded models → models that are served: each behind its batcher, counted, watched, and renewed while requests run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from service.batching import BATCHERS, DynamicBatcher
from service.counters import Cell
from service.engine import Engine
from service.errors import (
    DeviceLost,
    Draining,
    ModelNotFound,
    NotReady,
    OutOfMemory,
    Overloaded,
    ServiceError,
    StartupError,
)
from service.loading import LoadedModel
from service.metrics import Metrics, ModelMetrics
from service.queueing import Priority
from service.repository import Inventory, ModelRepository
from service.settings import Settings
from service.types import Probabilities, Rows, Run

HEARTBEAT_S = 5.0
HUNG = 6  # heartbeats in a row without any answer, a minute: the device never gives the call back
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Served:
    """A loaded model, the queues before it, and its counts."""

    loaded: LoadedModel
    batcher: DynamicBatcher
    bulk: DynamicBatcher  # for work that can wait; the same one where such work takes turns with requests
    counts: ModelMetrics

    def batcher_for(self, priority: Priority) -> DynamicBatcher:
        """Where rows of this priority wait."""
        return self.bulk if priority is Priority.BULK else self.batcher

    @property
    def row_bytes(self) -> int:
        """Pixels of one image, one byte per channel."""
        return self.loaded.metadata.input.height * self.loaded.metadata.input.width * 3


class ServedModels:
    """What requests are answered with."""

    def __init__(self, repository: ModelRepository, settings: Settings, metrics: Metrics) -> None:
        self.repository, self._settings, self._metrics = repository, settings, metrics
        self._served: dict[Engine, Served] = {}
        self._chosen: dict[tuple[str | None, str | None], Served] = {}  # what the last requests asked for
        self._heartbeat: asyncio.Task[None] | None = None
        self._retiring: dict[Engine, asyncio.Task[None]] = {}
        self._unwell: dict[str, str] = {}  # model name → why it can't answer
        self._silent: dict[str, int] = {}  # model name → heartbeats in a row without an answer
        self.changing = asyncio.Lock()  # one look at the repository after the other
        self.draining = False
        self.on_lost: Callable[[], None] = lambda: None  # called when a device has failed for good

    def choose(self, name: str | None = None, version: str | None = None) -> Served:
        """The model that answers a request, for as long as a request may last; raises `ModelNotFound`."""
        if (served := self._chosen.get((name, version))) is None:
            served = self._served[self.repository.get(name or self._settings.default_model, version).engine]
            self._chosen[name, version] = served
        return served

    async def start(self) -> None:
        """Begin to form batches and to watch the models."""
        for loaded in self.repository.inventory.models():
            self._served[loaded.engine] = self._serve(loaded)
        await self._check_all()
        self._heartbeat = asyncio.create_task(self._watch())

    async def reload(self) -> None:
        """Serve what the model repository holds now; a request never notices.

        New versions are verified and warmed beside those that serve, then take their place at once. Versions that are
        gone still answer the requests that chose them. Nothing changes when the default model could not serve any more.
        """
        async with self.changing:
            try:
                inventory = await asyncio.to_thread(self.repository.look)
            except StartupError as exc:
                logger.error("the models stay what they were: %s", exc)
                return
            except Exception:  # whatever it is, they can be looked at again
                logger.exception("the models stay what they were")
                return
            self.publish(inventory)

    def publish(self, inventory: Inventory) -> None:
        """Serve what was found, from the next request on; only by whoever holds `changing`."""
        current = {loaded.engine: loaded for loaded in inventory.models()}
        gone = self._served.keys() - current.keys() - self._retiring.keys()
        for engine in current.keys() - self._served.keys():
            self._served[engine] = self._serve(current[engine])
        self.repository.inventory = inventory
        self._chosen.clear()
        self._retiring |= {engine: asyncio.create_task(self._retire(self._served[engine])) for engine in gone}
        logger.info("models are up to date: %d served, %d retired", len(current), len(gone))

    async def stop(self) -> None:
        """Answer what is queued, up to the drain timeout, and refuse the rest."""
        self.draining = True
        for task in (self._heartbeat, *self._retiring.values()):
            if task:
                task.cancel()
        await asyncio.gather(*(self._close(served) for served in self._served.values()))

    def check_ready(self, name: str | None = None) -> None:
        """Raise `NotReady` unless the model's last inference, at most two heartbeats ago, was good.

        Without a name the default model is meant. Raises `Draining` when the process is about to stop.
        """
        if self.draining:
            raise Draining("The process is stopping; send requests to another instance.")
        if not self.repository.models:
            raise NotReady("No model is loaded.")
        if self._heartbeat is None or self._heartbeat.done():
            raise NotReady("The service is not started, or the task that watches its models has ended.")
        if any(engine.lost for engine in self._served):
            raise NotReady("A device has failed; the process that used it is about to be replaced.")
        if reason := self._unwell.get(name or self._settings.default_model):
            raise NotReady(reason)

    def _serve(self, loaded: LoadedModel) -> Served:
        counts = self._counts(loaded)
        batcher = bulk = self._batcher(loaded.engine, loaded.engine.run, counts)
        if loaded.engine.background:
            bulk = self._batcher(loaded.engine, loaded.engine.run_in_background, self._counts(loaded))
        self._info(loaded).set(1)
        return Served(loaded, batcher, bulk, counts)

    def _counts(self, loaded: LoadedModel) -> ModelMetrics:
        identity = loaded.identity
        return ModelMetrics(self._metrics, identity.name, identity.version, identity.labels)

    def _batcher(self, engine: Engine, run: Run, observer: ModelMetrics) -> DynamicBatcher:
        settings = self._settings
        return BATCHERS["dynamic"](
            partial(self._run, run),
            max_batch_size=engine.max_batch_size,
            batch_sizes=engine.padded_sizes,
            max_queue_delay_ms=settings.max_queue_delay_ms,
            queue_capacity=settings.queue_capacity,
            queue_bytes=settings.queue_bytes,
            observer=observer,
        )

    async def _run(self, run: Run, rows: Rows) -> Probabilities:
        """The engine's answer; a device that fails for good is told at once, not when the next heartbeat finds out."""
        try:
            return await run(rows)
        except DeviceLost:
            self.on_lost()
            raise

    def _info(self, loaded: LoadedModel) -> Cell:
        identity, engine = loaded.identity, loaded.engine
        labels = (identity.name, identity.version, identity.digest, engine.provider, engine.precision)
        return self._metrics.cell("convoy_model_info", *labels)

    async def _retire(self, served: Served) -> None:
        await asyncio.sleep(self._settings.request_timeout_ms / 1000)  # no request that chose it is left by then
        del self._served[served.loaded.engine]
        if all(other.loaded.identity != served.loaded.identity for other in self._served.values()):
            self._info(served.loaded).set(0)
        await self._close(served)
        del self._retiring[served.loaded.engine]

    async def _close(self, served: Served) -> None:
        batchers = {served.batcher, served.bulk}
        await asyncio.gather(*(batcher.stop(self._settings.drain_timeout_ms / 1000) for batcher in batchers))
        served.loaded.engine.close()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            await self._check_all()
            if any(engine.lost for engine in self._served):
                self.on_lost()

    async def _check_all(self) -> None:
        for name in self.repository.models:
            try:
                active = self.choose(name)
            except ModelNotFound:  # unloaded while another was asked
                continue
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await active.batcher.submit(active.loaded.canary, counted=False)
            except OutOfMemory as exc:  # not even for one image
                self._unwell[name] = f"The model {name} fails: {exc.detail}"
                continue
            except (TimeoutError, Overloaded):  # it waits behind others, or may not even wait: busy is not unwell
                if asyncio.get_running_loop().time() - active.batcher.succeeded > HEARTBEAT_S:
                    await self._note_silence(active)
                    continue
            except ServiceError as exc:
                self._unwell[name] = f"The model {name} fails: {exc.detail}"
                continue
            self._unwell.pop(name, None)
            self._silent.pop(name, None)

    async def _note_silence(self, served: Served) -> None:
        """Nothing came back lately; what has not for `HUNG` heartbeats never will, and nobody need wait for it."""
        name = served.loaded.identity.name
        self._unwell[name] = f"The model {name} has not answered for {HEARTBEAT_S:.0f} s."
        self._silent[name] = self._silent.get(name, 0) + 1
        if self._silent[name] == HUNG:
            logger.critical("the model %s has not answered for %d heartbeats; its device is given up", name, HUNG)
            served.loaded.engine.lost = True
            await asyncio.gather(served.batcher.stop(0), served.bulk.stop(0))

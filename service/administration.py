"""Which versions serve, changed while requests run: proven first, then kept, then served by every worker process.

A change that can't be made raises `ModelNotFound`, `Conflict` or `StorageFailed`, and everything stays as it was.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Set
from pathlib import Path

from service.choices import Choice, one_at_a_time
from service.errors import Conflict, ModelNotFound, ServiceError, StorageFailed
from service.repository import Inventory
from service.serving import ServedModels

Change = Callable[[Choice], Choice]
logger = logging.getLogger(__name__)


async def _nobody() -> None:
    """There are no siblings to be told."""


class Administration:
    """What an operator may do to the models that are served."""

    def __init__(self, models: ServedModels) -> None:
        self._models, self._repository = models, models.repository
        self.spread: Callable[[], Awaitable[None]] = _nobody  # ends once the other processes have looked, too

    async def load(self, name: str, version: str) -> None:
        """Serve the version to those who name it; what is active stays so."""

        def change(choice: Choice) -> Choice:
            return Choice(choice.active or self._active(name), choice.unloaded - {version})

        await self._change(name, {version}, {version}, change)

    async def activate(self, name: str, version: str) -> None:
        """Let the version answer those who name none, loading it if need be."""
        await self._change(name, {version}, {version}, lambda choice: Choice(version, choice.unloaded - {version}))
        logger.info("model %s/%s is active", name, version)

    async def unload(self, name: str, version: str) -> None:
        """Serve the version no more; raises `Conflict` for the active one as long as there are others."""

        def change(choice: Choice) -> Choice:
            active = choice.active or self._active(name)
            if version == active and len(self._repository.versions(name)) > 1:
                raise Conflict("This version is the active one; activate another first, then unload it.")
            return Choice(None if version == active else choice.active, choice.unloaded | {version})

        await self._change(name, {version}, set(), change)

    async def load_all(self, name: str) -> None:
        """Serve every version of the model, and raise `Conflict` unless all that are there can."""
        versions = self._repository.stored(name)
        await self._change(name, versions, versions, lambda choice: Choice(choice.active))

    async def unload_all(self, name: str) -> None:
        """Serve no version of the model."""
        versions = self._repository.stored(name)
        await self._change(name, versions, set(), lambda _: Choice(unloaded=frozenset(versions)))

    def _active(self, name: str) -> str | None:
        return self._repository.active_version(name) if name in self._repository.models else None

    async def _change(self, name: str, named: Set[str], must_serve: Set[str], change: Change) -> None:
        if not named or not named <= self._repository.stored(name):
            raise ModelNotFound("There is no such version in the model repository; /v1/models lists all.")
        making = asyncio.create_task(self._make(name, must_serve, change))
        try:
            await asyncio.wait([making])
        except asyncio.CancelledError:  # the client gave up (gRPC); made by half, it would be kept and served by nobody
            making.add_done_callback(_log_failure)
            raise
        making.result()

    async def _make(self, name: str, must_serve: Set[str], change: Change) -> None:
        async with self._models.changing:
            inventory = await asyncio.to_thread(self._prove_and_keep, name, must_serve, change)
            self._models.publish(inventory)
        await self.spread()

    def _prove_and_keep(self, name: str, must_serve: Set[str], change: Change) -> Inventory:
        """What is served from now on: every version of it has been loaded, checked and warmed."""
        folder = self._repository.root / name
        with one_at_a_time(folder):
            wanted = change(_read(folder))
            inventory = self._repository.find({name: wanted})
            try:
                self._check(inventory, name, must_serve)
                _keep(wanted, folder)
            except (Conflict, StorageFailed):
                self._repository.discard(inventory)
                raise
        return inventory

    def _check(self, inventory: Inventory, name: str, must_serve: Set[str]) -> None:
        if reasons := list(self._objections(inventory, name, must_serve)):
            raise Conflict("Everything stays as it was: " + "; ".join(reason.rstrip(".") for reason in reasons) + ".")
        if self._repository.default not in inventory.loaded:
            raise Conflict("The default model must have a version that serves; leave it one.")

    def _objections(self, inventory: Inventory, name: str, must_serve: Set[str]) -> Iterator[str]:
        """Why versions can't serve, now or after a restart."""
        for version in sorted(must_serve):
            loaded = inventory.loaded.get(name, {}).get(version)
            if loaded is None:
                yield f"version {version} can't serve: {inventory.failed.get((name, version), 'it is gone')}"
            elif damage := self._repository.damage(loaded):
                yield f"version {version} can't serve: {damage}"


def _log_failure(making: asyncio.Task[None]) -> None:
    """Why the change was not made, which nobody else hears."""
    if not making.cancelled() and (error := making.exception()):
        told = None if isinstance(error, ServiceError) else error
        logger.error("a client gave up, and its change of models was not made: %s", error, exc_info=told)


def _read(folder: Path) -> Choice:
    try:
        return Choice.read(folder)
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else exc  # without the path
        raise Conflict(f"What is kept of earlier choices can't be read; mend it: {why}.") from exc


def _keep(wanted: Choice, folder: Path) -> None:
    try:
        wanted.write(folder)
    except OSError as exc:
        logger.exception("the choice can't be kept")
        raise StorageFailed(
            "The choice can't be kept, since the model repository can't be written to; let the service write there."
        ) from exc

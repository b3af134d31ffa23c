"""GET /metrics: everything that is counted, exact over all worker processes, and the batches that are kept."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from fastapi import APIRouter, Response

from service.api.threads import added_up
from service.jobs.store import Store
from service.metrics import MEDIA_TYPE, Metrics

PATIENCE_S = 1.0  # with the database, which another process may hold for much longer, and a disk for ever


class KeptBatches:
    """How many there are of each status: as many as there were last where that can't be learned soon."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._counts: dict[str, int] = {}  # none before the first look
        self._look: asyncio.Task[None] | None = None

    async def counts(self) -> dict[str, int]:
        """Of each status; a look that takes long goes on, and there is no second one beside it."""
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._renew())
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.shield(self._look)
        return self._counts

    async def _renew(self) -> None:
        self._counts = await asyncio.to_thread(self._store.counts)


def router(metrics: Metrics, store: Store) -> APIRouter:
    """The route, bound to the numbers it shows."""
    routes, kept = APIRouter(tags=["health"]), KeptBatches(store)

    @routes.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def show() -> Response:
        """Prometheus' text format."""
        counts = await kept.counts()
        batches: dict[tuple[str, ...], float] = {("convoy_batches", status): count for status, count in counts.items()}
        return Response(await added_up(metrics.render, batches), media_type=MEDIA_TYPE)

    return routes

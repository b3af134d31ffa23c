"""GET /metrics: everything that is counted, exact over all worker processes, and the batches that are kept."""

from __future__ import annotations

from asyncio import to_thread

from fastapi import APIRouter, Response

from service.jobs.store import Store
from service.metrics import MEDIA_TYPE, Metrics


def router(metrics: Metrics, store: Store) -> APIRouter:
    """The route, bound to the numbers it shows."""
    routes = APIRouter(tags=["health"])

    @routes.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def show() -> Response:
        """Prometheus' text format."""
        counts = await to_thread(store.counts)
        batches: dict[tuple[str, ...], float] = {("convoy_batches", status): count for status, count in counts.items()}
        return Response(metrics.render(batches), media_type=MEDIA_TYPE)

    return routes

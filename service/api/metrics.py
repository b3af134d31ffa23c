"""GET /metrics: everything that is counted, exact over all worker processes."""

from __future__ import annotations

from fastapi import APIRouter, Response

from service.metrics import MEDIA_TYPE, Metrics


def router(metrics: Metrics) -> APIRouter:
    """The route, bound to the numbers it shows."""
    routes = APIRouter(tags=["health"])

    @routes.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def show() -> Response:
        """Prometheus' text format."""
        return Response(metrics.render(), media_type=MEDIA_TYPE)

    return routes

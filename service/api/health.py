"""GET /livez and /readyz. Neither waits behind work: readiness is read, not measured, by the probe."""

from __future__ import annotations

from fastapi import APIRouter

from service import errors
from service.api import problems
from service.api.bodies import Status
from service.serving import ServedModels


def router(served: ServedModels) -> APIRouter:
    """The probes, bound to the core they ask."""
    routes = APIRouter(tags=["health"])

    @routes.head("/livez", response_model_exclude_none=True, include_in_schema=False)  # as probes of uptime ask
    @routes.get("/livez", response_model_exclude_none=True)
    async def livez() -> Status:
        """The process answers."""
        return Status(status="live")

    @routes.head("/readyz", response_model_exclude_none=True, include_in_schema=False)
    @routes.get(
        "/readyz",
        response_model_exclude_none=True,
        responses=problems.documented(errors.NotReady, errors.Draining),
    )
    async def readyz() -> Status:
        """The default model answered lately, on the provider it serves with, and the process is not about to stop."""
        served.check_ready()
        engine = served.choose().loaded.engine
        return Status(status="ready", provider=engine.provider, precision=engine.precision)

    return routes

"""The names in a query: a misspelt one would be no error anywhere else, and the answer another than was asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fastapi import Request
from fastapi.routing import APIRoute

from service.errors import MalformedRequest


def check_names(given: Iterable[str], known: Sequence[str]) -> None:
    """Raise `MalformedRequest` unless all names `given` are `known`."""
    for name in given:
        if name not in known:
            there_are = f"known are {', '.join(known)}" if known else "leave the query out"
            raise MalformedRequest(f"query {name}: it is not known here; {there_are}.")


def only_declared(request: Request) -> None:
    """The same for a route of FastAPI's, as a dependency of its router: known is what the route declares."""
    route = request.scope["route"]
    assert isinstance(route, APIRoute)
    check_names(request.query_params, [parameter.alias for parameter in route.dependant.query_params])

"""What several routes ask for in a query or a header, and names there that mean nothing.

A misspelt name would be no error anywhere else, and the answer another than was asked for. What nobody here can have
meant is left alone: gateways, trackers and those who go around caches add names of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from itertools import islice
from typing import Annotated

from fastapi import Header, Query, Request
from fastapi.routing import APIRoute

from service.coverage import Coverage, coverage_of
from service.errors import MalformedRequest
from service.loading import LoadedModel
from service.prediction import ModelIdentity

Model = Annotated[str | None, Query(description="Default: the configured model.")]
Version = Annotated[str | None, Query(description="Default: the active version.")]
TopK = Annotated[int | None, Query(ge=1, description="Only the k most probable classes, in falling order.")]
CoverageAsked = Annotated[
    float | None,
    Query(
        alias="coverage",
        description="Adds to each prediction the set of classes that holds the true one with this probability. "
        "One of those that the model's metadata has thresholds for.",
        examples=[0.95],
    ),
]
TimeoutMs = Annotated[int | None, Header(alias="X-Request-Timeout-Ms", ge=1, description="This request's deadline.")]

ANYWHERE = {"model", "version", "top_k", "coverage", "limit", "after", "format", "follow"}  # at one route, or more
OTHERS = {"api_version", "session"}  # as much like one of them, but gateways send them
ALIKE = 0.66  # from 0 to 1, in the measure of difflib: model_name is like model, and fmt like format
MOST_NAMES, MOST_LETTERS = 16, 16  # that are compared: it takes a while, and a query may have thousands


def check_names(given: Iterable[str], known: Sequence[str]) -> None:
    """Raise `MalformedRequest` for a name that is not `known` here, but at another route, or much like a known one."""
    unknown = (name for name in given if name not in known and len(name) <= MOST_LETTERS)
    for name in islice(unknown, MOST_NAMES):
        plain = name.lower().replace("-", "_")
        alike = [] if plain in OTHERS else get_close_matches(plain, known, 1, ALIKE)
        if alike or plain in ANYWHERE:
            meant = f" (is {alike[0]} meant?)" if alike else ""
            there_are = f"known are {', '.join(known)}" if known else "leave it out"
            raise MalformedRequest(f"query {name}: it is not known here{meant}; {there_are}.")


def check_top_k(top_k: int | None, model: ModelIdentity) -> None:
    """Raise `MalformedRequest` for more classes than the model has."""
    if top_k is not None and top_k > len(model.labels):
        raise MalformedRequest(f"query top_k: the model has {len(model.labels)} classes; ask for at most that many.")


def check_coverage(asked: str | float | None, model: LoadedModel) -> Coverage | None:
    """The prediction sets asked for, of the file that serves; raises `MalformedRequest` where it has none such."""
    if asked is None:
        return None
    try:
        return coverage_of(model.metadata, model.engine.precision, asked)
    except ValueError as exc:
        raise MalformedRequest(f"query coverage: {exc}") from exc


def only_declared(request: Request) -> None:
    """The same for a route of FastAPI's, as a dependency of its router: known is what the route declares."""
    route = request.scope["route"]
    assert isinstance(route, APIRoute)
    check_names(request.query_params, [parameter.alias for parameter in route.dependant.query_params])

"""Responses → answers, or what the service has to say against a request."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import numpy as np

from service.types import Probabilities


@dataclass(frozen=True, slots=True)
class Model:
    """Which weights answered."""

    name: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class Answer:
    """One image's prediction: calibrated probabilities by label, and the prediction set where `coverage` was asked."""

    label: str
    probability: float
    probabilities: Mapping[str, float]
    prediction_set: tuple[str, ...] | None
    model: Model


class Refused(Exception):
    """What is wrong with a request, or with one image of several: `slug` names its kind, the text says what to do."""

    def __init__(self, slug: str, detail: str, status: int | None = None, request_id: str | None = None) -> None:
        super().__init__(detail)
        self.slug, self.status, self.request_id = slug, status, request_id


class Unreachable(Exception):
    """Nobody answered, as often as was asked."""


def accepted(response: httpx2.Response) -> httpx2.Response:
    """The response, where it is an answer; raises `Refused` where it is a problem."""
    if response.status_code == httpx2.codes.OK:
        return response
    with _understood(response):
        problem = response.json()
        slug, detail = str(problem["type"]).rpartition("/")[2], str(problem["detail"])
    raise Refused(slug, detail, response.status_code, response.headers.get("x-request-id"))


def predictions(response: httpx2.Response) -> list[Answer | Refused]:
    """One for each image, in order; raises `Refused` for what is no answer of Convoy's."""
    with _understood(response):
        document = response.json()
        said = document["model"]  # of which a later version may tell more
        model = Model(said["name"], said["version"], said["digest"])
        return [_prediction(each, model) for each in document["predictions"]]


def only(answers: list[Answer | Refused]) -> Answer:
    """The prediction for one image."""
    (answer,) = answers
    if isinstance(answer, Refused):
        raise answer
    return answer


def probabilities(response: httpx2.Response) -> Probabilities:
    """float32 (N, classes); raises `Refused` for what is no answer of Convoy's."""
    with _understood(response):
        array: Probabilities = np.lib.format.read_array(io.BytesIO(response.content), allow_pickle=False)
        return array


@contextmanager
def _understood(response: httpx2.Response) -> Iterator[None]:
    """A proxy's page, or another service's answer, is told as such."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        detail = f"The answer has status {response.status_code} and is none of Convoy's; check the address."
        request_id = response.headers.get("x-request-id")
        raise Refused("unexpected-answer", detail, response.status_code, request_id) from exc


def _prediction(said: dict[str, Any], model: Model) -> Answer | Refused:
    if error := said.get("error"):
        return Refused(error["type"], error["detail"])
    chosen = said.get("prediction_set")
    prediction_set = None if chosen is None else tuple(chosen)
    return Answer(said["label"], said["probability"], said["probabilities"], prediction_set, model)

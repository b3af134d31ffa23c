"""The examples of the OpenAPI document are what the service could have answered."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest
from pydantic import BaseModel

from service.api import bodies, examples
from service.api.bodies import BatchStatus, ResultRow
from service.errors import InvalidImage
from service.explain import PLACES
from service.jobs.results import RESULTS

WITH_EXAMPLES = [
    kind
    for kind in vars(bodies).values()
    if inspect.isclass(kind) and issubclass(kind, BaseModel) and kind.model_config.get("json_schema_extra")
]


def check(kind: type[BaseModel], example: dict[str, Any]) -> None:
    """It has the shape, and nothing besides."""
    assert kind.model_validate(example, strict=True).model_dump(exclude_unset=True) == example


@pytest.mark.parametrize("kind", WITH_EXAMPLES)
def test_every_example_has_the_shape_that_it_is_of(kind: type[BaseModel]) -> None:
    for example in kind.model_json_schema()["examples"]:
        check(kind, example)


def test_every_event_is_a_batch() -> None:
    *events, rest = examples.EVENTS.split("\n\n")
    assert (len(events), rest) == (2, "")
    for event in events:
        check(BatchStatus, json.loads(event.removeprefix("data: ")))


def test_every_line_of_results_is_a_row() -> None:
    one, other = examples.NDJSON.splitlines()
    assert list(json.loads(one)) == ["index", "id", "label", "probability", "probabilities"]
    assert list(json.loads(other)) == ["index", "id", "error"]
    for line in (one, other):
        check(ResultRow, json.loads(line))


def test_the_rows_as_csv_are_the_same_rows() -> None:
    encoder = RESULTS["csv"].encoder(list(examples.CAT["probabilities"]), False)
    assert (encoder.encode(examples.NDJSON.encode()) + encoder.end()).decode() == examples.CSV


def test_probabilities_sum_to_one_and_the_label_is_the_most_probable() -> None:
    probabilities = examples.CAT["probabilities"]
    assert sum(probabilities.values()) == pytest.approx(1)
    assert max(probabilities, key=probabilities.get) == examples.CAT["label"]
    assert probabilities[examples.CAT["label"]] == examples.CAT["probability"]


def test_the_error_is_one_of_the_services() -> None:
    assert (examples.ERROR["type"], examples.ERROR["title"]) == (InvalidImage.slug, InvalidImage.title)


def test_the_squares_of_an_explanation_are_as_many_as_there_are() -> None:
    for name in ("grid", "probabilities"):
        rows = examples.EXPLAIN["occlusion"][name]
        assert (len(rows), {len(row) for row in rows}) == (PLACES, {PLACES})

"""A coverage asked for: prediction sets, and what is known of them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.coverage import coverage_of
from service.metadata import Evaluation, ModelMetadata, SetRecord
from service.settings import Settings
from tests.conftest import SIZE, THRESHOLDS, write_colour_model

NPY = "application/x-npy"
MIXED = ((200, 190, 0), (190, 200, 0), (255, 0, 0))  # 0.55, 0.45 and 0.01; the same for green; 0.99 and twice 0.006


def evaluation(split: str, sets: dict[str, SetRecord]) -> Evaluation:
    numbers = dict.fromkeys(("accuracy", "nll", "brier", "ece", "ece_uncalibrated"), 0.5)
    return Evaluation(
        split=split, precision="fp32", images=300, class_accuracy={}, prediction_sets=sets, command="none", **numbers
    )


@pytest.fixture
def client(settings: Settings, tmp_path: Path) -> Iterator[TestClient]:
    """Version 1 has no thresholds; version 2, the active one, was measured on both splits."""
    root = tmp_path / "models" / "colours"
    write_colour_model(root / "1")
    folder = write_colour_model(root / "2", thresholds=THRESHOLDS)
    metadata = ModelMetadata.read(folder)
    on_validation = {asked: SetRecord(coverage=0.93, mean_size=1.5) for asked in THRESHOLDS if asked != "0.99"}
    metadata.model_copy(
        update={
            "evaluations": (
                evaluation("test", {"0.95": SetRecord(coverage=0.94, mean_size=1.25)}),
                evaluation("validation", on_validation),
            ),
        }
    ).write(folder)
    with TestClient(create_app(settings.model_copy(update={"models_dir": tmp_path / "models"}))) as client:
        yield client


def test_thresholds_and_measurements_are_those_of_the_precision_that_serves(tmp_path: Path) -> None:
    metadata = ModelMetadata.read(write_colour_model(tmp_path / "1"))
    measured = evaluation("test", {"0.9": SetRecord(coverage=0.94, mean_size=1.25)})
    of_int8 = {"precision": "int8", "prediction_sets": {"0.9": SetRecord(coverage=0.91, mean_size=1.75)}}
    thresholds = {"fp32": {"0.9": 0.7}, "int8": {"0.9": 0.6}}
    both = metadata.model_copy(
        update={
            "calibration": metadata.calibration.model_copy(update={"thresholds": thresholds}),
            "evaluations": (measured, measured.model_copy(update=of_int8)),
        }
    )
    found = coverage_of(both, "int8", "0.9")
    assert (found.threshold, found.shown["measured"], found.shown["mean_size"]) == (0.6, 0.91, 1.75)


def ask(client: TestClient, coverage: str | None, accept: str = "*/*", **query: str) -> httpx2.Response:
    stream = io.BytesIO()
    np.save(stream, np.array(MIXED, np.uint8)[:, None, None].repeat(SIZE, 1).repeat(SIZE, 2))
    params = query if coverage is None else {"coverage": coverage, **query}
    return client.post(
        "/v1/predict", content=stream.getvalue(), headers={"content-type": NPY, "accept": accept}, params=params
    )


def sets(response: httpx2.Response) -> list[list[str]]:
    assert response.status_code == 200, response.text
    return [prediction["prediction_set"] for prediction in response.json()["predictions"]]


@pytest.mark.parametrize(
    ("coverage", "expected"),
    [
        ("0.9", [["red"], ["green"], ["red"]]),  # none of the first two reaches the threshold
        ("0.95", [["red", "green"], ["green", "red"], ["red"]]),
        ("0.990", [["red", "green", "blue"], ["green", "red", "blue"], ["red", "green", "blue"]]),
    ],
)
def test_a_set_is_what_reaches_the_threshold_in_falling_order_and_never_empty(
    client: TestClient, coverage: str, expected: list[list[str]]
) -> None:
    assert sets(ask(client, coverage)) == expected


def test_sets_do_not_depend_on_top_k(client: TestClient) -> None:
    response = ask(client, "0.95", top_k="1")
    assert sets(response)[0] == ["red", "green"]
    assert list(response.json()["predictions"][0]["probabilities"]) == ["red"]


@pytest.mark.parametrize(
    ("coverage", "told"),
    [
        ("0.95", {"asked": 0.95, "measured": 0.94, "mean_size": 1.25, "split": "test", "images": 300}),
        ("0.9", {"asked": 0.9, "measured": 0.93, "mean_size": 1.5, "split": "validation", "images": 300}),
        ("0.99", {"asked": 0.99}),  # never measured
    ],
)
def test_the_answer_says_what_was_measured_on_the_test_split_if_it_was(
    client: TestClient, coverage: str, told: dict[str, Any]
) -> None:
    assert ask(client, coverage).json()["coverage"] == told


def test_without_coverage_nothing_is_said_of_sets(client: TestClient) -> None:
    answer = ask(client, None).json()
    assert set(answer) == {"model", "predictions"}
    assert "prediction_set" not in answer["predictions"][0]


def test_an_image_that_fails_has_no_set(client: TestClient) -> None:
    pixel = "R0lGODdhAQABAIABAP///wAAACwAAAAAAQABAAACAkQBADs="
    response = client.post("/v1/predict?coverage=0.95", json={"images": ["%%%", pixel]})
    assert [("prediction_set" in prediction) for prediction in response.json()["predictions"]] == [False, True]


@pytest.mark.parametrize("coverage", ["0.5", "1", "95%", "nan", "", "much"])
def test_other_values_are_refused_with_those_that_are_allowed(client: TestClient, coverage: str) -> None:
    response = ask(client, coverage)
    assert (response.status_code, response.json()["type"]) == (400, "/problems/malformed-request")
    assert "0.9, 0.95, 0.99" in response.json()["detail"]


def test_a_model_without_thresholds_says_so(client: TestClient) -> None:
    response = ask(client, "0.95", version="1")
    assert (response.status_code, response.json()["type"]) == (400, "/problems/malformed-request")
    assert "no thresholds" in response.json()["detail"]


def test_an_array_can_not_hold_sets(client: TestClient) -> None:
    assert ask(client, "0.95", accept=NPY).status_code == 400
    assert ask(client, None, accept=NPY).status_code == 200

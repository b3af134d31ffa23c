"""Environment and command line → settings."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from service.settings import Settings
from tests.conftest import clear_environment


def test_the_environment_sets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    clear_environment(monkeypatch)
    monkeypatch.setenv("CONVOY_PORT", "8123")
    assert Settings().port == 8123


def test_an_argument_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVOY_PORT", "8123")
    assert Settings(port=9).port == 9


@pytest.mark.parametrize(
    ("name", "value"), [("port", "70000"), ("device", "tpu"), ("max_batch_size", "0"), ("host", None)]
)
def test_nonsense_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValidationError):
        Settings(**{name: value})  # type: ignore[arg-type]


def test_more_images_than_the_queue_holds_are_refused() -> None:
    with pytest.raises(ValidationError, match="queue_capacity"):
        Settings(max_images_per_request=100, queue_capacity=99)

"""Environment and command line → settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from service.settings import Settings, load
from tests.conftest import clear_environment


def test_the_environment_sets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    clear_environment(monkeypatch)
    monkeypatch.setenv("CONVOY_PORT", "8123")
    assert Settings().port == 8123


def test_an_argument_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVOY_PORT", "8123")
    assert Settings(port=9).port == 9


@pytest.mark.parametrize(
    ("name", "value"), [("port", "70000"), ("device", "tpu"), ("max_batch_size", "-1"), ("host", None)]
)
def test_nonsense_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValidationError):
        Settings(**{name: value})  # type: ignore[arg-type]


def test_more_images_than_the_queue_holds_are_refused() -> None:
    with pytest.raises(ValidationError, match="queue_capacity"):
        Settings(max_images_per_request=100, queue_capacity=99)


def test_a_file_comes_after_the_environment_and_the_environment_after_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clear_environment(monkeypatch)
    file = tmp_path / "convoy.env"
    file.write_text("# found by convoy tune\nCONVOY_WORKERS=3\nCONVOY_THREADS=4\nCONVOY_PORT=5\n")
    monkeypatch.setenv("CONVOY_THREADS", "6")
    monkeypatch.setenv("CONVOY_PORT", "7")
    settings = load({"port": "8"}, file)
    assert (settings.workers, settings.threads, settings.port) == (3, 6, 8)


def test_nonsense_in_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "convoy.env").write_text("CONVOY_WORKERS=many\n")
    with pytest.raises(ValueError, match=r"--workers \(or CONVOY_WORKERS\): "):
        load({}, tmp_path / "convoy.env")
    with pytest.raises(ValueError, match="There is no settings file"):
        load({}, tmp_path / "other.env")

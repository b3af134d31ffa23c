"""The compose file and the settings: which of them reach the service in its container."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from service.bench.tune import Candidate
from service.settings import Settings

COMPOSE = yaml.safe_load((Path(__file__).parents[3] / "docker-compose.yml").read_text())
OF_THE_CONTAINER = {
    "host", "port", "grpc_port",  # what is published
    "models_dir", "jobs_dir",  # what is mounted
    "api_keys_file", "admin_keys_file",  # secrets
    "device",  # which of the two images it is
}  # fmt: skip


def passed_on(service: dict[str, Any]) -> set[str]:
    """The settings that have the value that they have outside, if any."""
    return {name.removeprefix("CONVOY_").lower() for name, value in service["environment"].items() if value is None}


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_every_setting_that_is_not_the_containers_own_is_passed_on(name: str) -> None:
    assert passed_on(COMPOSE["services"][name]) == Settings.model_fields.keys() - OF_THE_CONTAINER


def test_what_tune_finds_is_passed_on() -> None:
    found = Candidate(workers=1, threads=1, max_queue_delay_ms=0.0).variables()
    assert {name.removeprefix("CONVOY_").lower() for name in found} <= passed_on(COMPOSE["services"]["cpu"])


def test_a_container_has_the_time_to_stop() -> None:
    grace_s = int(COMPOSE["services"]["cpu"]["stop_grace_period"].partition(":-")[2].removesuffix("s}"))
    stop_ms = (Settings.model_fields[f"{name}_ms"].default for name in ("lame_duck", "drain_timeout"))
    assert grace_s > sum(stop_ms) / 1000 + 5  # which the supervisor waits before it kills a worker

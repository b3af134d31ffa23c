"""`docker compose up --wait`, a prediction, `docker compose down`."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.command import EXAMPLE
from tests.container.conftest import ROOT
from tests.container.containers import docker, free_port

PROJECT = "convoy-test"


def compose(*arguments: str, port: int = 8000, keys: str = "", **settings: str) -> str:
    command = [
        "env",
        *(f"CONVOY_{name.upper()}={value}" for name, value in settings.items()),
        f"CONVOY_PORT={port}",
        f"CONVOY_API_KEYS={keys}",
        "docker",
        "compose",
        "--project-name",
        PROJECT,
        *arguments,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def port(image: str) -> Iterator[int]:  # noqa: ARG001 - compose takes the image that is there
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("Docker has no compose here")
    yield free_port()
    compose("down", "--volumes", "--timeout", "60")


def answer(port: int, **headers: str) -> dict[str, Any]:
    """What is answered for the example; raises `HTTPError`."""
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/predict", EXAMPLE.read_bytes(), {"Content-Type": "image/png", **headers}
    )
    with urllib.request.urlopen(asked, timeout=60) as response:
        told: dict[str, Any] = json.load(response)
        return told


def test_keys_become_a_secret_of_the_container_and_settings_reach_it(port: int, tmp_path: Path) -> None:
    key, file = "0123456789abcdef", tmp_path / "keys.txt"
    file.write_text(key)
    compose("up", "--wait", "--no-build", port=port, keys=str(file), default_model="cifar10-small")
    with pytest.raises(urllib.error.HTTPError, match="401") as refused:
        answer(port)
    refused.value.close()
    told = answer(port, Authorization=f"Bearer {key}")
    assert (told["model"]["name"], told["predictions"][0]["label"]) == ("cifar10-small", "ship")


def test_compose_brings_a_service_up_and_down(port: int) -> None:
    compose("up", "--wait", "--no-build", port=port)
    assert answer(port)["predictions"][0]["label"] == "ship"
    service = json.loads(compose("ps", "--format", "json"))
    (container,) = json.loads(docker("inspect", service["ID"]))
    limits = container["HostConfig"]
    assert limits["ReadonlyRootfs"]
    assert limits["Memory"] == 4 << 30
    assert limits["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "3"}
    assert limits["RestartPolicy"]["Name"] == "unless-stopped"
    compose("down", "--timeout", "60")
    assert not docker("ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={PROJECT}")


def test_the_settings_that_tune_found_reach_the_service(port: int, tmp_path: Path) -> None:
    (tmp_path / "convoy.env").write_text("# found by convoy tune\nCONVOY_WORKERS=3\n")
    told = compose("--env-file", str(tmp_path / "convoy.env"), "config", "--format", "json", port=port)
    environment = json.loads(told)["services"]["cpu"]["environment"]
    assert environment["CONVOY_WORKERS"] == "3"
    assert environment.get("CONVOY_THREADS") is None


@pytest.mark.usefixtures("port")
def test_every_profile_is_well_formed() -> None:
    services = json.loads(compose("--profile", "gpu", "--profile", "monitoring", "config", "--format", "json"))[
        "services"
    ]
    assert services.keys() == {"cpu", "gpu", "prometheus", "grafana"}
    (device,) = services["gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    for service in services.values():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert all(port["host_ip"] == "127.0.0.1" for port in service["ports"])
        assert service["restart"] == "unless-stopped"
        assert service["logging"]["options"]["max-size"]
        assert service["mem_limit"]

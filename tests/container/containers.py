"""A container as it is meant to run: no privileges, a file system that can't be written."""

from __future__ import annotations

import itertools
import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

CONFINED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network", "host")
PATIENCE_S = 300.0  # a machine may be busy with other things
ASKED_BY_CLIENT = 50  # times, before Docker is asked whether there is anything left to wait for


def docker(*arguments: str) -> str:
    """What the command prints; the test fails where it fails."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def until(condition: Callable[[], bool]) -> None:
    """Wait for it; another process can't be asked to say when."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


class Container:
    """A started container."""

    def __init__(self, image: str, *options: str, port: int = 0, command: tuple[str, ...] = ()) -> None:
        self.port = port or free_port()
        settings = ("--env", "CONVOY_HOST=127.0.0.1", "--env", f"CONVOY_PORT={self.port}")
        self.id = docker("run", "--detach", *CONFINED, *settings, *options, image, *command).strip()

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(docker("inspect", "--format", "{{json .State}}", self.id))
        return found

    @property
    def log(self) -> str:
        done = subprocess.run(["docker", "logs", self.id], capture_output=True, text=True, check=True)
        return done.stdout + done.stderr

    def python(self, program: str) -> str:
        """What a program prints inside."""
        return docker("exec", self.id, "python", "-c", program)

    def wait_until_healthy(self) -> None:
        """As Docker sees it."""

        def healthy() -> bool:
            state = self.state
            assert state["Running"], self.log
            return bool(state["Health"]["Status"] == "healthy")

        until(healthy)

    def wait_until_ready(self) -> None:
        """As a client sees it, which costs the machine less than to ask Docker."""
        asked = itertools.count(1)

        def ready() -> bool:
            try:
                self.request("/readyz")
            except urllib.error.HTTPError as not_yet:
                not_yet.close()
            except OSError:
                pass  # nobody listens there yet
            else:
                return True
            assert next(asked) % ASKED_BY_CLIENT or self.state["Running"], self.log
            return False

        until(ready)

    def request(
        self, path: str, body: bytes | None = None, media_type: str = "application/octet-stream"
    ) -> dict[str, Any]:
        """The JSON that answers."""
        url = f"http://127.0.0.1:{self.port}{path}"
        asked = urllib.request.Request(url, body, {"Content-Type": media_type})
        with urllib.request.urlopen(asked, timeout=60) as response:
            answer: dict[str, Any] = json.load(response)
        return answer

    def stop(self) -> int:
        """SIGTERM, as `docker stop` sends it; the exit status."""
        docker("stop", "--time", "60", self.id)
        status: int = self.state["ExitCode"]
        return status


@contextmanager
def running(image: str, *options: str, port: int = 0, command: tuple[str, ...] = ()) -> Iterator[Container]:
    container = Container(image, *options, port=port, command=command)
    try:
        yield container
    finally:
        docker("rm", "--force", "--volumes", container.id)

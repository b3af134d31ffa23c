"""`convoy serve` as its users run it: real processes behind a real port."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

WORKERS = 2


class Convoy:
    """A running `convoy serve`, with two workers unless told otherwise, and what it logs."""

    def __init__(self, models: Path, **settings: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CONVOY_")}
        usual = {"models_dir": str(models), "default_model": "colours", "device": "cpu", "port": "0"}
        given = usual | {"workers": str(WORKERS)} | settings
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service", "serve"],
            env=environment | {f"CONVOY_{name.upper()}": value for name, value in given.items()},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout
        line = self.process.stdout.readline()
        self.port = int(line.partition("http://127.0.0.1:")[2].partition(" ")[0]) if line else 0
        self.grpc = f"127.0.0.1:{line.partition('gRPC: 127.0.0.1:')[2].partition(')')[0]}"
        self._open = ExitStack()
        self.log: list[str] = []
        self.logged = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            with self.logged:
                self.log.append(line)
                self.logged.notify_all()

    def wait_for(self, text: str, times: int = 1) -> None:
        """Until so many lines with `text` have been logged."""
        with self.logged:
            enough = self.logged.wait_for(lambda: sum(text in line for line in self.log) >= times, timeout=60)
            assert enough, self.log

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        self._open.callback(connection.close)
        return connection

    def workers(self) -> list[int]:
        """Process ids of the workers."""
        return children(self.process.pid)

    def kill(self) -> None:
        """SIGKILL to the parent first, so that it starts no more workers, then to them and what they have started."""
        family = [self.process.pid]
        for pid in family:
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended, or does while it is read
                family += children(pid)
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """Leave nothing behind, however the test went."""
        self._open.close()
        if self.process.poll() is None:
            self.kill()
        self._reader.join()
        self.process.communicate()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def children(pid: int) -> list[int]:
    """Process ids of what the process has started and not outlived."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def running(models: Path, **settings: str) -> Iterator[Convoy]:
    convoy = Convoy(models, **settings)
    try:
        yield convoy
    finally:
        convoy.close()

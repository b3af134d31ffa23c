"""For every test of the service in its own process."""

from __future__ import annotations

import errno
import io
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from service import serving


@pytest.fixture(autouse=True)
def rare_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model is looked after while a test looks, and a busy machine may take seconds to answer."""
    monkeypatch.setattr(serving, "HEARTBEAT_S", 60.0)


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """`convoy serve` lets SIGHUP wait."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def noting_threads(function: Callable[..., Any], threads: list[str]) -> Callable[..., Any]:
    """The same, which adds the name of the pool whose thread calls it to `threads`."""

    def call(*arguments: object) -> object:
        threads.append(threading.current_thread().name.partition("_")[0])
        return function(*arguments)

    return call


class Nobody(io.StringIO):
    """A stream that no one reads any more."""

    def write(self, _text: str) -> int:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

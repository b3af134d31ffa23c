"""Signals and memory."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from training.process import keep_freed_memory, orderly_end, stop_requests


@pytest.fixture(autouse=True)
def _heeded() -> Iterator[None]:
    """No signal is ignored, whoever has started the tests, and none ends them."""
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, action in before.items():
        signal.signal(number, action)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_noted_and_nothing_else(number: int) -> None:
    with stop_requests() as stop_requested:
        assert not stop_requested()
        os.kill(os.getpid(), number)
        assert stop_requested()


@pytest.mark.parametrize("within", [stop_requests, orderly_end])
def test_what_nohup_ignores_stays_ignored(within: Callable[[], AbstractContextManager[object]]) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with within() as stop_requested:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not (callable(stop_requested) and stop_requested())
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_ends_a_command_lets_it_tidy_up(number: int) -> None:
    before, tidied = signal.getsignal(number), list[bool]()

    def command() -> None:
        try:
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), number)  # it does not end this
            tidied.append(True)

    with pytest.raises(KeyboardInterrupt), orderly_end():
        command()
    assert tidied
    assert signal.getsignal(number) == before


def test_a_second_ctrl_c_ends_at_once() -> None:
    with stop_requests():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_time_that_is_up_is_a_stop_request() -> None:
    with stop_requests(time_budget_s=0) as stop_requested:
        assert stop_requested()
    with stop_requests(time_budget_s=1_000) as stop_requested:
        assert not stop_requested()


def test_keeping_memory_does_no_harm() -> None:
    keep_freed_memory()
    assert len(bytearray(100 << 20)) == 100 << 20

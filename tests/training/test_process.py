"""Signals and memory."""

from __future__ import annotations

import os
import signal

import pytest

from training.process import keep_freed_memory, stop_requests


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_and_nothing_else(number: int) -> None:
    with stop_requests() as stop_requested:
        assert not stop_requested()
        os.kill(os.getpid(), number)
        assert stop_requested()


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

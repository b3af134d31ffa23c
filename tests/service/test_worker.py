"""One copy of the service, as its parent starts it."""

from __future__ import annotations

import io
import os
import signal
import sys
from unittest.mock import Mock, call

import pytest

from service import telemetry, worker
from service.counters import STRIP_BYTES, Counters
from service.errors import StartupError
from service.settings import Settings


@pytest.mark.parametrize(("number", "tells"), [(0, 1), (1, 0), (1, 1)])
def test_it_knows_its_number_and_whether_it_is_to_say_why_it_cannot_start(
    number: int, tells: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[Settings, int]] = []

    def create_app(settings: Settings, _counters: Counters, number: int) -> None:
        asked.append((settings, number))
        raise StartupError("There is no model.")

    settings = Settings(workers=2)
    monkeypatch.setattr(worker, "create_app", create_app)
    monkeypatch.setattr(telemetry, "configure", lambda _format: None)
    monkeypatch.setattr(sys, "stdin", io.StringIO(settings.model_dump_json()))
    memory = os.memfd_create("counters")
    os.ftruncate(memory, 2 * STRIP_BYTES)
    assert worker.main(-1, memory, number, tells) == 1
    os.close(memory)
    assert asked == [(settings, number)]
    assert capsys.readouterr().err == ("convoy: There is no model.\n" if tells else "")


def test_of_all_signals_that_the_whole_service_gets_only_sigterm_ends_it_while_it_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take_care = Mock()
    monkeypatch.setattr(signal, "signal", take_care)
    monkeypatch.setattr(sys, "stdin", io.StringIO("no settings"))
    with pytest.raises(ValueError, match="Invalid JSON"):
        worker.main(-1, -1, 0, 1)
    assert take_care.call_args_list == [call(signal.SIGINT, signal.SIG_IGN), call(signal.SIGHUP, signal.SIG_IGN)]

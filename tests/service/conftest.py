"""For every test of the service in its own process."""

from __future__ import annotations

import pytest

from service import serving


@pytest.fixture(autouse=True)
def rare_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model is looked after while a test looks, and a busy machine may take seconds to answer."""
    monkeypatch.setattr(serving, "HEARTBEAT_S", 60.0)

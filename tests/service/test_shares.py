"""What each client has under way, and no more than its share."""

from __future__ import annotations

import contextvars

import pytest

from service import shares
from service.errors import TooManyRequests
from service.shares import Shares


def as_client(name: bytes) -> contextvars.Context:
    context = contextvars.copy_context()
    context.run(shares.client.set, name)
    return context


def test_a_client_has_its_share_until_it_is_answered() -> None:
    limited = Shares(4)

    def scenario() -> None:
        with limited.hold(3):
            with limited.hold(1), pytest.raises(TooManyRequests, match="4 images under way"), limited.hold(1):
                pass
            with limited.hold(1):
                pass
        with limited.hold(4):
            pass

    as_client(b"shop").run(scenario)
    assert not limited._under_way


def test_one_client_does_not_take_from_another_and_the_service_itself_has_no_limit() -> None:
    limited = Shares(2)
    with limited.hold(100):

        def shop() -> None:
            with limited.hold(2):
                as_client(b"office").run(office)

        def office() -> None:
            with limited.hold(2), pytest.raises(TooManyRequests), limited.hold(1):
                pass

        as_client(b"shop").run(shop)


def test_a_failure_gives_back_what_was_held() -> None:
    limited = Shares(1)

    def scenario() -> None:
        for _ in range(3):
            with pytest.raises(ValueError, match="failed"), limited.hold(1):
                raise ValueError("failed")

    as_client(b"shop").run(scenario)

"""How many bytes all requests may hold together."""

from __future__ import annotations

import pytest

from service.api.body_room import BodyRoom
from service.errors import Overloaded


def test_what_others_hold_leaves_less_until_it_is_given_back() -> None:
    room = BodyRoom(10)
    room.take(7)
    with pytest.raises(Overloaded, match="Too many large requests are under way; try again"):
        room.take(4)
    room.take(3)
    room.give_back(7)
    room.take(7)


def test_one_alone_may_have_any_number() -> None:
    room = BodyRoom(10)
    room.take(8)
    room.take(80, own=8)
    with pytest.raises(Overloaded):
        room.take(1)
    room.give_back(88)
    room.take(20)

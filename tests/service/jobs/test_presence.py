"""Who lives, and which models they have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from service.jobs.presence import Presence


@pytest.fixture
def two(tmp_path: Path) -> Iterator[list[Presence]]:
    with ExitStack() as stack:
        yield [stack.enter_context(closing(Presence(tmp_path))) for _ in range(2)]


def test_what_is_said_last_holds_until_the_end(two: list[Presence]) -> None:
    one, other = two
    for models in ({"a long name 1 sha256:0", "b 1 sha256:0"}, {"c 1 sha256:0"}):
        one.say(models)
        assert other.models() == models
    other.say({"d 1 sha256:0"})
    assert one.models() == other.models() == {"c 1 sha256:0", "d 1 sha256:0"}
    one.close()
    assert other.models() == {"d 1 sha256:0"}


def test_nothing_stays_of_who_died(two: list[Presence], tmp_path: Path) -> None:
    one, other = two
    one.say(frozenset())
    (tmp_path / "worker-dead").write_text("a 1 sha256:0")
    assert other.lives(one.me)
    assert other.models() == set()
    assert [path.name for path in tmp_path.iterdir()] == [f"worker-{one.me}"]


def test_who_lives_says_so_again_where_it_was_removed(two: list[Presence], tmp_path: Path) -> None:
    one, other = two
    one.say({"a 1 sha256:0"})
    (tmp_path / f"worker-{one.me}").unlink()
    assert not other.lives(one.me)
    one.say({"a 1 sha256:0"})
    assert other.lives(one.me)
    assert other.models() == {"a 1 sha256:0"}

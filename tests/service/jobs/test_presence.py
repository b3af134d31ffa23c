"""Who lives, and which models they have."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Event

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


def test_one_file_is_closed_once_though_a_thread_still_says_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    presence, asked, answered = Presence(tmp_path), Event(), Event()
    presence.say({"a 1 sha256:0"})

    def is_there() -> bool:
        asked.set()
        return not answered.wait(30)  # it was removed

    monkeypatch.setattr(presence, "_is_there", is_there)
    with ThreadPoolExecutor(2) as threads:
        said = threads.submit(presence.say, {"b 1 sha256:0"})
        assert asked.wait(30)
        closed = threads.submit(presence.close)
        wait([closed], timeout=0.2)
        answered.set()
        said.result()
        closed.result()
    assert not list(tmp_path.iterdir())

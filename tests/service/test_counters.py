"""Counts shared by processes."""

from __future__ import annotations

import mmap

import pytest

from service.counters import ENTRIES, KEY_BYTES, STRIP_BYTES, Counters


@pytest.fixture
def memory() -> mmap.mmap:
    return mmap.mmap(-1, 3 * STRIP_BYTES)


def test_a_count_is_the_sum_over_all_processes(memory: mmap.mmap) -> None:
    first, second = Counters(memory, 0), Counters(memory, 2)
    first.cell("a").add()
    second.cell("b").add(5)
    second.cell("a").add(2)
    assert first.totals() == second.totals() == {"a": 3, "b": 5}


def test_only_the_keys_that_begin_so_are_looked_at(memory: mmap.mmap) -> None:
    for strip in (0, 1):
        for key in ("a{1", "a{2", "ab{", "b"):
            Counters(memory, strip).cell(key).add()
    assert Counters(memory, 2).totals("a{") == {"a{1": 2, "a{2": 2}


def test_who_takes_a_dead_workers_place_goes_on_counting(memory: mmap.mmap) -> None:
    dead = Counters(memory, 1)
    dead.cell("a").add(4)
    dead.cell("b").add(1)
    successor = Counters(memory, 1)
    successor.cell("b").add(1)
    successor.cell("c").add(7)
    assert Counters(memory, 0).totals() == {"a": 4, "b": 2, "c": 7}


def test_a_gauge_is_replaced() -> None:
    counters = Counters.alone()
    counters.cell("a").set(9)
    counters.cell("a").set(3)
    assert counters.totals() == {"a": 3}


def test_what_finds_no_room_is_told_and_spoils_nothing(memory: mmap.mmap, caplog: pytest.LogCaptureFixture) -> None:
    counters = Counters(memory, 0)
    for i in range(ENTRIES - 1):
        counters.cell(f"key {i}").add(i)
    counters.cell("one more").add()
    Counters(memory, 1).cell("x" * (KEY_BYTES + 1)).add()
    assert caplog.text.count("no room to count") == 2
    assert Counters(memory, 1).totals() == {f"key {i}": i for i in range(ENTRIES - 1)}


def test_the_longest_key_comes_back_whole() -> None:
    counters = Counters.alone()
    counters.cell("é" * (KEY_BYTES // 2)).add()
    assert list(counters.totals()) == ["é" * (KEY_BYTES // 2)]

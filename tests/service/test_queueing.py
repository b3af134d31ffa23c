"""What waits, who goes first, and how a batch is cut."""

from __future__ import annotations

import asyncio

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from service.queueing import BULK_SHARE, Priority, Queue, Request, Slice, halves

LOOP = asyncio.new_event_loop()  # only to make futures of
LOOP.close()


def request(rows: int, priority: Priority = Priority.INTERACTIVE, enqueued: float = 0.0) -> Request:
    return Request(np.zeros((rows, 1, 1, 3), np.uint8), priority, enqueued, None, 0.0, LOOP.create_future())


def spans(batch: list[Slice]) -> list[tuple[int, int]]:
    return [(piece.start, piece.stop) for piece in batch]


def test_rows_and_bytes_are_counted_as_requests_come_go_and_are_taken() -> None:
    queue, first, second = Queue(), request(5), request(7)
    queue.add(first)
    queue.add(second)
    assert (queue.rows, queue.bytes) == (12, 36)
    queue.take(6)
    assert (queue.rows, queue.bytes) == (6, 18)
    queue.remove(second)
    queue.remove(second)  # twice is once
    assert (queue.rows, queue.bytes) == (0, 0)


def test_a_request_is_taken_in_pieces_in_order() -> None:
    queue, large = Queue(), request(10)
    queue.add(large)
    assert [spans(queue.take(4)) for _ in range(4)] == [[(0, 4)], [(4, 8)], [(8, 10)], []]


def test_interactive_rows_go_first() -> None:
    queue, bulk, interactive = Queue(), request(4, Priority.BULK), request(4)
    queue.add(bulk)
    queue.add(interactive)
    assert [piece.request for piece in queue.take(4)] == [interactive]
    assert queue.rows_before(Priority.INTERACTIVE) == 0
    assert queue.rows_before(Priority.BULK) == 4
    queue.add(request(3))
    assert (queue.rows_before(Priority.INTERACTIVE), queue.rows_before(Priority.BULK)) == (3, 7)


def test_bulk_rows_never_starve() -> None:
    for size in (1, 5, 32):
        queue, bulk = Queue(), request(1000, Priority.BULK)
        queue.add(bulk)
        taken = 0
        for _ in range(100):
            queue.add(request(size))  # as many as a batch holds, every time
            batch = queue.take(size)
            assert sum(map(len, batch)) == size
            taken += size
        assert abs(bulk.taken - BULK_SHARE * taken) <= size


def test_bulk_rows_fill_what_interactive_ones_leave_free() -> None:
    queue, bulk = Queue(), request(10, Priority.BULK)
    queue.add(request(3))
    queue.add(bulk)
    assert sum(map(len, queue.take(8))) == 8
    assert bulk.taken == 5


def test_the_oldest_is_found_in_either_lane() -> None:
    queue = Queue()
    assert queue.waiting_since is None
    queue.add(request(1, Priority.INTERACTIVE, enqueued=2.0))
    assert queue.waiting_since == 2.0
    queue.add(request(1, Priority.BULK, enqueued=1.0))
    assert queue.waiting_since == 1.0


@settings(deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.integers(0, 48))
def test_halves_keep_every_row_once_and_in_order(sizes: list[int], middle: int) -> None:
    batch = [Slice(request(size), 0, size) for size in sizes]
    first, second = halves(batch, middle)
    assert sum(map(len, first)) == min(middle, sum(sizes))
    rows = [(piece.request, row) for piece in first + second for row in range(piece.start, piece.stop)]
    assert rows == [(piece.request, row) for piece in batch for row in range(len(piece))]

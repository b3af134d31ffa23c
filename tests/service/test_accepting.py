"""Connections → workers: to the one that has the fewest, and to none before one is ready."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import NoReturn
from unittest.mock import Mock, call

import pytest

from service.accepting import Acceptor, Worker
from service.channel import Message


def worker(*, ready: bool = True, connections: int = 0, takes: bool = True) -> Worker:
    """One whose other end is nobody's."""
    made = Worker(Mock(), Mock(hand_over=Mock(return_value=takes)))
    made.ready, made.connections = ready, connections
    return made


def scenario(
    workers: list[Worker], clients: int, play: Callable[[Acceptor, socket.socket], Awaitable[None]]
) -> list[int]:
    """Play with an acceptor for which so many clients wait; how many of them each worker has been given then."""

    async def run() -> None:
        with ExitStack() as stack:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            for _ in range(clients):
                stack.enter_context(socket.create_connection(listener.getsockname()))
            async with asyncio.timeout(30):
                await play(Acceptor(listener, workers), listener)
            for connection in (connection for each in workers for connection in each.given):
                connection.close()

    asyncio.run(run())
    return [len(each.given) for each in workers]


async def placed(workers: list[Worker], count: int) -> None:
    """Return once they have been given so many."""
    while sum(len(each.given) for each in workers) < count:
        await asyncio.sleep(0)


def test_a_connection_goes_to_the_worker_that_has_the_fewest_and_to_none_that_is_not_ready() -> None:
    workers = [worker(connections=3), worker(ready=False), worker(), worker()]

    async def play(acceptor: Acceptor, _listener: socket.socket) -> None:
        acceptor.accept_or_wait()
        await placed(workers, 9)

    assert scenario(workers, 9, play) == [1, 0, 4, 4]


def test_while_no_worker_is_ready_connections_wait_where_the_kernel_keeps_them() -> None:
    workers = [worker()]

    async def play(acceptor: Acceptor, listener: socket.socket) -> None:
        acceptor.accept_or_wait()
        workers[0].ready = False
        acceptor.accept_or_wait()
        assert not asyncio.get_running_loop().remove_reader(listener)
        workers[0].ready = True
        acceptor.accept_or_wait()
        await placed(workers, 1)

    assert scenario(workers, 1, play) == [1]


def test_a_connection_that_no_worker_takes_now_is_given_to_one_later() -> None:
    full, free = workers = [worker(takes=False), worker(ready=False)]

    async def play(acceptor: Acceptor, _listener: socket.socket) -> None:
        acceptor.accept_or_wait()
        while not acceptor._homeless:
            await asyncio.sleep(0)
        free.ready = True
        acceptor.accept_or_wait()
        assert not acceptor._homeless

    assert scenario(workers, 1, play) == [0, 1]
    assert full.connections == 0


def test_who_has_connected_before_the_end_is_given_to_a_worker_too() -> None:
    workers = [worker(), worker()]

    async def play(acceptor: Acceptor, listener: socket.socket) -> None:
        acceptor.accept_or_wait()
        acceptor.close()
        assert listener.fileno() < 0
        acceptor.accept_or_wait()

    assert scenario(workers, 4, play) == [2, 2]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ECONNABORTED])
def test_a_process_without_descriptors_does_not_ask_again_at_once(number: int) -> None:
    class Listener(socket.socket):
        def accept(self) -> NoReturn:
            raise OSError(number, os.strerror(number))

    async def play() -> bool:
        with Listener() as listener:
            acceptor = Acceptor(listener, [worker()])
            acceptor.accept_or_wait()
            acceptor._accept()
            return asyncio.get_running_loop().remove_reader(listener)

    assert asyncio.run(play()) is (number == errno.ECONNABORTED)


@pytest.mark.parametrize(("ready", "signals"), [(False, [call(signal.SIGTERM)]), (True, [])])
def test_a_worker_that_cannot_hear_yet_that_it_is_to_stop_is_ended(ready: bool, signals: list[object]) -> None:
    process, channel = Mock(), Mock()
    stopped = Worker(process, channel)
    stopped.ready = ready
    stopped.stop()
    assert channel.send.call_args_list == [call(Message.STOP)]
    assert process.send_signal.call_args_list == signals

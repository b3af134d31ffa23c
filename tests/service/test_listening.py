"""Addresses and sockets."""

from __future__ import annotations

import errno
import select
import socket
import sys

import pytest

from service.errors import StartupError
from service.listening import admit_no_more, listen, shared


def test_a_grpc_port_that_another_service_shares_out_is_taken() -> None:
    with shared("127.0.0.1", 0) as port, pytest.raises(StartupError, match="already in use"), shared("127.0.0.1", port):
        pass


def test_without_a_port_there_is_nothing_to_share() -> None:
    with shared("127.0.0.1", None) as port:
        assert port is None


def test_the_shared_port_can_be_listened_on_more_than_once() -> None:
    with shared("127.0.0.1", 0) as port, socket.socket() as one, socket.socket() as other:
        for worker in (one, other):
            worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            worker.bind(("127.0.0.1", port))
            worker.listen()
        with socket.create_connection(("127.0.0.1", port or 0)):
            pass


def test_an_address_that_is_taken_is_one_sentence() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            StartupError, match=f"Can't listen on 127.0.0.1 port {port}: Address already in use. Choose"
        ):
            listen("127.0.0.1", port)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is no such filter")
def test_who_comes_after_the_last_look_is_refused_and_never_reset() -> None:
    with listen("127.0.0.1", 0) as listener, socket.socket() as late:
        address = listener.getsockname()
        with socket.create_connection(address) as early:
            admit_no_more(listener)
            late.setblocking(False)
            late.connect_ex(address)
            accepted, _ = listener.accept()
            with accepted:
                early.sendall(b"one")
                assert accepted.recv(3) == b"one"
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
        with pytest.raises(BlockingIOError):
            late.send(b"two")  # nothing is there that could take it and lose it
        listener.close()
        _, ended, _ = select.select([], [late], [], 30)
        assert ended == [late]
        assert late.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED

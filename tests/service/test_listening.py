"""Addresses and sockets."""

from __future__ import annotations

import resource
import socket

import pytest

from service.errors import StartupError
from service.listening import allow_open_files, last_connections, listen, shared


def test_as_many_files_may_be_open_as_the_system_allows() -> None:
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before // 2, most))
    try:
        allow_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (most, most)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


def test_a_grpc_port_that_another_service_shares_out_is_taken() -> None:
    with shared("127.0.0.1", 0) as port, pytest.raises(StartupError, match="already in use"), shared("127.0.0.1", port):
        pass


def test_without_a_port_there_is_nothing_to_share() -> None:
    with shared("127.0.0.1", None) as port:
        assert port is None


def test_a_name_that_no_host_can_have_is_one_sentence() -> None:
    with pytest.raises(StartupError, match=r"Can't listen on a\.\.b port 0: it is no host's name. Choose"):
        listen("a..b", 0)


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


def test_all_who_wait_to_be_accepted_are_found() -> None:
    with listen("127.0.0.1", 0) as listener:
        listener.setblocking(False)
        clients = [socket.create_connection(listener.getsockname()) for _ in range(3)]
        found = last_connections(listener)
        assert [each.getpeername() for each in found] == [each.getsockname() for each in clients]
        assert last_connections(listener) == []
        for each in (*found, *clients):
            each.close()

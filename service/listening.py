"""Addresses → sockets. Raises `StartupError` when an address can't be had."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from service.errors import StartupError

# A listening socket that closes resets what waits to be accepted, and where every answer ends its connection somebody
# always does. Who still waits for an answer does not connect anew: hence none is given for this long before the end.
SILENCE_S = 0.1


def allow_open_files() -> None:
    """As many as the system lets this process and its children have: each connection is one, and 1,024 are usual."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def listen(host: str, port: int, setting: str = "port") -> socket.socket:
    """A listening socket; who connects early waits until the models are loaded. `setting` gave the port."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except (OSError, UnicodeError) as exc:  # the latter of a name that is none
        told = getattr(exc, "strerror", "it is no host's name")
        reason = str(told).partition(" (")[0]  # the rest repeats the address
        raise StartupError(
            f"Can't listen on {host} port {port}: {reason}. Choose others with --host and "
            f"--{setting.replace('_', '-')} (or CONVOY_HOST and CONVOY_{setting.upper()})."
        ) from exc


@contextmanager
def shared(host: str, port: int | None) -> Iterator[int | None]:
    """The number of a gRPC port on which every process of this service may listen, and no other program does.

    Sockets that share a port (SO_REUSEPORT) share it with whoever asks; hence the look at it alone, first.
    """
    if port is None:
        yield None
        return
    with listen(host, port, "grpc_port") as alone:
        family, address = alone.family, alone.getsockname()
    with socket.socket(family) as keeper:  # does not listen, so no connection is ever its own
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        keeper.bind(address)
        yield address[1]


def last_connections(listener: socket.socket) -> list[socket.socket]:
    """Those that wait to be accepted on a listening socket that doesn't block."""
    connections = []
    with suppress(OSError):  # BlockingIOError: there are no more
        while True:
            connections.append(listener.accept()[0])
    return connections

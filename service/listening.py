"""Addresses → sockets. Raises `StartupError` when an address can't be had."""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from service.errors import StartupError

LAST_HANDSHAKES_S = 0.1  # between `admit_no_more` and the end of a listening socket; longer than most round trips
SO_ATTACH_FILTER = 26  # Linux; the socket module lacks the name
# (code, jump if true, jump if false, operand): load the byte of flags, is SYN among them, drop the packet, take it all.
NO_SYN = ((0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))


def listen(host: str, port: int, setting: str = "port") -> socket.socket:
    """A listening socket; who connects early waits until the models are loaded. `setting` gave the port."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as exc:
        reason = str(exc.strerror).partition(" (")[0]  # the rest repeats the address
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


def admit_no_more(listener: socket.socket) -> None:
    """Let no further connection begin; those that have begun can be accepted as before.

    To close a listening socket resets whatever waits to be accepted by then, and there is always something that comes
    between the last look and the end. Hence, `LAST_HANDSHAKES_S` before that, a packet filter (BPF, socket(7)) that
    drops the first packet of every new connection: whoever sent it tries again a second later, and finds another
    instance or is refused, and has not sent a request in vain. Where there is no such filter the gap remains.
    """
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *instruction) for instruction in NO_SYN))
    with suppress(OSError):
        listener.setsockopt(
            socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", len(NO_SYN), ctypes.addressof(program))
        )

"""Both ends of a channel: what is said arrives, in order, however much it is."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable

from service.channel import Channel, Message

Heard = list[tuple[Message, socket.socket | None]]
MANY = 5_000  # the kernel holds less than three hundred


def scenario(play: Callable[[Channel, Channel, Heard, asyncio.Event], Awaitable[None]]) -> None:
    """Play with a near end, a far end, what the far one hears, and the event of the near one's being gone."""

    async def run() -> None:
        near, far = map(Channel, socket.socketpair())
        heard: Heard = []
        gone = asyncio.Event()
        near.open(lambda _message, _connection: None, lambda: None)
        far.open(lambda message, connection: heard.append((message, connection)), gone.set)
        async with asyncio.timeout(30):
            await play(near, far, heard, gone)
        near.close()
        far.close()

    asyncio.run(run())


def test_more_than_the_other_end_has_room_for_arrives_later_and_in_order() -> None:
    async def play(near: Channel, _far: Channel, heard: Heard, gone: asyncio.Event) -> None:
        said = [Message.TAKEN, Message.CLOSED, Message.READY] * MANY
        for message in said:
            near.send(message)
        while len(heard) < len(said):
            await asyncio.sleep(0)
        assert [message for message, _ in heard] == said
        assert not gone.is_set()

    scenario(play)


def test_a_connection_is_handed_over_and_messages_around_it_keep_their_order() -> None:
    async def play(near: Channel, _far: Channel, heard: Heard, _gone: asyncio.Event) -> None:
        ours, theirs = socket.socketpair()
        near.send(Message.RELOAD)
        assert near.hand_over(theirs)
        near.send(Message.SILENCE)
        while len(heard) < 3:
            await asyncio.sleep(0)
        assert [message for message, _ in heard] == [Message.RELOAD, Message.CONNECTION, Message.SILENCE]
        connection = heard[1][1]
        assert connection is not None
        with ours, theirs, connection:
            connection.send(b"hello")
            assert ours.recv(5) == b"hello"

    scenario(play)


def test_a_connection_is_not_handed_over_where_there_is_no_room() -> None:
    async def play(near: Channel, _far: Channel, heard: Heard, _gone: asyncio.Event) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            handed = 0
            while near.hand_over(theirs):
                handed += 1
            near.send(Message.LAME_DUCK)  # waits
            while len(heard) < handed + 1:
                await asyncio.sleep(0)
            assert near.hand_over(theirs)
            while len(heard) < handed + 2:
                await asyncio.sleep(0)
            for _, connection in heard:
                if connection:
                    connection.close()

    scenario(play)


def test_a_connection_for_which_there_is_no_descriptor_is_still_told() -> None:
    async def play(near: Channel, _far: Channel, heard: Heard, _gone: asyncio.Event) -> None:
        os.write(near._end.fileno(), bytes([Message.CONNECTION]))  # as it arrives when the process is full
        while not heard:
            await asyncio.sleep(0)
        assert heard == [(Message.CONNECTION, None)]

    scenario(play)


def test_an_end_that_is_gone_is_told_once_and_is_not_spoken_to() -> None:
    async def play(near: Channel, far: Channel, _heard: Heard, gone: asyncio.Event) -> None:
        near.close()
        await gone.wait()
        assert far.closed
        far.send(Message.READY)
        near.send(Message.RELOAD)
        with socket.socket() as connection:
            assert not far.hand_over(connection)

    scenario(play)


def test_speaking_to_an_end_that_is_gone_finds_out() -> None:
    async def play(near: Channel, far: Channel, _heard: Heard, gone: asyncio.Event) -> None:
        near.close()
        far.send(Message.READY)  # before it can hear of it
        assert gone.is_set()

    scenario(play)

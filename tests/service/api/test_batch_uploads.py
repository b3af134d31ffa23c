"""What of a batch's body is in memory while it arrives."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from starlette.types import Message

from service.api import batch_uploads
from service.api.body_room import BodyRoom
from service.api.incoming import Incoming
from service.errors import Overloaded
from service.jobs.store import Store
from service.settings import Settings

PART = b'--b\r\ncontent-disposition: form-data; name="images"; filename="a.png"\r\n\r\n'
END = b"--b--\r\n"


class Upload:
    """A body that arrives piece by piece."""

    def __init__(
        self, store: Store, settings: Settings, room: BodyRoom, media_type: bytes = b"multipart/form-data; boundary=b"
    ) -> None:
        self._pieces = asyncio.Queue[bytes]()
        headers = [(b"content-type", media_type)]
        scope = {"type": "http", "path": "/v1/batches", "headers": headers, "query_string": b""}
        request = Incoming.of(scope, self._receive)
        request.room = room
        self.folder: Path = store.new_folder()[1]
        self.received = asyncio.ensure_future(batch_uploads.receive(request, self.folder, store, settings))

    async def _receive(self) -> Message:
        piece = await self._pieces.get()
        self._pieces.task_done()
        return {"type": "http.request", "body": piece, "more_body": not piece.endswith(END)}

    async def send(self, piece: bytes) -> None:
        """Until the next one is asked for, or there is an end."""
        self._pieces.put_nowait(piece)
        await self._pieces.join()
        self._pieces.put_nowait(b"")
        joined = asyncio.ensure_future(self._pieces.join())
        await asyncio.wait([joined, self.received], return_when=asyncio.FIRST_COMPLETED)
        joined.cancel()


def test_pictures_that_are_still_arriving_have_room_together(settings: Settings) -> None:
    async def scenario() -> None:
        store, room = Store(settings.jobs_dir), BodyRoom(1000)
        first, second = (Upload(store, settings, room) for _ in range(2))
        await first.send(PART + bytes(800))
        await second.send(PART + bytes(500))
        with pytest.raises(Overloaded):
            await second.received
        await first.send(b"\r\n" + PART)  # the first picture is on the disk now
        third = Upload(store, settings, room)
        await third.send(PART + bytes(500))
        for form in (first, third):
            await form.send(b"\r\n" + END)
        assert [(await form.received).total for form in (first, third)] == [2, 1]
        last = Upload(store, settings, room)
        await last.send(PART + bytes(500))
        last.received.cancel()
        await asyncio.wait([last.received])
        room.take(1)  # nothing is held of what has ended, or was refused or given up
        room.take(999)

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_what_goes_to_the_disk_as_it_comes_needs_no_room(settings: Settings) -> None:
    async def scenario() -> None:
        store, room = Store(settings.jobs_dir), BodyRoom(1000)
        room.take(1000)
        archive = Upload(store, settings, room, b"application/zip")
        await archive.send(bytes(5000))
        await archive.send(END)
        assert (await archive.received).source == "zip"

    asyncio.run(asyncio.wait_for(scenario(), 30))

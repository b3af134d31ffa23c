"""The body of POST /v1/batches → files in the batch's folder, on the disk before the answer.

Nothing is read faster than it is written, so a client is held back where the disk is slow. What is in an archive is not
judged here: that is the work of a process of its own, later.
"""

from __future__ import annotations

import hashlib
from asyncio import to_thread
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from service.api import multipart
from service.api.incoming import Incoming
from service.api.threads import waited
from service.api.uploads import as_what, check_encoding, content_type
from service.errors import BodyTooLarge, EmptyRequest, StorageFailed, UnsupportedMediaType
from service.jobs.database import as_storage_failed
from service.jobs.sources import HEAD_BYTES, SOURCES, kind_of
from service.jobs.sources.tables import parquet_is_available
from service.jobs.spool import SpoolWriter, SyncedFile
from service.jobs.store import UPLOAD, Store
from service.jobs.upkeep import Upkeep
from service.settings import Settings

MULTIPART = "multipart/form-data"
MEDIA_TYPES = {media_type: name for name, source in SOURCES.items() for media_type in source.media_types}
WRITE_BYTES = 1 << 20
MOST_UNFINISHED = 1000  # batches: each is measured before another one is accepted
STEP_BYTES = 64 << 20  # of a body, before it is seen what others take by now


@dataclass(frozen=True, slots=True)
class Received:
    """What has arrived: its kind, what it is known by, and its number of images where they are spooled already."""

    source: str
    fingerprint: str
    total: int | None = None


def check_media_type(request: Incoming) -> tuple[str, str]:
    """The body's media type and, of a form, its boundary; raises `UnsupportedMediaType` or `MalformedRequest`."""
    declared = request.content_type()
    check_encoding(request)
    media_type, parameters = content_type(declared)
    if media_type not in MEDIA_TYPES and media_type != MULTIPART:
        known = ", ".join([*MEDIA_TYPES, MULTIPART])
        raise UnsupportedMediaType(f"The body came {as_what(declared)}. Send the images as {known}.")
    if MEDIA_TYPES.get(media_type) == "parquet" and not parquet_is_available():
        raise UnsupportedMediaType("This server reads no Parquet: convoy's extra `parquet` is missing. Send NDJSON.")
    return media_type, parameters.get("boundary", "")


@dataclass
class _DiskShare:
    """What this batch has of the bytes that all batches may take on the disk."""

    upkeep: Upkeep
    batch_id: str
    max_body_bytes: int
    granted_bytes: int = 0  # of its body, which may arrive before it has to ask for more

    async def check(self, declared_bytes: int) -> None:
        """Raise `StorageFailed` where the batch could not stay, whichever others went: none goes for a mere promise."""
        stays = await to_thread(self.upkeep.unfinished, self.batch_id)
        if stays.batches >= MOST_UNFINISHED:
            raise StorageFailed(
                f"{stays.batches:,} batches are unfinished; send this one when some have finished, or put several "
                "into one."
            )
        if stays.bytes + declared_bytes > self.upkeep.max_bytes:
            raise _no_room()

    async def extend(self, received_bytes: int) -> None:
        """Ask for what has arrived and as much again, so that not every chunk of a long body has to ask.

        Where that can't be had, for what has arrived alone; raises `StorageFailed` where that can't be had either.
        """
        ahead_bytes = min(received_bytes, STEP_BYTES, self.max_body_bytes - received_bytes)
        if await self._take(received_bytes + ahead_bytes):
            return
        if not await self._take(received_bytes):
            raise _no_room()

    async def _take(self, needed_bytes: int) -> bool:
        """Whether so many can be had, with finished batches going for them; what is free besides is granted too."""
        free_bytes = self.upkeep.max_bytes - await waited(self.upkeep.make_room, self.batch_id, needed_bytes)
        if free_bytes < 0:
            return False
        self.granted_bytes = needed_bytes + min(free_bytes, STEP_BYTES)
        return True

    async def within(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The same, as long as there is room for them on the disk."""
        received = 0
        async for chunk in chunks:
            received += len(chunk)
            if received > self.granted_bytes:
                await self.extend(received)
            yield chunk


def _no_room() -> StorageFailed:
    return StorageFailed(
        "There is no room for another batch; delete those whose results you have, or wait: others make room an hour "
        "after they are finished."
    )


async def receive(request: Incoming, folder: Path, store: Store, settings: Settings) -> Received:
    """Write the body into `folder`.

    Raises as `Incoming.kept` does, and `TooManyImages`, `EmptyRequest`, `MalformedRequest` or `StorageFailed`.
    """
    media_type, boundary = check_media_type(request)
    limit = settings.max_batch_upload_bytes
    if request.declared_bytes > limit:
        raise BodyTooLarge(f"A batch may be sent in {limit:,} bytes at most; split it.")
    upkeep = Upkeep(store, settings.jobs_keep_hours * 3600, settings.jobs_max_bytes)
    share = _DiskShare(upkeep, folder.name, max_body_bytes=request.declared_bytes or limit)
    await share.check(request.declared_bytes)
    with as_storage_failed():
        if media_type != MULTIPART:
            return await _file(share.within(request.chunks(limit)), media_type, folder)
        try:
            return await _form(share.within(request.kept(limit)), request.let_go, boundary, folder, settings)
        finally:
            request.let_go()


async def _file(chunks: AsyncIterator[bytes], media_type: str, folder: Path) -> Received:
    digest, head = hashlib.sha256(media_type.encode()), b""
    with SyncedFile(folder / UPLOAD) as file:
        async for block in _blocks(chunks):
            head = head or block[:HEAD_BYTES]
            await to_thread(digest.update, block)
            await to_thread(file.write, block)
        await to_thread(file.sync)
    if not head:
        raise EmptyRequest("The request holds no image; send at least one.")
    kind, declared = kind_of("", head), MEDIA_TYPES[media_type]
    found = (name for name, source in SOURCES.items() if source is kind and source.media_types)
    return Received(next(found, declared), digest.hexdigest())


async def _form(
    chunks: AsyncIterator[bytes], written: Callable[[], None], boundary: str, folder: Path, settings: Settings
) -> Received:
    """Each file part goes to the spool at once, and it is `written` then.

    A boundary is new in each attempt, so only the parts are compared.
    """
    digest = hashlib.sha256()
    with SpoolWriter(folder) as spool:
        files = multipart.stream_files(
            chunks,
            boundary.encode("latin-1", "replace"),
            max_files=settings.max_batch_images,
            max_file_bytes=settings.max_image_bytes,
        )
        async for file in files:
            digest.update(repr((file.filename, len(file.content))).encode() + file.content)
            await to_thread(spool.add, file.filename, file.content)
            written()
        if not spool.count:
            raise EmptyRequest("The request holds no image; send at least one.")
        await to_thread(spool.sync)
        return Received(MULTIPART, digest.hexdigest(), spool.count)


async def _blocks(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in larger pieces: each is worth a thread's while."""
    block = bytearray()
    async for chunk in chunks:
        block += chunk
        if len(block) >= WRITE_BYTES:
            yield bytes(block)
            block.clear()
    if block:
        yield bytes(block)

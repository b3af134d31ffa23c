"""/v1/batches: images sent once, kept until every one of them has its row, and the rows fetched when it suits."""

from __future__ import annotations

import asyncio
import time
from asyncio import to_thread
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated

import orjson
from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from service import errors
from service.api import batch_results, batch_uploads, examples, problems, queries
from service.api.accept import negotiate
from service.api.batch_results import POLL_S
from service.api.batch_status import shown
from service.api.bodies import BatchList, BatchStatus
from service.api.body_room import BodyRoom
from service.api.incoming import Incoming, text
from service.api.request_bodies import BATCH_BODIES
from service.api.threads import deleted, waited
from service.errors import BatchNotFound, MalformedRequest
from service.jobs.database import REQUEST_S, Batch
from service.jobs.results import RESULTS
from service.jobs.runner import Runner
from service.jobs.store import RESULTS as RESULTS_FILE
from service.jobs.store import NewBatch, Store
from service.serving import ServedModels
from service.settings import Settings

EVENT_STREAM = "text/event-stream"
KEEP_ALIVE_S = 15.0
EVENTS = {
    "schema": {"type": "string", "description": "A `BatchStatus` in each event; a comment when it is long unchanged."},
    "example": examples.EVENTS,
}
LONGEST_KEY = 255
LEAST_S = 0.1  # of `REQUEST_S`, for one that has waited for its thread as long


class Batches:
    """What the routes do: translate, call the store once, translate back."""

    def __init__(self, store: Store, runner: Runner, models: ServedModels, settings: Settings) -> None:
        self._store, self._runner, self._models, self._settings = store, runner, models, settings
        self._room = BodyRoom(settings.queue_bytes)  # their own: their bodies may take hours, and keep nobody from it

    async def create(
        self,
        request: Request,
        model: str | None,
        version: str | None,
        top_k: int | None,
        coverage: float | None,
        key: str | None,
    ) -> Batch:
        """Take in a batch; it is on the disk when this returns."""
        served = self._models.choose(model, version).loaded
        identity = served.identity
        queries.check_top_k(top_k, identity)
        sets = queries.check_coverage(coverage, served)
        if key is not None and not (0 < len(key) <= LONGEST_KEY and key.isascii() and key.isprintable()):
            raise MalformedRequest(f"header Idempotency-Key: use up to {LONGEST_KEY} printable ASCII characters.")
        incoming = Incoming.of(request.scope, request.receive)
        incoming.room = self._room
        batch_uploads.check_media_type(incoming)
        batch_id, folder = await to_thread(self._store.new_folder)
        batch: Batch | None = None
        try:
            received = await batch_uploads.receive(incoming, folder, self._store, self._settings)
            # The version as asked for: who asks again after another one became active means the same batch.
            fingerprint = f"{received.fingerprint} {identity.name} {version} {top_k}"
            if coverage is not None:
                fingerprint += f" {coverage}"
            new = NewBatch(batch_id, identity, top_k, received.source, key, fingerprint, received.total, sets)
            creation = waited(self._store.create, new)
            while not creation.done():
                with suppress(asyncio.CancelledError):  # the thread goes on: what it lists is accepted
                    await asyncio.shield(creation)
            batch = creation.result()
        finally:
            if batch is None or batch.id != batch_id:  # it failed, or is known already
                await to_thread(self._store.discard, batch_id)
        self._runner.wake()
        return batch

    async def delete(self, batch_id: str) -> None:
        """Forget the batch; where others keep the list, no longer than `REQUEST_S` from now is waited for it."""
        until = time.monotonic() + REQUEST_S

        def delete() -> None:
            self._store.delete(batch_id, max(LEAST_S, until - time.monotonic()))

        await deleted(delete)

    async def events(self, batch: Batch) -> AsyncIterator[bytes]:
        """The batch whenever it changes, until it ends."""
        silent_since = time.monotonic()
        last: Batch | None = None
        while not self._models.draining:
            if batch != last:
                yield b"data: " + orjson.dumps(shown(batch)) + b"\n\n"
                last, silent_since = batch, time.monotonic()
            elif time.monotonic() - silent_since > KEEP_ALIVE_S:
                yield b": still here\n\n"
                silent_since = time.monotonic()
            if batch.ended:
                return
            await asyncio.sleep(POLL_S)
            try:
                batch = await to_thread(self._store.get, batch.id)
            except BatchNotFound:
                yield b"data: " + orjson.dumps({**shown(batch), "status": "cancelled"}) + b"\n\n"
                return

    async def results(self, request: Request, batch: Batch, name: str | None, follow: bool) -> Response:
        """The rows, in the format that was asked for."""
        incoming = Incoming.of(request.scope, request.receive)
        media_types = {each.media_type: key for key, each in RESULTS.items()}
        if name is not None and name not in RESULTS:
            raise MalformedRequest(f"query format: choose one of {', '.join(RESULTS)}.")
        kind = RESULTS[name or media_types[negotiate(text(incoming.headers.get(b"accept")), tuple(media_types))]]
        path = self._store.folder(batch.id) / RESULTS_FILE
        headers = {"ETag": f'"{batch.id}"', "X-Batch-Status": batch.status}
        if kind is RESULTS["ndjson"] and not follow:
            wanted = text(incoming.headers.get(b"range"))
            part = batch_results.parse_range(wanted, batch.bytes, grows=not batch.ended)
            start, stop = part or (0, batch.bytes)
            headers |= {"Accept-Ranges": "bytes", "Content-Length": str(stop - start)}
            if part:
                headers["Content-Range"] = f"bytes {start}-{stop - 1}/{batch.bytes if batch.ended else '*'}"
            body = batch_results.read_bytes(path, start, stop)
            return batch_results.Rows(body, 206 if part else 200, headers, kind.media_type)

        async def look() -> Batch:
            if self._models.draining:
                raise BatchNotFound("the process is stopping")
            return await to_thread(self._store.get, batch.id)

        encoder = kind.encoder(orjson.loads(batch.labels), batch.threshold is not None)
        lines = batch_results.read_lines(path, batch, look if follow else None)
        return batch_results.Rows(batch_results.encode(lines, encoder), headers=headers, media_type=kind.media_type)


def router(store: Store, runner: Runner, models: ServedModels, settings: Settings) -> APIRouter:
    """The routes, bound to what they act on."""
    routes = APIRouter(prefix="/v1/batches", tags=["batches"])
    batches = Batches(store, runner, models, settings)
    unknown = problems.documented(errors.BatchNotFound, errors.StorageFailed)

    @routes.post(
        "",
        status_code=202,
        responses=problems.documented(
            errors.MalformedRequest, errors.Forbidden, errors.ModelNotFound, errors.Conflict, errors.BodyTooLarge,
            errors.TooManyImages, errors.UnsupportedMediaType, errors.EmptyRequest, errors.Overloaded,
            errors.StorageFailed, errors.Draining,
        ),
        openapi_extra={"requestBody": BATCH_BODIES},
    )  # fmt: skip
    async def create_batch(
        request: Request,
        response: Response,
        model: queries.Model = None,
        version: queries.Version = None,
        top_k: queries.TopK = None,
        coverage: queries.CoverageAsked = None,
        idempotency_key: Annotated[
            str | None, Header(description="The same key with the same body gives the same batch, however often.")
        ] = None,
    ) -> BatchStatus:
        """Accept images to be scored; once this is answered, every one of them gets its row, whatever dies."""
        batch = await batches.create(request, model, version, top_k, coverage, idempotency_key)
        response.headers["Location"] = f"/v1/batches/{batch.id}"
        return BatchStatus(**shown(batch))

    @routes.get("", responses=problems.documented(errors.MalformedRequest, errors.BatchNotFound, errors.StorageFailed))
    async def list_batches(
        limit: Annotated[int, Query(ge=1, le=1000)] = 20,
        after: Annotated[str | None, Query(description="The last batch of the page before.")] = None,
    ) -> BatchList:
        """All batches, the newest first."""
        found = await to_thread(store.newest, limit + 1, after)
        page = found[:limit]
        return BatchList(
            batches=[BatchStatus(**shown(batch)) for batch in page],
            after=page[-1].id if len(found) > limit else None,
        )

    @routes.get("/{batch_id}", responses=unknown)
    async def show_batch(batch_id: str) -> BatchStatus:
        """How far a batch is."""
        return BatchStatus(**shown(await to_thread(store.get, batch_id)))

    @routes.get(
        "/{batch_id}/events",
        response_class=Response,
        responses={200: {"content": {EVENT_STREAM: EVENTS}}, **unknown},
    )
    async def follow_batch(batch_id: str) -> Response:
        """The same whenever it changes, as server-sent events, until the batch has ended."""
        batch = await to_thread(store.get, batch_id)
        return StreamingResponse(batches.events(batch), headers={"Cache-Control": "no-store"}, media_type=EVENT_STREAM)

    @routes.get(
        "/{batch_id}/results",
        response_class=Response,
        responses={
            200: {"content": batch_results.CONTENT},
            206: {
                "content": {RESULTS["ndjson"].media_type: batch_results.DESCRIBED["ndjson"]},
                "description": "The part that was asked for.",
            },
            **problems.documented(
                errors.MalformedRequest,
                errors.BatchNotFound,
                errors.NotAcceptable,
                errors.RangeNotSatisfiable,
                errors.StorageFailed,
            ),
        },
    )
    async def get_results(
        request: Request,
        batch_id: str,
        format_: Annotated[
            str | None,
            Query(alias="format", description="Instead of `Accept`.", json_schema_extra={"enum": list(RESULTS)}),
        ] = None,
        follow: Annotated[bool, Query(description="Go on with rows as they appear, until the batch ends.")] = False,
    ) -> Response:
        """A row per image, in the order in which they were sent; of a batch that runs, those that there are."""
        return await batches.results(request, await to_thread(store.get, batch_id), format_, follow)

    @routes.delete("/{batch_id}", status_code=204, responses=unknown)
    async def delete_batch(batch_id: str) -> None:
        """Cancel the batch, if it runs, and remove it with its results."""
        await batches.delete(batch_id)

    return routes

"""The two clients: one waits, one is for asyncio; what they send and make of the answers is the same."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator
from typing import Self

import httpx2

from service.client.answers import Answer, Refused, Unreachable, accepted, only, predictions, probabilities
from service.client.requests import Asked, Image, Outcome, Patience, Server, asked, asked_in_bulk
from service.types import Probabilities, Rows

URL, TIMEOUT_S = "http://127.0.0.1:8000", 30.0
TIME_IS_UP = "the time was up before the answer was whole"


class _InTime(httpx2.SyncByteStream):
    """A response's body, as long as there is time for it."""

    def __init__(self, stream: httpx2.SyncByteStream, patience: Patience) -> None:
        self._stream, self._patience = stream, patience

    def __iter__(self) -> Iterator[bytes]:
        for block in self._stream:
            if self._patience.over:
                raise httpx2.ReadTimeout(TIME_IS_UP)
            yield block

    def close(self) -> None:
        """Part of httpx's class."""
        self._stream.close()


class Client:
    """Calls wait for their answer. Several threads may use one client."""

    def __init__(
        self,
        url: str = URL,
        *,
        api_key: str | None = None,
        model: str | None = None,
        version: str | None = None,
        timeout_s: float = TIMEOUT_S,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        """`model` and `version`, by default the service's; `timeout_s` of a call, however often it has to ask."""
        self._server = Server(url, api_key, model, version, timeout_s)
        self._http = httpx2.Client(transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def predict(self, image: Image, *, top_k: int | None = None, coverage: float | None = None) -> Answer:
        """The prediction for one image; raises `Refused`, `Unreachable`, `OSError` or `ValueError`."""
        return only(self.predict_all([image], top_k=top_k, coverage=coverage))

    def predict_all(
        self, images: Iterable[Image], *, top_k: int | None = None, coverage: float | None = None
    ) -> list[Answer | Refused]:
        """Predictions in the order of `images`, all in one request; a bad image has its `Refused` there.

        Raises `Refused` when every image is bad or there are more than the service takes at a time (1,024 unless it was
        told otherwise), `Unreachable`, `OSError` or `ValueError`.
        """
        request = asked(images, top_k, coverage)
        return predictions(self._ask(request)) if request.files else []

    def probabilities(self, images: Rows) -> Probabilities:
        """float32 (N, classes) for uint8 images (N, H, W, 3), classes in the model's order; raises as `predict_all`."""
        return probabilities(self._ask(asked_in_bulk(images)))

    def _ask(self, request: Asked) -> httpx2.Response:
        patience = Patience(self._server.timeout_s)
        while True:
            try:
                outcome: Outcome = self._try(request, patience)
            except httpx2.ReadTimeout:  # a try may wait as long as there is time, so that httpx's end is this one
                outcome = httpx2.ReadTimeout(TIME_IS_UP)
            except httpx2.TransportError as exc:
                outcome = exc
            if (pause_s := patience.pause_s(outcome)) is None:
                return _stands(outcome, self._server)
            time.sleep(pause_s)

    def _try(self, request: Asked, patience: Patience) -> httpx2.Response:
        """A try has its own timeout for each byte that it waits for; all of them together have one here."""
        sent = self._http.build_request("POST", **self._server.arguments(request, patience.left_s))
        response = self._http.send(sent, stream=True)
        try:
            if isinstance(response.stream, httpx2.SyncByteStream):
                response.stream = _InTime(response.stream, patience)
            response.read()
        finally:
            response.close()
        return response


class AsyncClient:
    """Calls may run at the same time."""

    def __init__(
        self,
        url: str = URL,
        *,
        api_key: str | None = None,
        model: str | None = None,
        version: str | None = None,
        timeout_s: float = TIMEOUT_S,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        """As for `Client`."""
        self._server = Server(url, api_key, model, version, timeout_s)
        self._http = httpx2.AsyncClient(transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def predict(self, image: Image, *, top_k: int | None = None, coverage: float | None = None) -> Answer:
        """See `Client.predict`."""
        return only(await self.predict_all([image], top_k=top_k, coverage=coverage))

    async def predict_all(
        self, images: Iterable[Image], *, top_k: int | None = None, coverage: float | None = None
    ) -> list[Answer | Refused]:
        """See `Client.predict_all`."""
        request = asked(images, top_k, coverage)
        return predictions(await self._ask(request)) if request.files else []

    async def probabilities(self, images: Rows) -> Probabilities:
        """See `Client.probabilities`."""
        return probabilities(await self._ask(asked_in_bulk(images)))

    async def _ask(self, request: Asked) -> httpx2.Response:
        patience = Patience(self._server.timeout_s)
        while True:
            try:
                async with asyncio.timeout(patience.left_s):
                    outcome: Outcome = await self._http.post(**self._server.arguments(request, patience.left_s))
            except (httpx2.ReadTimeout, TimeoutError):  # as in `Client`, and which of the two is first is chance
                outcome = httpx2.ReadTimeout(TIME_IS_UP)
            except httpx2.TransportError as exc:
                outcome = exc
            if (pause_s := patience.pause_s(outcome)) is None:
                return _stands(outcome, self._server)
            await asyncio.sleep(pause_s)


def _stands(outcome: Outcome, server: Server) -> httpx2.Response:
    """The answer of a last try; raises `Refused` or `Unreachable`."""
    if isinstance(outcome, httpx2.Response):
        return accepted(outcome)
    why = str(outcome) or type(outcome).__name__
    raise Unreachable(f"{server.url} can't be reached ({why}); is the service running?") from outcome

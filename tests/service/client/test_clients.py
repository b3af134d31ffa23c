"""Both clients against a real server, and against one that is not at its best."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

import httpx2
import numpy as np
import pytest

from service.client import Answer, AsyncClient, Client, Image, Refused, Unreachable
from service.client.requests import FIRST_PAUSE_S
from service.types import Probabilities, Rows
from tests.conftest import COLOURS, RGB, SIZE, colour_probabilities, encode, picture
from tests.processes import Convoy, running

KEY = "a-key-of-the-shop"
PIXELS = {colour: np.full((SIZE, SIZE, 3), RGB[colour], np.uint8) for colour in COLOURS}
ANSWER = {
    "model": {"name": "m", "version": "1", "digest": "sha256:0"},
    "predictions": [{"label": "a", "probability": 1, "probabilities": {"a": 1}}],
}


class InLoop:
    """An `AsyncClient` whose calls wait, so that one test body does for both clients."""

    def __init__(self, url: str, **options: object) -> None:
        self._runner, self._client = asyncio.Runner(), AsyncClient(url, **options)  # type: ignore[arg-type]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._runner.run(self._client.close())
        self._runner.close()

    def predict(self, image: Image, *, top_k: int | None = None, coverage: float | None = None) -> Answer:
        return self._runner.run(self._client.predict(image, top_k=top_k, coverage=coverage))

    def predict_all(self, images: Sequence[Image], *, top_k: int | None = None) -> list[Answer | Refused]:
        return self._runner.run(self._client.predict_all(images, top_k=top_k))

    def probabilities(self, images: Rows) -> Probabilities:
        return self._runner.run(self._client.probabilities(images))


Opened = Callable[..., AbstractContextManager[Client | InLoop]]


@pytest.fixture(params=[Client, InLoop])
def opened(request: pytest.FixtureRequest) -> Opened:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def client(opened: Opened, convoy: Convoy) -> Iterator[Client | InLoop]:
    """On the real server and with a key."""
    with opened(f"http://127.0.0.1:{convoy.port}", api_key=KEY) as client:
        yield client


@pytest.fixture(scope="module")
def convoy(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Convoy]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"{KEY}\n")
    with running(models_dir, workers="1", api_keys_file=str(keys)) as convoy:
        yield convoy


def instead(answer: Callable[[], httpx2.Response]) -> httpx2.MockTransport:
    """A server that answers everything so."""
    return httpx2.MockTransport(lambda _request: answer())


def test_a_file_its_content_and_its_pixels_are_predicted_alike(client: Client | InLoop, tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    path.write_bytes(encode(picture("red")))
    answers = [client.predict(image) for image in (path, str(path), path.read_bytes(), PIXELS["red"])]
    expected = colour_probabilities(PIXELS["red"][np.newaxis], 0.01)[0]
    for answer in answers:
        assert (answer.label, answer.model.name, answer.model.version) == ("red", "colours", "2")
        assert list(answer.probabilities.values()) == pytest.approx(list(expected), abs=1e-6)
        assert answer.probability == answer.probabilities["red"]
        assert answer.prediction_set is None


def test_many_are_predicted_in_their_order_and_a_bad_one_has_its_error_there(client: Client | InLoop) -> None:
    images: list[Image] = [encode(picture("red")), b"no picture", PIXELS["blue"]]
    red, bad, blue = client.predict_all(images, top_k=1)
    assert isinstance(red, Answer)
    assert isinstance(blue, Answer)
    assert (red.label, blue.label, list(blue.probabilities)) == ("red", "blue", ["blue"])
    assert isinstance(bad, Refused)
    assert bad.slug == "invalid-image"


def test_arrays_come_back_as_arrays_from_the_version_that_was_named(opened: Opened, convoy: Convoy) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), np.uint8)
    with opened(f"http://127.0.0.1:{convoy.port}/", api_key=KEY, model="colours", version="1") as client:
        np.testing.assert_allclose(client.probabilities(rows), colour_probabilities(rows), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "asked", "status", "slug"),
    [
        ({}, {}, 401, "unauthorized"),
        ({"api_key": KEY, "model": "none"}, {}, 404, "model-not-found"),
        ({"api_key": KEY}, {"top_k": 99}, 400, "malformed-request"),
        ({"api_key": KEY}, {"coverage": 0.95}, 400, "malformed-request"),
    ],
)
def test_what_the_service_refuses_is_raised_with_what_to_do(
    opened: Opened, convoy: Convoy, options: dict[str, str], asked: dict[str, int], status: int, slug: str
) -> None:
    with opened(f"http://127.0.0.1:{convoy.port}", **options) as client, pytest.raises(Refused) as refused:
        client.predict(PIXELS["red"], **asked)
    assert (refused.value.status, refused.value.slug) == (status, slug)
    assert refused.value.request_id
    assert str(refused.value).endswith(".")


def test_several_threads_may_use_one_client(convoy: Convoy) -> None:
    with Client(f"http://127.0.0.1:{convoy.port}", api_key=KEY) as client, ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(client.predict, [PIXELS[colour] for colour in COLOURS * 10]))
    assert [answer.label for answer in answers] == list(COLOURS * 10)


def test_no_image_has_no_answer_and_asks_nobody(opened: Opened) -> None:
    with opened("http://nobody.invalid") as client:
        assert client.predict_all([]) == []


def test_one_bad_image_alone_is_raised(client: Client | InLoop) -> None:
    with pytest.raises(Refused, match="no image in a known format"):
        client.predict(b"no picture")


def test_a_set_that_was_asked_for_is_there(opened: Opened) -> None:
    prediction = {"label": "a", "probability": 1, "probabilities": {"a": 1}, "prediction_set": ["a", "b"]}
    said = {"model": ANSWER["model"], "predictions": [prediction]}
    with opened("http://there", transport=instead(lambda: httpx2.Response(200, json=said))) as client:
        assert client.predict(b"x", coverage=0.95).prediction_set == ("a", "b")


def test_a_service_that_is_busy_or_breaks_off_is_asked_again(opened: Opened) -> None:
    outcomes = iter([httpx2.Response(503), httpx2.ReadError("broken"), httpx2.Response(503), None])

    def answer() -> httpx2.Response:
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome or httpx2.Response(200, json=ANSWER)

    with opened("http://there", transport=instead(answer)) as client:
        assert client.predict(b"x").label == "a"


def test_a_service_that_stays_busy_is_asked_until_the_time_is_up(opened: Opened) -> None:
    problem = {"type": "/problems/overloaded", "detail": "Too many images are waiting."}
    busy = instead(lambda: httpx2.Response(503, json=problem))
    with (
        opened("http://there", transport=busy, timeout_s=0.3) as client,
        pytest.raises(Refused, match="Too many images") as refused,
    ):
        client.predict(b"x")
    assert refused.value.slug == "overloaded"


def test_where_nobody_listens_that_is_said(opened: Opened) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with opened(url, timeout_s=0.2) as client, pytest.raises(Unreachable, match=f"{url} can't be reached"):
        client.predict(b"x")


class Trickle(BaseHTTPRequestHandler):
    """An answer of which a byte comes now and then, and never the last one."""

    def do_POST(self) -> None:
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):
            while not self.server.stopped.wait(0.02):  # type: ignore[attr-defined]
                self.wfile.write(b" ")

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@pytest.fixture
def trickling() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Trickle) as server:
        server.stopped = threading.Event()  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.stopped.set()  # type: ignore[attr-defined]
        server.shutdown()


def test_a_calls_time_is_that_of_the_whole_answer(opened: Opened, trickling: str) -> None:
    with opened(trickling, timeout_s=0.3) as client, pytest.raises(Unreachable, match="before the answer was whole"):
        client.predict(b"x")


def test_a_server_that_is_silent_to_the_end_of_a_calls_time_is_told_alike(opened: Opened) -> None:
    def silent() -> httpx2.Response:
        raise httpx2.ReadTimeout("timed out")

    with (
        opened("http://there", transport=instead(silent)) as client,
        pytest.raises(Unreachable, match="before the answer was whole"),
    ):
        client.predict(b"x")


@pytest.mark.parametrize(
    ("status", "content"),
    [
        *((302, ""), (404, "<html>"), (500, "null"), (502, "[]")),
        *((503, '{"message": "no"}'), (429, '{"type": "busy"}'), (200, ""), (200, "<html>"), (200, "[]")),
        *(
            (200, '{"model": null}'),
            (200, '{"model": {"name": "m"}}'),
            (200, json.dumps({**ANSWER, "predictions": ["a"]})),
        ),
    ],
)
def test_an_answer_that_is_not_the_services_is_no_prediction(opened: Opened, status: int, content: str) -> None:
    other = instead(lambda: httpx2.Response(status, text=content))
    with (
        opened("http://there", transport=other, timeout_s=0.2) as client,
        pytest.raises(Refused, match="none of Convoy's; check the address") as refused,
    ):
        client.predict(b"x")
    assert (refused.value.status, refused.value.slug) == (status, "unexpected-answer")


def test_what_is_no_array_is_not_the_services_either(opened: Opened) -> None:
    page = instead(lambda: httpx2.Response(200, text="<html>"))
    with opened("http://there", transport=page) as client, pytest.raises(Refused, match="none of Convoy's"):
        client.probabilities(PIXELS["red"][np.newaxis])


def test_an_answer_may_tell_more_than_a_client_knows_of(opened: Opened) -> None:
    """Servers are renewed before their clients."""
    more = json.loads(json.dumps({**ANSWER, "more": 1}).replace('"version"', '"more": 1, "version"'))
    more["predictions"][0]["more"] = 1
    with opened("http://there", transport=instead(lambda: httpx2.Response(200, json=more))) as client:
        assert client.predict(b"x").model.name == "m"


def test_a_busy_service_is_left_alone_for_a_while(opened: Opened) -> None:
    outcomes = iter([httpx2.Response(503), httpx2.Response(200, json=ANSWER)])
    with opened("http://there", transport=instead(lambda: next(outcomes))) as client:
        began = time.monotonic()
        client.predict(b"x")
    assert time.monotonic() - began >= FIRST_PAUSE_S


def test_an_array_in_an_answer_is_never_a_program(opened: Opened) -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([{}], object), allow_pickle=True)
    answer = instead(lambda: httpx2.Response(200, content=stream.getvalue()))
    with opened("http://there", transport=answer) as client, pytest.raises(Refused, match="none of Convoy's"):
        client.probabilities(PIXELS["red"][np.newaxis])


class Closable(httpx2.MockTransport):
    """Notes that it is closed."""

    closed = False

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


def test_who_leaves_a_client_closes_its_connections() -> None:
    async def leave() -> None:
        async with AsyncClient("http://there", transport=asynchronous) as client:
            assert (await client.predict(b"x")).label == "a"

    waiting, asynchronous = (Closable(lambda _request: httpx2.Response(200, json=ANSWER)) for _ in range(2))
    with Client("http://there", transport=waiting) as client:
        assert client.predict(b"x").label == "a"
        assert not waiting.closed
    asyncio.run(leave())
    assert waiting.closed
    assert asynchronous.closed

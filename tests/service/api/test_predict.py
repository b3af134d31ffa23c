"""POST /v1/predict, every body and every error of the contract."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
from collections.abc import Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import httpx2
import numpy as np
import pytest
from starlette.testclient import TestClient
from starlette.types import Message

from service.api.incoming import CONNECTION_EXTENSION, Connection
from service.app import create_app
from service.serving import ServedModels
from service.settings import Settings
from service.types import Probabilities, Rows, Run
from tests.conftest import COLOURS, SIZE, colour_probabilities, encode, picture

PNG = {colour: encode(picture(colour)) for colour in COLOURS}
NPY = "application/x-npy"
RAW_IMAGES = [
    *(f"image/{each}" for each in ("jpeg", "jpg", "png", "webp", "bmp", "gif", "tiff")),
    "application/octet-stream",
]


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def post(
    client: TestClient,
    content: bytes,
    content_type: str,
    *,
    params: Mapping[str, str | int] | None = None,
    headers: Mapping[str, str] | None = None,
) -> httpx2.Response:
    everything = {"content-type": content_type, **(headers or {})}
    return client.post("/v1/predict", content=content, headers=everything, params=params)


def problem(response: httpx2.Response, status: int, slug: str) -> dict[str, Any]:
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json"), (
        response.text
    )
    body: dict[str, Any] = response.json()
    assert set(body) == {"type", "title", "status", "detail", "instance"}
    assert (body["type"], body["status"]) == (f"/problems/{slug}", status)
    assert body["instance"] == response.headers["x-request-id"]
    assert body["detail"].endswith((".", "=", "-"))
    return body


@pytest.mark.parametrize("media_type", RAW_IMAGES)
def test_a_raw_image_under_any_declared_type(client: TestClient, media_type: str) -> None:
    response = post(client, PNG["green"], media_type)
    assert response.status_code == 200
    body = response.json()
    assert (body["model"]["name"], body["model"]["version"]) == ("colours", "2")
    assert body["model"]["digest"].startswith("sha256:")
    (prediction,) = body["predictions"]
    assert (prediction["index"], prediction["filename"], prediction["label"]) == (0, None, "green")
    assert list(prediction["probabilities"]) == list(COLOURS)
    assert prediction["probability"] == prediction["probabilities"]["green"]
    assert abs(sum(prediction["probabilities"].values()) - 1) < 1e-5


def test_multipart_takes_every_file_in_order_whatever_its_field(client: TestClient) -> None:
    files = [("images", ("a.png", PNG["red"])), ("other", ("b.png", PNG["blue"])), ("images", ("ü.png", PNG["green"]))]
    response = client.post("/v1/predict", files=files, data={"comment": "no file"})
    assert [(p["filename"], p["label"]) for p in response.json()["predictions"]] == [
        ("a.png", "red"),
        ("b.png", "blue"),
        ("ü.png", "green"),
    ]


def test_json_takes_base64_and_data_urls(client: TestClient) -> None:
    text = [base64.b64encode(PNG[colour]).decode() for colour in COLOURS]
    response = client.post("/v1/predict", json={"images": [text[0], f"data:image/png;base64,{text[1]}", text[2]]})
    assert [p["label"] for p in response.json()["predictions"]] == list(COLOURS)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("size", [SIZE, 3 * SIZE])
def test_npy_in_and_out(client: TestClient, order: Literal["C", "F"], size: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), np.uint8).repeat(size // SIZE, 1)
    images = np.array(images.repeat(size // SIZE, 2), order=order)
    response = post(client, npy(images), NPY, headers={"accept": NPY}, params={"version": "1"})
    assert response.headers["content-type"] == NPY
    probabilities = np.load(io.BytesIO(response.content))
    assert probabilities.dtype == np.float32
    assert np.abs(probabilities - colour_probabilities(images)).max() < (1e-6 if size == SIZE else 0.02)


def test_one_npy_image_needs_no_stack(client: TestClient) -> None:
    response = post(client, npy(np.asarray(picture("blue"))), NPY)
    assert [p["label"] for p in response.json()["predictions"]] == ["blue"]


def test_json_numbers_are_the_float32_values(client: TestClient) -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, SIZE, SIZE, 3), np.uint8)
    as_json = post(client, npy(image), NPY).json()["predictions"][0]["probabilities"]
    as_npy = np.load(io.BytesIO(post(client, npy(image), NPY, headers={"accept": NPY}).content))
    assert np.array_equal(np.array(list(as_json.values()), np.float32), as_npy[0])


def test_top_k_is_the_most_probable_in_falling_order(client: TestClient) -> None:
    image = encode(picture("red").point(lambda value: value))
    probabilities = post(client, image, "image/png", params={"top_k": 2}).json()["predictions"][0]["probabilities"]
    assert next(iter(probabilities)) == "red"
    assert len(probabilities) == 2
    assert list(probabilities.values()) == sorted(probabilities.values(), reverse=True)


def test_several_with_a_bad_one_is_200_with_its_error(client: TestClient) -> None:
    files = [("images", ("a.png", PNG["red"])), ("images", ("notes.txt", b"hello")), ("images", ("c.png", PNG["blue"]))]
    response = client.post("/v1/predict", files=files)
    assert response.status_code == 200
    first, second, third = response.json()["predictions"]
    assert (first["label"], third["label"]) == ("red", "blue")
    assert (second["index"], second["filename"], second["error"]["type"]) == (1, "notes.txt", "invalid-image")
    assert set(second["error"]) == {"type", "title", "detail"}


def test_bad_base64_has_its_error_in_its_place(client: TestClient) -> None:
    good = base64.b64encode(PNG["red"]).decode()
    predictions = client.post("/v1/predict", json={"images": ["%%%", "data:image/png,x", good]}).json()["predictions"]
    assert [("error" in p) for p in predictions] == [True, True, False]


def test_all_bad_is_422(client: TestClient) -> None:
    problem(post(client, b"hello", "image/png"), 422, "invalid-image")
    files = [("images", ("a", b"x")), ("images", ("b", b"y"))]
    problem(client.post("/v1/predict", files=files), 422, "invalid-image")


def test_npy_answers_are_all_or_nothing(client: TestClient) -> None:
    files = [("images", ("a", PNG["red"])), ("images", ("b", b"y"))]
    problem(client.post("/v1/predict", files=files, headers={"accept": NPY}), 422, "invalid-image")


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"{", "application/json"),
        (b"[]", "application/json"),
        (b'{"images": "x"}', "application/json"),
        (b'{"images": [1]}', "application/json"),
        (b"[" * 100_000, "application/json"),
        (b"nonsense", NPY),
        (npy(np.zeros((2, 4, 4, 3), np.uint8))[:-1], NPY),
        (npy(np.zeros((2, 4, 4, 3), np.uint8)) + b"x", NPY),
        (npy(np.array([{}], object)), NPY),
        (b"nonsense", "multipart/form-data; boundary=x"),
        (b"--x\r\n", "multipart/form-data; boundary=x"),
        (b"x", "multipart/form-data"),
        (
            b'--x\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\ncut',
            "multipart/form-data; boundary=x",
        ),
    ],
)
def test_bodies_that_cannot_be_parsed_are_400(client: TestClient, content: bytes, content_type: str) -> None:
    if content == npy(np.array([{}], object)):
        problem(post(client, content, content_type), 422, "wrong-shape")  # a pickle: refused by its dtype, never opened
    else:
        problem(post(client, content, content_type), 400, "malformed-request")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((1, 4, 4, 4), np.uint8),
        np.zeros((1, 4, 4, 3), np.float32),
        np.zeros((2, 0, 4, 3), np.uint8),
    ],
)
def test_arrays_that_are_no_images_are_wrong_shape(client: TestClient, array: np.ndarray) -> None:
    problem(post(client, npy(array), NPY), 422, "wrong-shape")


@pytest.mark.parametrize("shape", ["(1, -4, -4, 3)", "(True, 4, 4, 3)", "(1.0, 4, 4, 3)", "('1', 4, 4, 3)"])
def test_a_header_of_other_things_than_lengths_is_told(client: TestClient, shape: str) -> None:
    content = npy(np.zeros((1, 4, 4, 3), np.uint8))
    header = content.replace(b"(1, 4, 4, 3), }", shape.encode() + b", }")
    answer = post(client, header[:128].ljust(128) + bytes(48), NPY)
    assert answer.status_code in {400, 422}, answer.text


@pytest.mark.parametrize("length", [f"0x{'f' * 5000}", str(1 << 63)])
def test_a_header_of_lengths_that_no_array_has_is_told(client: TestClient, length: str) -> None:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({length}, 4, 3), }}".encode()
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    problem(post(client, content, NPY), 400, "malformed-request")


def test_parameters_that_the_parser_cannot_take_are_told(client: TestClient) -> None:
    problem(post(client, b"x", f"image/png; a*{'1' * 5000}=x"), 400, "malformed-request")
    assert post(client, b"x", "image/png; a*=x; a*0=y").status_code in {400, 422}  # Python 3.14 takes these


def test_no_images_of_an_impossible_size_are_no_images(client: TestClient) -> None:
    content = npy(np.zeros((0, 4, 4, 3), np.uint8)).replace(b"(0, 4, 4, 3), }", b"(0, 4000000000, 4000000000, 3), }")
    length = int.from_bytes(content[8:10], "little") + 18
    problem(post(client, content[:8] + length.to_bytes(2, "little") + content[10:], NPY), 422, "empty-request")


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"", "image/png"),
        (b'{"images": []}', "application/json"),
        (npy(np.zeros((0, 4, 4, 3), np.uint8)), NPY),
        (b"--x--\r\n", "multipart/form-data; boundary=x"),
    ],
)
def test_nothing_is_an_empty_request(client: TestClient, content: bytes, content_type: str) -> None:
    problem(post(client, content, content_type), 422, "empty-request")


@pytest.mark.parametrize(
    ("params", "headers"),
    [
        ({"top_k": "0"}, {}),
        ({"top_k": "4"}, {}),
        ({"top_k": "many"}, {}),
        ({}, {"x-request-timeout-ms": "soon"}),
        ({}, {"x-request-timeout-ms": "0"}),
        ({}, {"x-request-id": "a b"}),
    ],
)
def test_bad_parameters_are_400(client: TestClient, params: dict[str, str], headers: dict[str, str]) -> None:
    problem(post(client, PNG["red"], "image/png", params=params, headers=headers), 400, "malformed-request")


@pytest.mark.parametrize("params", [{"model": "shapes"}, {"version": "9"}, {"model": "../colours"}])
def test_unknown_models_are_404(client: TestClient, params: dict[str, str]) -> None:
    problem(post(client, PNG["red"], "image/png", params=params), 404, "model-not-found")


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/batches"])
def test_a_media_type_without_end_is_not_parsed(client: TestClient, path: str) -> None:
    sent = client.post(path, content=PNG["red"], headers={"content-type": 'a/b; x="' + ";" * 60_000})
    answer = problem(sent, 400, "malformed-request")
    assert answer["detail"] == "header Content-Type: it may have 1,024 bytes at most; send a shorter one."


@pytest.mark.parametrize("content_type", ["text/plain", "", "application/x-www-form-urlencoded"])
def test_other_media_types_are_415(client: TestClient, content_type: str) -> None:
    problem(post(client, PNG["red"], content_type), 415, "unsupported-media-type")


@pytest.mark.parametrize(
    ("content_type", "came"),
    [
        ("text/plain", "as text/plain."),
        (
            "application/x-www-form-urlencoded",
            "as a web form's fields; with curl, name the type: -H 'Content-Type: …'.",
        ),
        ("", "without a Content-Type."),
        ("a" * 200, "as " + "a" * 80 + "."),
    ],
)
@pytest.mark.parametrize("path", ["/v1/predict", "/v1/batches"])
def test_what_came_is_said(client: TestClient, path: str, content_type: str, came: str) -> None:
    answer = client.post(path, content=PNG["red"], headers={"content-type": content_type})
    assert (answer.status_code, answer.json()["detail"].startswith(f"The body came {came} Send")) == (415, True)


def test_compressed_bodies_are_415(client: TestClient) -> None:
    response = post(client, PNG["red"], "image/png", headers={"content-encoding": "gzip"})
    problem(response, 415, "unsupported-media-type")


def test_an_answer_nobody_can_give_is_406(client: TestClient) -> None:
    problem(post(client, PNG["red"], "image/png", headers={"accept": "image/png"}), 406, "not-acceptable")


def test_other_methods_are_405(client: TestClient) -> None:
    response = client.get("/v1/predict")
    problem(response, 405, "method-not-allowed")
    assert response.headers["allow"] == "POST"


def test_all_methods_that_a_path_takes_are_named(client: TestClient) -> None:
    assert client.put("/v1/batches").headers["allow"] == "GET, POST"
    assert client.put("/v1/batches/some").headers["allow"] == "GET, DELETE"
    assert client.put("/openapi.json").headers["allow"] == "GET, HEAD"


def test_other_paths_are_404(client: TestClient) -> None:
    problem(client.get("/v1/nothing"), 404, "not-found")


def test_a_request_id_is_echoed_or_made(client: TestClient) -> None:
    assert (
        post(client, PNG["red"], "image/png", headers={"x-request-id": "my-id.1"}).headers["x-request-id"] == "my-id.1"
    )
    assert len(post(client, PNG["red"], "image/png").headers["x-request-id"]) == 32


LIMITS = {"max_body_bytes": 4000, "max_image_bytes": 1000, "max_images_per_request": 2, "max_image_pixels": 400}


@pytest.fixture
def limited(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings.model_copy(update=LIMITS))) as client:
        yield client


@pytest.mark.parametrize(
    ("content", "content_type", "status", "slug"),
    [
        (b"x" * 1001, "image/png", 413, "body-too-large"),
        (b'{"images": ["' + b"A" * 4000 + b'"]}', "application/json", 413, "body-too-large"),
        (b'{"images": ["' + b"A" * 2000 + b'"]}', "application/json", 413, "body-too-large"),
        (b'{"images": ["", "", ""]}', "application/json", 413, "too-many-images"),
        (b'{"images": [' + b"{}," * 1000 + b"not parsed", "application/json", 413, "too-many-images"),
        (npy(np.zeros((3, 2, 2, 3), np.uint8)), NPY, 413, "too-many-images"),
        (npy(np.zeros((1, 30, 30, 3), np.uint8)), NPY, 422, "image-too-large"),
        (encode(picture("red", (21, 20))), "image/png", 422, "image-too-large"),
    ],
)
def test_limits(limited: TestClient, content: bytes, content_type: str, status: int, slug: str) -> None:
    problem(post(limited, content, content_type), status, slug)


def test_what_just_keeps_to_the_limits_is_answered(limited: TestClient) -> None:
    image = PNG["red"].ljust(LIMITS["max_image_bytes"], b"\0")
    answers = [
        post(limited, image, "image/png"),
        limited.post("/v1/predict", json={"images": [base64.b64encode(image).decode(), ""]}),
        post(limited, npy(np.zeros((2, 20, 20, 3), np.uint8)), NPY),
        limited.post("/v1/predict", files=[("images", ("name", image))] * 2),
    ]
    assert [answer.status_code for answer in answers] == [200] * 4
    assert answers[1].json()["predictions"][0]["label"] == "red"


def test_as_many_data_urls_as_images_may_be_sent(settings: Settings) -> None:
    """Each has a comma, which are counted before any is read."""
    url = "data:image/png;base64," + base64.b64encode(PNG["red"]).decode()
    with TestClient(create_app(settings.model_copy(update={"max_images_per_request": 70}))) as client:
        answer = client.post("/v1/predict", json={"images": [url] * 70})
    assert len(answer.json()["predictions"]) == 70


def test_limits_of_multipart(limited: TestClient) -> None:
    def files(*contents: bytes) -> list[tuple[str, tuple[str, bytes]]]:
        return [("images", ("name", content)) for content in contents]

    problem(limited.post("/v1/predict", files=files(b"x", b"y", b"z")), 413, "too-many-images")
    problem(limited.post("/v1/predict", files=files(b"x" * 1001)), 413, "body-too-large")
    fields = {f"field{i}": "x" for i in range(65)}
    big = limited.post("/v1/predict", files=files(b"x"), data=fields)
    problem(big, 413, "body-too-large" if int(big.request.headers["content-length"]) > 4000 else "too-many-images")


def test_a_body_without_a_length_is_limited_while_it_is_read(limited: TestClient) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 100:
            sent += 1
            yield b"x" * 500

    response = limited.post("/v1/predict", content=endless(), headers={"content-type": "image/png"})
    problem(response, 413, "body-too-large")


def test_a_full_queue_is_503_with_retry_after(settings: Settings) -> None:
    small = settings.model_copy(update={"queue_capacity": 1})
    with TestClient(create_app(small)) as client:
        response = post(client, npy(np.zeros((2, SIZE, SIZE, 3), np.uint8)), NPY)
        problem(response, 503, "overloaded")
        assert response.headers["retry-after"] == "1"


@pytest.mark.parametrize("keyed", [True, False])
def test_who_has_his_share_under_way_gets_429_and_the_others_are_answered(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, keyed: bool
) -> None:
    (tmp_path / "keys").write_text("a-key-of-the-shop\na-key-of-the-office\n")
    shared = {"queue_capacity": 8, "client_share": 0.5, "max_images_per_request": 4}
    with TestClient(
        create_app(settings.model_copy(update=shared | ({"api_keys_file": tmp_path / "keys"} if keyed else {})))
    ) as client:
        batcher = client.app.state.served.choose().batcher  # type: ignore[attr-defined]
        run, held, release = batcher._run, threading.Event(), threading.Event()

        async def hold(rows: Rows) -> Probabilities:
            held.set()
            await asyncio.to_thread(release.wait, 30)
            return await run(rows)  # type: ignore[no-any-return]

        def ask(images: int, key: str = "a-key-of-the-shop") -> httpx2.Response:
            return post(client, npy(np.zeros((images, SIZE, SIZE, 3), np.uint8)), NPY, headers={"x-api-key": key})

        monkeypatch.setattr(batcher, "_run", hold)
        with ThreadPoolExecutor() as threads:
            first = threads.submit(ask, 3)
            assert held.wait(30)
            refused = ask(2)
            problem(refused, 429, "too-many-requests")
            assert refused.headers["retry-after"] == "1"
            other = threads.submit(ask, 1 if not keyed else 4, "a-key-of-the-office")  # by address they are the same
            release.set()
            assert (first.result().status_code, other.result().status_code) == (200, 200)
        assert ask(4).status_code == 200


def test_a_deadline_that_passes_is_504(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    batcher = client.app.state.served.choose().batcher  # type: ignore[attr-defined]
    run: Run = batcher._run

    async def held(rows: Rows) -> Probabilities:
        await asyncio.to_thread(release.wait, 10)
        return await run(rows)

    monkeypatch.setattr(batcher, "_run", held)
    problem(post(client, PNG["red"], "image/png", headers={"x-request-timeout-ms": "20"}), 504, "deadline-exceeded")
    release.set()
    assert post(client, PNG["red"], "image/png").status_code == 200


def test_an_unexpected_error_is_500_and_says_nothing_of_itself(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:

        async def explode(*_: object, **__: object) -> None:
            raise RuntimeError("secret")

        monkeypatch.setattr(client.app.state.classifier, "classify", explode)  # type: ignore[attr-defined]
        body = problem(post(client, PNG["red"], "image/png"), 500, "internal-error")
        assert "secret" not in str(body)


def test_who_hangs_up_leaves_the_queue(settings: Settings) -> None:
    statuses: list[int] = []

    def request(connection: Connection) -> Coroutine[None, None, None]:
        scope = {
            "type": "http", "method": "POST", "path": "/v1/predict", "query_string": b"",
            "headers": [(b"content-type", b"image/png")], "extensions": {CONNECTION_EXTENSION: connection},
        }  # fmt: skip

        async def receive() -> Message:
            return {"type": "http.request", "body": PNG["red"]}

        async def send(message: Message) -> None:
            statuses.extend([message["status"]] if "status" in message else [])

        return app(scope, receive, send)

    async def scenario() -> None:
        await models.start()
        batcher = models.choose().batcher
        run, engine_is_free = batcher._run, asyncio.Event()

        async def held(rows: Rows) -> Probabilities:
            await engine_is_free.wait()
            return await run(rows)

        connections = [Connection() for _ in range(3)]
        async with asyncio.timeout(10):
            while batcher._running:  # with the canary
                await asyncio.sleep(0)
            batcher._run = held
            tasks = [asyncio.create_task(request(connections[0]))]
            while not batcher._running:
                await asyncio.sleep(0)
            tasks += [asyncio.create_task(request(connection)) for connection in connections[1:]]
            while batcher.queued_rows < 2:
                await asyncio.sleep(0)
        connections[0].end()  # its image is with the engine
        connections[1].end()  # its image waits
        await asyncio.gather(*tasks[:2])
        assert (statuses, batcher.queued_rows) == ([499, 499], 1)
        engine_is_free.set()
        await tasks[2]
        assert statuses == [499, 499, 200]
        assert not connections[2].tasks
        await models.stop()

    app = create_app(settings)
    models: ServedModels = app.state.served
    asyncio.run(scenario())

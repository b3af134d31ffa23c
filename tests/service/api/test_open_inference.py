"""/v2, the Open Inference Protocol: what its clients send, and what they get."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import orjson
import pytest
import tritonclient.http as triton
from httpx2 import Response
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from starlette.testclient import TestClient
from tritonclient.utils import InferenceServerException

from service.api.open_inference import tensors
from service.api.open_inference.bodies import InferRequest
from service.app import create_app
from service.counters import Counters
from service.errors import DeviceLost, InferenceFailed, MalformedRequest, ServiceError
from service.settings import Settings
from service.types import Rows
from tests.conftest import COLOURS, RGB, SIZE, colour_probabilities, encode, picture, write_colour_model
from tests.processes import running

INFER = "/v2/models/colours/infer"
PIXELS: Rows = np.stack([np.asarray(picture(colour)) for colour in COLOURS])
ENCODED = [encode(picture(colour)) for colour in COLOURS]
EXPECTED = colour_probabilities(PIXELS, 0.01)  # of version 2, which is the active one


def tensor(**changes: object) -> dict[str, Any]:
    given = {"name": "image", "shape": [3, SIZE, SIZE, 3], "datatype": "UINT8", "data": PIXELS.tolist()}
    return {name: value for name, value in {**given, **changes}.items() if value is not None}


def texts(images: list[bytes], **changes: object) -> dict[str, Any]:
    data = [base64.b64encode(image).decode() for image in images]
    return tensor(**{"shape": [len(images)], "datatype": "BYTES", "data": data} | changes)


def binary(images: list[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(image)) + image for image in images)


def send_binary(client: TestClient, tail: bytes, given: dict[str, Any], **request: object) -> Response:
    """A request with binary data behind its JSON object, as the extension has it."""
    given = {**given, "data": None, "parameters": {"binary_data_size": len(tail)}}
    head = json.dumps({"inputs": [{name: value for name, value in given.items() if value is not None}], **request})
    headers = {"Inference-Header-Content-Length": str(len(head.encode()))}
    return client.post(INFER, content=head.encode() + tail, headers=headers)


@pytest.mark.parametrize(
    "given",
    [
        tensor(),
        tensor(data=PIXELS.ravel().tolist()),
        texts(ENCODED),
        texts(ENCODED, shape=[3, 1]),
        tensor(shape=[3, 16, 16, 3], data=PIXELS.repeat(2, 1).repeat(2, 2).tolist()),
    ],
    ids=["nested", "flat", "encoded", "encoded, a row each", "of another size"],
)
def test_images_in_json_get_their_probabilities(client: TestClient, given: dict[str, Any]) -> None:
    answer = client.post(INFER, json={"id": "seven", "inputs": [given]}).json()
    (output,) = answer.pop("outputs")
    assert answer == {"id": "seven", "model_name": "colours", "model_version": "2"}
    assert (output["name"], output["datatype"], output["shape"]) == ("probabilities", "FP32", [3, 3])
    np.testing.assert_allclose(np.reshape(output["data"], (3, 3)), EXPECTED, atol=1e-6)


@pytest.mark.parametrize(
    ("tail", "asked"), [(PIXELS.tobytes(), tensor()), (binary(ENCODED), texts(ENCODED))], ids=["pixels", "encoded"]
)
@pytest.mark.parametrize("where", ["request", "output"])
def test_binary_data_goes_both_ways(client: TestClient, tail: bytes, asked: dict[str, Any], where: str) -> None:
    wanted = (
        {"parameters": {"binary_data_output": True}}
        if where == "request"
        else {"outputs": [{"name": "probabilities", "parameters": {"binary_data": True}}]}
    )
    answer = send_binary(client, tail, asked, **wanted)
    header = int(answer.headers["inference-header-content-length"])
    (output,) = json.loads(answer.content[:header])["outputs"]
    assert output["parameters"] == {"binary_data_size": 36}
    np.testing.assert_allclose(np.frombuffer(answer.content[header:], "<f4").reshape(3, 3), EXPECTED, atol=1e-6)


def test_a_version_can_be_named(client: TestClient) -> None:
    answer = client.post("/v2/models/colours/versions/1/infer", json={"inputs": [tensor()]}).json()
    assert answer["model_version"] == "1"
    np.testing.assert_allclose(
        np.reshape(answer["outputs"][0]["data"], (3, 3)), colour_probabilities(PIXELS), atol=1e-6
    )


def test_what_is_null_is_left_out(client: TestClient) -> None:
    """As serializers write fields that nobody has set."""
    asked = {"id": None, "parameters": None, "inputs": [tensor() | {"parameters": None}], "outputs": None}
    answer = client.post(INFER, json=asked)
    assert answer.status_code == 200
    np.testing.assert_allclose(np.reshape(answer.json()["outputs"][0]["data"], (3, 3)), EXPECTED, atol=1e-6)


def test_classification_names_the_most_probable(client: TestClient) -> None:
    outputs = [{"name": "probabilities", "parameters": {"classification": 2}}]
    (output,) = client.post(INFER, json={"inputs": [tensor()], "outputs": outputs}).json()["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [3, 2])
    probability, index, label = output["data"][2].split(":")
    assert (index, label) == ("1", "green")
    assert float(probability) == pytest.approx(EXPECTED[1, 1], abs=1e-6)


def test_more_classes_than_there_are_is_all_of_them(client: TestClient) -> None:
    outputs = [{"name": "probabilities", "parameters": {"classification": 99}}]
    (output,) = client.post(INFER, json={"inputs": [tensor()], "outputs": outputs}).json()["outputs"]
    assert output["shape"] == [3, 3]


@pytest.mark.parametrize(
    ("request_", "status", "told"),
    [
        ({}, 400, "inputs: it must be there."),
        ({"inputs": []}, 400, "inputs: it must have 1 at least."),
        ({"inputs": [tensor(), tensor()]}, 400, "inputs: it must have 1 at most."),
        ({"inputs": [tensor(name="x")]}, 400, "has one input, image"),
        ({"inputs": [tensor(datatype="FP32")]}, 400, "UINT8 [N, height, width, 3], or BYTES"),
        ({"inputs": [tensor(shape=[3, SIZE, SIZE])]}, 422, "send UINT8 [N, height, width, 3]"),
        ({"inputs": [tensor(shape=[3, SIZE, SIZE, 4])]}, 422, "send UINT8"),
        ({"inputs": [tensor(shape=[3, SIZE, 0, 3])]}, 422, "send UINT8"),
        ({"inputs": [tensor(shape=[2, SIZE, SIZE, 3])]}, 422, "has 576 values, not the 384 of the shape"),
        ({"inputs": [tensor(shape=[-1, SIZE, SIZE, 3])]}, 400, "inputs.0.shape.0: it must be 0 or more."),
        ({"inputs": [tensor(shape=[0, SIZE, SIZE, 3], data=[])]}, 422, "holds no image"),
        ({"inputs": [texts([], shape=[0])]}, 422, "holds no image"),
        ({"inputs": [tensor(shape=[2000, SIZE, SIZE, 3])]}, 413, "1,024 images at most"),
        ({"inputs": [tensor(shape=[1, 10_000, 10_000, 3])]}, 422, "40,000,000 pixels at most"),
        ({"inputs": [tensor(data=None)]}, 400, "either data, or binary_data_size"),
        ({"inputs": [tensor(parameters={"binary_data_size": 5})]}, 400, "either data, or binary_data_size"),
        ({"inputs": [tensor(data=[[1], [1, 2]])]}, 400, "rows differ in length"),
        ({"inputs": [tensor(data=[0.5] * 576)]}, 400, "whole numbers from 0 to 255"),
        ({"inputs": [tensor(data=[256] * 576)]}, 400, "whole numbers from 0 to 255"),
        ({"inputs": [tensor(data=[-1] * 576)]}, 400, "whole numbers from 0 to 255"),
        ({"inputs": [tensor(data=[2**63] * 576)]}, 400, "whole numbers from 0 to 255"),
        ({"inputs": [tensor(data=[True] * 576)]}, 400, "whole numbers from 0 to 255"),
        ({"inputs": [tensor(data=["1"] * 576)]}, 400, "whole numbers from 0 to 255"),
        ({"inputs": [tensor(data=[[1], 1])]}, 400, "whole numbers from 0 to 255"),
        ({"inputs": [tensor(data={"a": 1})]}, 400, "whole numbers from 0 to 255"),
        ({"inputs": [texts(ENCODED, data=[1, 2, 3])]}, 400, "a list of texts"),
        ({"inputs": [texts(ENCODED, shape=[2])]}, 422, "has 3 values, not the 2"),
        ({"inputs": [texts(ENCODED, shape=[3, 2])]}, 422, "send BYTES [N]"),
        ({"inputs": [texts([b"no image", ENCODED[0]])]}, 422, "Image 0: "),
        ({"inputs": [texts([b"no image"])]}, 422, "image"),
        ({"inputs": [tensor()], "outputs": [{"name": "logits"}]}, 400, "outputs.0.name: it must be 'probabilities'."),
        ({"inputs": [tensor()], "parameters": {"timeout": -1}}, 400, "parameter timeout"),
        ({"inputs": [tensor()], "parameters": {"priority": "high"}}, 400, "parameter priority"),
        ({"inputs": [tensor()], "parameters": {"binary_data_output": 1}}, 400, "parameter binary_data_output"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(
    client: TestClient, request_: dict[str, Any], status: int, told: str
) -> None:
    response = client.post(INFER, json=request_)
    assert response.status_code == status, response.text
    assert response.json().keys() == {"error"}
    assert told in response.json()["error"]


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"inputs": [tensor(shape=[-1] * 10_000)]}, "inputs.0.shape: it must have 8 at most."),
        ({"inputs": [tensor(shape=[1] * 10_000)]}, "inputs.0.shape: it must have 8 at most."),
        ({"inputs": [1] * 10_000}, "inputs: it must have 1 at most."),
        ({"inputs": [tensor()], "outputs": [1] * 10_000}, "outputs: it must have 1 at most."),
    ],
    ids=["bad sizes", "sizes", "inputs", "outputs"],
)
def test_of_a_list_without_end_not_every_element_is_an_error(document: dict[str, Any], told: str) -> None:
    with pytest.raises(MalformedRequest) as found:
        InferRequest.of(document)
    assert found.value.detail == told
    assert isinstance(found.value.__cause__, ValidationError)
    assert found.value.__cause__.error_count() == 1


def test_texts_in_the_place_of_numbers_get_no_room(client: TestClient) -> None:
    """An array of texts has room for the longest one in each place."""
    tracemalloc.start()
    response = client.post(INFER, json={"inputs": [tensor(data=["x" * 200_000, *[""] * 500])]})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert response.status_code == 400
    assert peak < 10_000_000


@pytest.mark.parametrize(
    ("tail", "told"),
    [
        (b"\1\0", "ends within an element"),
        (struct.pack("<I", 9) + b"short", "ends within an element"),
        (binary(ENCODED[:2]), "more values, or fewer, than the shape [3]"),
        (binary([*ENCODED, b""]), "more values, or fewer, than the shape [3]"),
    ],
)
def test_binary_data_that_does_not_add_up_is_refused(client: TestClient, tail: bytes, told: str) -> None:
    response = send_binary(client, tail, texts(ENCODED))
    assert response.status_code in (400, 422)
    assert told in response.json()["error"]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
PLACES: list[tuple[str | int, ...]] = [
    ("id",), ("parameters",), ("parameters", "timeout"), ("parameters", "binary_data_output"), ("inputs",),
    ("inputs", 0), ("inputs", 0, "shape"), ("inputs", 0, "datatype"), ("inputs", 0, "data"),
    ("inputs", 0, "parameters"), ("inputs", 0, "parameters", "binary_data_size"), ("outputs",), ("outputs", 0),
    ("outputs", 0, "parameters"), ("outputs", 0, "parameters", "classification"),
]  # fmt: skip


@given(place=st.sampled_from(PLACES), value=ANYTHING, tail=st.binary(max_size=40), encoded=st.booleans())
@hypothesis.settings(max_examples=300, deadline=None)
def test_whatever_is_sent_is_a_request_or_an_error(
    place: tuple[str | int, ...], value: object, tail: bytes, encoded: bool
) -> None:
    tensor_ = {**(texts([b"a"]) if encoded else tensor(shape=[1, 1, 1, 3], data=[1, 2, 3])), "parameters": {}}
    document: Any = {"inputs": [tensor_], "outputs": [{"name": "probabilities", "parameters": {}}], "parameters": {}}
    inside = document
    for step in place[:-1]:
        inside = inside[step]
    inside[place[-1]] = value
    head = orjson.dumps(document, option=orjson.OPT_NON_STR_KEYS)
    with suppress(ServiceError):
        asked = tensors.read(head + tail, len(head), Settings())
        assert len(asked.pictures) <= 1024


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"{}", {"Inference-Header-Content-Length": "9"}, 400),
        (b"{}", {"Inference-Header-Content-Length": "-1"}, 400),
        (b"{}", {"Content-Encoding": "gzip"}, 415),
        (b"[" * 5000, {}, 400),
    ],
)
def test_what_is_no_request_is_refused(
    client: TestClient, content: bytes, headers: dict[str, str], status: int
) -> None:
    response = client.post(INFER, content=content, headers=headers)
    assert response.status_code == status
    assert response.json().keys() == {"error"}


def test_limits_are_kept(settings: Settings) -> None:
    small = settings.model_copy(update={"max_body_bytes": 1000, "max_image_bytes": 50})
    with TestClient(create_app(small)) as client:
        assert client.post(INFER, json={"inputs": [tensor()]}).status_code == 413
        too_large = send_binary(client, binary([b"x" * 51]), texts([b""]))
        assert (too_large.status_code, "50 bytes at most" in too_large.json()["error"]) == (413, True)


@pytest.mark.parametrize("given", [{"timeout": 1}, {"timeout": "1"}])
def test_a_timeout_in_microseconds_is_kept(client: TestClient, given: dict[str, Any]) -> None:
    response = client.post(INFER, json={"inputs": [tensor()], "parameters": given})
    assert response.status_code == 504


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [(InferenceFailed("The model failed."), 500, "Image 0: The model failed."), (DeviceLost(), 503, "The device has")],
)
def test_what_fails_in_the_model_is_an_error_of_the_protocol(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, error: InferenceFailed, status: int, told: str
) -> None:
    async def fail(*_given: object, **_named: object) -> list[InferenceFailed]:
        return [error, error]

    monkeypatch.setattr(client.app.state.classifier, "classify", fail)  # type: ignore[attr-defined]
    response = client.post(INFER, json={"inputs": [tensor()]})
    assert response.status_code == status
    assert response.json()["error"].startswith(told)


@pytest.mark.parametrize("path", ["/v2/models/none", "/v2/models/colours/versions/9/ready", "/v2/none"])
def test_what_is_not_there_is_an_error_of_the_protocol(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 404
    assert response.json().keys() == {"error"}


def test_a_model_says_what_it_takes_and_gives(client: TestClient) -> None:
    assert client.get("/v2/models/colours").json() == {
        "name": "colours",
        "versions": ["1", "2"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, SIZE, SIZE, 3]}],
        "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}],
    }


def test_readiness_is_the_models(client: TestClient) -> None:
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2/models/colours/ready").json() == {"name": "colours", "ready": True}
    client.app.state.served._unwell["colours"] = "It fails."  # type: ignore[attr-defined]
    unready = client.get("/v2/health/ready")
    assert (unready.status_code, unready.headers["retry-after"]) == (503, "1")
    response = client.get("/v2/models/colours/versions/2/ready")
    assert (response.status_code, response.json()) == (503, {"name": "colours", "ready": False})
    assert response.headers["retry-after"] == "1"
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/live?version=1").json() == {"live": True}  # as balancers may ask


def test_images_are_counted_by_version(client: TestClient) -> None:
    client.post(INFER, json={"inputs": [tensor()]})
    client.post(INFER, json={"inputs": [texts([b"no image"])]})
    client.post("/v2/models/colours/versions/1/infer", json={"inputs": [texts(ENCODED[:1])]})
    counts = {
        stats["version"]: (stats["inference_count"], stats["inference_stats"]["fail"]["count"])
        for stats in client.get("/v2/models/colours/stats").json()["model_stats"]
    }
    assert counts == {"1": (1, 0), "2": (3, 1)}
    assert len(client.get("/v2/models/stats").json()["model_stats"]) == 2
    assert len(client.get("/v2/models/colours/versions/2/stats").json()["model_stats"]) == 1


def test_statistics_of_all_models_are_one_look_at_what_is_counted_and_not_on_the_event_loop(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    totals, looks = Counters.totals, list[str]()

    def look(counters: Counters, prefix: str = "") -> dict[str, float]:
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        looks.append(prefix)
        return totals(counters, prefix)

    monkeypatch.setattr(Counters, "totals", look)
    assert len(client.get("/v2/models/stats").json()["model_stats"]) == 2
    assert looks == ["convoy_images_total{"]


@pytest.fixture(scope="module")
def unmodified(tmp_path_factory: pytest.TempPathFactory) -> Iterator[triton.InferenceServerClient]:
    """NVIDIA's own client of Triton, and a real server."""
    root = tmp_path_factory.mktemp("models")
    write_colour_model(root / "colours" / "2", scale=0.01)
    with running(root, jobs_dir=str(root / "jobs")) as convoy:
        client = triton.InferenceServerClient(f"127.0.0.1:{convoy.port}")
        yield client
        client.close()


def inputs(name: str, *, as_binary: bool) -> list[triton.InferInput]:
    data = PIXELS if name == "UINT8" else np.array(ENCODED, np.object_)
    given = triton.InferInput("image", list(data.shape), name)
    given.set_data_from_numpy(data, binary_data=as_binary)
    return [given]


@pytest.mark.parametrize(("datatype", "as_binary"), [("UINT8", True), ("UINT8", False), ("BYTES", True)])
@pytest.mark.parametrize("answer_binary", [True, False])
def test_tritons_client_is_answered(
    unmodified: triton.InferenceServerClient, datatype: str, as_binary: bool, answer_binary: bool
) -> None:
    outputs = [triton.InferRequestedOutput("probabilities", binary_data=answer_binary)]
    result = unmodified.infer(
        "colours", inputs(datatype, as_binary=as_binary), outputs=outputs, request_id="1", priority=2, timeout=10**7
    )
    np.testing.assert_allclose(result.as_numpy("probabilities"), EXPECTED, atol=1e-6)
    assert result.get_response()["id"] == "1"


def test_tritons_client_gets_classes(unmodified: triton.InferenceServerClient) -> None:
    outputs = [triton.InferRequestedOutput("probabilities", class_count=1)]
    result = unmodified.infer("colours", inputs("UINT8", as_binary=True), outputs=outputs)
    assert [row[0].decode().split(":")[2] for row in result.as_numpy("probabilities")] == list(RGB)


def test_tritons_client_learns_about_the_server(unmodified: triton.InferenceServerClient) -> None:
    assert unmodified.is_server_live()
    assert unmodified.is_server_ready()
    assert unmodified.is_model_ready("colours")
    assert not unmodified.is_model_ready("none")
    assert "binary_tensor_data" in unmodified.get_server_metadata()["extensions"]
    assert unmodified.get_model_metadata("colours", "2")["outputs"][0]["name"] == "probabilities"
    assert unmodified.get_model_config("colours")["input"][0]["dims"] == [SIZE, SIZE, 3]
    assert unmodified.get_model_repository_index() == [
        {"name": "colours", "version": "2", "state": "READY", "reason": ""}
    ]
    assert unmodified.get_inference_statistics("colours")["model_stats"][0]["name"] == "colours"


def test_tritons_client_loads_and_unloads_models(tmp_path: Path) -> None:
    for name in ("colours", "shades"):
        write_colour_model(tmp_path / "models" / name / "1")
    (tmp_path / "admins").write_text("a-key-of-the-operator\n")
    headers = {"Authorization": "Bearer a-key-of-the-operator"}
    given = {"admin_keys_file": str(tmp_path / "admins"), "jobs_dir": str(tmp_path / "jobs")}
    with running(tmp_path / "models", **given) as convoy:
        client = triton.InferenceServerClient(f"127.0.0.1:{convoy.port}")
        client.unload_model("shades", headers=headers)
        assert not client.is_model_ready("shades")
        assert client.get_model_repository_index()[1] == {
            "name": "shades", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded",
        }  # fmt: skip
        client.load_model("shades", headers=headers)
        assert client.is_model_ready("shades")
        with pytest.raises(InferenceServerException, match="asks for a key"):
            client.unload_model("shades")
        with pytest.raises(InferenceServerException, match="The default model must have"):
            client.unload_model("colours", headers=headers)
        with pytest.raises(InferenceServerException, match="no such version"):
            client.load_model("none", headers=headers)
        with pytest.raises(InferenceServerException, match="parameters"):
            client.load_model("shades", headers=headers, config="{}")
        client.close()


@pytest.mark.parametrize("content", [b"\xff", b"[" * 200_000, b"{", b"[]", b'{"ready": 1}', b" " * 100_000])
def test_what_is_no_request_about_the_repository_is_told(client: TestClient, content: bytes) -> None:
    answer = client.post("/v2/repository/index", content=content)
    assert answer.status_code == (413 if len(content) > 64 << 10 else 400)
    assert answer.json()["error"]


def test_no_body_is_read_for_who_may_not_ask(client: TestClient) -> None:
    assert client.post("/v2/repository/models/colours/load", content=b"{").status_code == 403


@pytest.mark.parametrize(
    ("data", "status"), [(b"{}," * 64, 400), (b"[]," * 2_500_000, 413), (b"1," * 5_000_000, 413), (b"1," * 10, 422)]
)
def test_json_of_very_many_values_is_not_parsed(client: TestClient, data: bytes, status: int) -> None:
    head = b'{"inputs": [{"name": "image", "shape": [1, 2, 2, 3], "datatype": "UINT8", "data": ['
    answer = client.post("/v2/models/colours/infer", content=head + data + b"1]}]}")
    assert answer.status_code == status, answer.text


def test_tritons_client_understands_what_is_wrong(unmodified: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="There is no such model"):
        unmodified.infer("none", inputs("UINT8", as_binary=True))

"""The Open Inference Protocol over gRPC: real processes, asked by NVIDIA's own client of Triton, unmodified."""

from __future__ import annotations

import base64
import json
import queue
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.grpc as triton
from google.protobuf.descriptor import Descriptor
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.grpc.service_pb2 import ModelInferRequest as Request
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub as Stub
from tritonclient.utils import InferenceServerException

from service.rpc import open_inference_pb2 as ours
from service.types import Rows
from tests.conftest import COLOURS, SIZE, colour_probabilities, encode, picture, write_colour_model
from tests.processes import Convoy, running

PIXELS: Rows = np.stack([np.asarray(picture(colour)) for colour in COLOURS])
ENCODED = [encode(picture(colour)) for colour in COLOURS]
EXPECTED = colour_probabilities(PIXELS, 0.01)
LIMIT = 100_000  # bytes of a request


@pytest.fixture(scope="module")
def convoy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Convoy]:
    root = tmp_path_factory.mktemp("models")
    write_colour_model(root / "colours" / "1")
    write_colour_model(root / "colours" / "2", scale=0.01)
    with running(root, grpc_port="0", max_body_bytes=str(LIMIT), jobs_dir=str(root / "jobs")) as convoy:
        yield convoy


@pytest.fixture(scope="module")
def client(convoy: Convoy) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(convoy.grpc) as client:
        yield client


@pytest.fixture(scope="module")
def stub(convoy: Convoy) -> Iterator[Stub]:
    """The generated client, for messages that Triton's library would not send."""
    with grpc.insecure_channel(convoy.grpc) as channel:
        yield Stub(channel)


def tensor(data: npt.NDArray[Any], datatype: str) -> triton.InferInput:
    given = triton.InferInput("image", list(np.shape(data)), datatype)
    given.set_data_from_numpy(data)
    return given


def message(**changes: object) -> Request:
    """Three images as the message's own numbers."""
    contents = service_pb2.InferTensorContents(uint_contents=PIXELS.ravel().tolist())
    image = Request.InferInputTensor(name="image", datatype="UINT8", shape=[3, SIZE, SIZE, 3], contents=contents)
    return Request(**{"model_name": "colours", "inputs": [image], **changes})


def raw_probabilities(answer: service_pb2.ModelInferResponse) -> npt.NDArray[np.float32]:
    return np.frombuffer(answer.raw_output_contents[0], "<f4").reshape(answer.outputs[0].shape)


@pytest.mark.parametrize(
    "given",
    [tensor(PIXELS, "UINT8"), tensor(np.array(ENCODED, np.object_), "BYTES")],
    ids=["pixels", "encoded"],
)
def test_images_get_their_probabilities(client: triton.InferenceServerClient, given: triton.InferInput) -> None:
    result = client.infer("colours", [given], request_id="seven", priority=2, timeout=10**7, client_timeout=30)
    np.testing.assert_allclose(result.as_numpy("probabilities"), EXPECTED, atol=1e-6)
    answer = result.get_response()
    assert (answer.id, answer.model_name, answer.model_version) == ("seven", "colours", "2")


def test_a_version_may_be_named(client: triton.InferenceServerClient) -> None:
    result = client.infer("colours", [tensor(PIXELS, "UINT8")], model_version="1")
    np.testing.assert_allclose(result.as_numpy("probabilities"), colour_probabilities(PIXELS), atol=1e-6)


def test_only_the_most_probable_classes_may_be_asked_for(client: triton.InferenceServerClient) -> None:
    outputs = [triton.InferRequestedOutput("probabilities", class_count=1)]
    result = client.infer("colours", [tensor(PIXELS, "UINT8")], outputs=outputs)
    assert [row[0].decode().split(":")[2] for row in result.as_numpy("probabilities")] == list(COLOURS)


def test_images_may_be_the_numbers_of_the_message(stub: Stub) -> None:
    np.testing.assert_allclose(raw_probabilities(stub.ModelInfer(message())), EXPECTED, atol=1e-6)


def test_encoded_images_may_be_the_bytes_of_the_message(stub: Stub) -> None:
    image = Request.InferInputTensor(
        name="image", datatype="BYTES", shape=[3], contents=service_pb2.InferTensorContents(bytes_contents=ENCODED)
    )
    np.testing.assert_allclose(raw_probabilities(stub.ModelInfer(message(inputs=[image]))), EXPECTED, atol=1e-6)


def test_the_server_and_its_models_describe_themselves(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("colours")
    assert not client.is_model_ready("nothing")  # no error, as over HTTP: who waits for a model asks again and again
    assert not client.is_model_ready("colours", "9")
    assert client.get_server_metadata().name == "convoy"
    metadata = client.get_model_metadata("colours", "2", as_json=True)
    assert (metadata["versions"], metadata["inputs"][0]["shape"]) == (["1", "2"], ["-1", "8", "8", "3"])
    config = client.get_model_config("colours", as_json=True)["config"]
    assert (config["backend"], config["input"][0]["data_type"], config["max_batch_size"] >= 16) == (
        "onnxruntime", "TYPE_UINT8", True,
    )  # fmt: skip
    assert [entry.state for entry in client.get_model_repository_index().models] == ["READY", "READY"]


def test_images_are_counted_as_those_over_http_are(client: triton.InferenceServerClient, convoy: Convoy) -> None:
    def counts() -> tuple[int, int]:
        (stats,) = client.get_inference_statistics("colours", "2").model_stats
        metrics = urllib.request.urlopen(f"http://127.0.0.1:{convoy.port}/metrics").read().decode()
        row = 'convoy_requests_total{route="/inference.GRPCInferenceService/ModelInfer",method="POST",status="200"} '
        return stats.inference_count, int(metrics.partition(row)[2].split("\n")[0] or 0)

    images, requests = counts()
    client.infer("colours", [tensor(PIXELS, "UINT8")])
    assert counts() == (images + 3, requests + 1)


@pytest.mark.parametrize(
    ("given", "code", "told"),
    [
        (message(model_name="none"), "NOT_FOUND", "There is no such model"),
        (message(model_version="9"), "NOT_FOUND", "That version"),
        (message(inputs=[]), "INVALID_ARGUMENT", "inputs: "),
        (message(raw_input_contents=[b"x"]), "INVALID_ARGUMENT", "An input has either contents, or"),
        (message(parameters={"timeout": service_pb2.InferParameter(string_param="soon")}), "INVALID_ARGUMENT", "param"),
    ],
    ids=["model", "version", "no input", "two kinds of data", "parameter"],
)
def test_what_is_wrong_is_a_code_and_a_sentence(stub: Stub, given: Request, code: str, told: str) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        stub.ModelInfer(given)
    assert (raised.value.code().name, raised.value.details()[: len(told)]) == (code, told)


def image(**changes: object) -> Request.InferInputTensor:
    return Request.InferInputTensor(**{"name": "image", "datatype": "UINT8", "shape": [1, SIZE, SIZE, 3], **changes})


@pytest.mark.parametrize(
    ("given", "raw", "told"),
    [
        (image(), PIXELS[0].tobytes()[:-1], "image has 191 values"),
        (image(shape=[-1, SIZE, SIZE, 3]), PIXELS[0].tobytes(), "inputs.0.shape.0: "),
        (image(shape=[0, SIZE, SIZE, 3]), b"", "The request holds no image"),
        (image(datatype="FP32"), bytes(4 * SIZE * SIZE * 3), "The model has one input, image"),
        (image(datatype="BYTES", shape=[1]), b"\xff\xff\xff\xff", "The binary data of image ends within"),
        (image(datatype="BYTES", shape=[1]), b"\x03\x00\x00\x00abc", "The bytes are no image"),
    ],
    ids=["too few bytes", "negative", "empty", "datatype", "length", "no image"],
)
def test_raw_data_that_is_no_image_is_said_to_be_none(
    stub: Stub, given: Request.InferInputTensor, raw: bytes, told: str
) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        stub.ModelInfer(message(inputs=[given], raw_input_contents=[raw]))
    assert (raised.value.code().name, raised.value.details()[: len(told)]) == ("INVALID_ARGUMENT", told)


def test_numbers_that_are_no_pixels_are_refused(stub: Stub) -> None:
    contents = service_pb2.InferTensorContents(uint_contents=[256] * SIZE * SIZE * 3)
    with pytest.raises(grpc.RpcError, match="whole numbers from 0 to 255"):
        stub.ModelInfer(message(inputs=[image(contents=contents)]))


def test_a_message_beyond_the_limit_is_refused(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="larger than max"):
        client.infer("colours", [tensor(np.zeros((1, 200, 200, 3), np.uint8), "UINT8")])


def test_a_time_that_is_over_is_told(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="DEADLINE_EXCEEDED"):
        client.infer("colours", [tensor(PIXELS, "UINT8")], timeout=1)


def test_a_request_keeps_its_id(stub: Stub) -> None:
    _, call = stub.ModelInfer.with_call(message(), metadata=[("x-request-id", "mine")])
    assert dict(call.trailing_metadata())["x-request-id"] == "mine"
    with pytest.raises(grpc.RpcError, match="X-Request-Id"):
        stub.ModelInfer(message(), metadata=[("x-request-id", "not one")])


def test_a_method_that_is_not_there_is_said_to_be_none(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="UNIMPLEMENTED"):
        client.get_trace_settings("colours")


def test_grpc_writes_nothing_of_its_own_to_the_log(convoy: Convoy) -> None:
    """It did, whenever a batch had a process started that reads its images."""
    row = json.dumps({"image": base64.b64encode(ENCODED[0]).decode()}).encode()
    sent = urllib.request.Request(f"{convoy.url}/v1/batches", row, {"Content-Type": "application/x-ndjson"})
    with urllib.request.urlopen(sent, timeout=30) as answer:
        batch = json.load(answer)["id"]
    with urllib.request.urlopen(f"{convoy.url}/v1/batches/{batch}/results?follow=true", timeout=30) as results:
        assert json.loads(results.read())["label"] == COLOURS[0]
    assert not [line for line in convoy.log if not line.startswith("{")]


def test_models_are_loaded_and_unloaded_by_who_may(tmp_path: Path) -> None:
    for name in ("colours", "shades"):
        write_colour_model(tmp_path / "models" / name / "1")
    (tmp_path / "admins").write_text("a-key-of-the-operator\n")
    headers = {"authorization": "Bearer a-key-of-the-operator"}
    given = {"admin_keys_file": str(tmp_path / "admins"), "jobs_dir": str(tmp_path / "jobs"), "grpc_port": "0"}
    with (
        running(tmp_path / "models", **given) as convoy,
        triton.InferenceServerClient(convoy.grpc) as client,
        grpc.insecure_channel(convoy.grpc) as channel,
    ):
        client.unload_model("shades", headers=headers)
        shades = client.get_model_repository_index().models[1]
        assert (shades.name, shades.state, shades.reason) == ("shades", "UNAVAILABLE", "unloaded")
        client.load_model("shades", headers=headers)
        assert client.is_model_ready("shades")
        with pytest.raises(InferenceServerException, match=r"UNAUTHENTICATED.*asks for a key"):
            client.unload_model("shades")
        with pytest.raises(InferenceServerException, match=r"FAILED_PRECONDITION.*The default model must have"):
            client.unload_model("colours", headers=headers)
        with pytest.raises(InferenceServerException, match=r"NOT_FOUND.*no such version"):
            client.load_model("none", headers=headers)
        with pytest.raises(InferenceServerException, match=r"INVALID_ARGUMENT.*parameters: "):
            client.load_model("shades", headers=headers, config="{}")
        parameters = {"force": service_pb2.ModelRepositoryParameter(bool_param=True)}
        strange = service_pb2.RepositoryModelUnloadRequest(model_name="shades", parameters=parameters)
        with pytest.raises(grpc.RpcError, match=r"parameters.force: "):
            Stub(channel).RepositoryModelUnload(strange, metadata=list(headers.items()))
        assert client.is_model_ready("shades")


def test_nobody_changes_models_where_no_admin_keys_were_given_out(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match=r"PERMISSION_DENIED.*Nobody may change"):
        client.unload_model("colours")
    assert client.is_model_ready("colours")


def test_who_has_his_share_under_way_is_told_to_wait(models_dir: Path, tmp_path: Path) -> None:
    limits = {"queue_capacity": "4", "client_share": "0.25", "max_images_per_request": "1"}
    held = {"max_queue_delay_ms": "3000", "workers": "1", "grpc_port": "0", "jobs_dir": str(tmp_path / "jobs")}
    with running(models_dir, **limits, **held) as convoy, triton.InferenceServerClient(convoy.grpc) as client:
        outcomes = queue.SimpleQueue[object]()
        for _ in range(2):  # the first of them waits for others to make a batch with
            client.async_infer("colours", [tensor(PIXELS[:1], "UINT8")], lambda **told: outcomes.put(told["error"]))
        refused, answered = outcomes.get(timeout=30), outcomes.get(timeout=30)
    assert "RESOURCE_EXHAUSTED" in str(refused)
    assert answered is None


def test_where_keys_were_given_out_one_is_needed_but_for_probes(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("models")
    write_colour_model(root / "colours" / "2")
    keys = root / "keys.txt"
    keys.write_text("0123456789abcdef\n")
    settings = {"grpc_port": "0", "api_keys_file": str(keys), "jobs_dir": str(root / "jobs")}
    with running(root, **settings) as convoy, triton.InferenceServerClient(convoy.grpc) as client:
        assert client.is_server_ready()
        with pytest.raises(InferenceServerException, match="UNAUTHENTICATED"):
            client.infer("colours", [tensor(PIXELS, "UINT8")])
        given = {"authorization": "Bearer 0123456789abcdef"}
        with grpc.insecure_channel(convoy.grpc) as channel:  # what they say is of interest once a key is known
            ask = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            for metadata, code in ((None, "UNAUTHENTICATED"), (given.items(), "INVALID_ARGUMENT")):
                with pytest.raises(grpc.RpcError) as raised:
                    ask(b"no message", metadata=metadata)
                assert raised.value.code().name == code
        assert client.infer("colours", [tensor(PIXELS, "UINT8")], headers=given).as_numpy("probabilities").shape == (
            3,
            3,
        )


def fields(descriptor: Descriptor) -> dict[str, tuple[int, int, str | None]]:
    """Name → number, type, and the type's name where it is a message or an enumeration."""
    return {
        field.name: (field.number, field.type, getattr(field.message_type or field.enum_type, "name", None))
        for field in descriptor.fields
    }


def test_messages_are_tritons() -> None:
    def compare(mine: Descriptor, theirs: Descriptor) -> int:
        there = fields(theirs)
        assert fields(mine).items() <= there.items(), mine.name
        return 1 + sum(compare(inner, theirs.nested_types_by_name[inner.name]) for inner in mine.nested_types)

    known = {**model_config_pb2.DESCRIPTOR.message_types_by_name, **service_pb2.DESCRIPTOR.message_types_by_name}
    compared = sum(compare(mine, known[name]) for name, mine in ours.DESCRIPTOR.message_types_by_name.items())
    assert compared > 30
    types = model_config_pb2.DESCRIPTOR.enum_types_by_name["DataType"].values_by_name
    for value in ours.DESCRIPTOR.enum_types_by_name["DataType"].values:
        assert types[value.name].number == value.number


def test_sigterm_lets_requests_finish_and_takes_no_more(tmp_path: Path) -> None:
    write_colour_model(tmp_path / "colours" / "2")
    ends: list[str] = []
    begun = threading.Barrier(5)

    def load(address: str) -> None:
        # Its retries are off: once in a hundred stops the library retries on for good, in ever more memory.
        with triton.InferenceServerClient(address, channel_args=[("grpc.enable_retries", 0)]) as client:
            client.infer("colours", [tensor(PIXELS, "UINT8")])
            begun.wait(60)
            try:
                while client.infer("colours", [tensor(PIXELS, "UINT8")]):
                    pass
            except InferenceServerException as exc:
                ends.append(exc.status())

    with running(tmp_path, grpc_port="0", jobs_dir=str(tmp_path / "jobs")) as convoy:
        clients = [threading.Thread(target=load, args=[convoy.grpc]) for _ in range(4)]
        for client in clients:
            client.start()
        begun.wait(60)
        assert convoy.stop() == 0
        for client in clients:
            client.join()
    # gRPC itself cancels what has arrived and is not begun; nothing that was begun is given up (499).
    assert set(ends) <= {"StatusCode.CANCELLED", "StatusCode.UNAVAILABLE"}
    assert not any('"status": 499' in line for line in convoy.log)

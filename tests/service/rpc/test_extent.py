"""Messages that would take far more than their bytes once they are parsed."""

from __future__ import annotations

import numpy as np
import pytest

from service.api.open_inference.tensors import MOST_VALUES
from service.errors import BodyTooLarge, MalformedRequest, TooManyImages
from service.rpc import extent
from service.rpc.open_inference_pb2 import InferParameter, InferTensorContents, ModelInferRequest
from service.settings import Settings

SETTINGS = Settings(max_images_per_request=20, queue_capacity=20)
MOST = extent.MOST_FIELDS + 20


def request(contents: InferTensorContents | None = None, raw: bytes | None = None, parameters: int = 0) -> bytes:
    tensor = ModelInferRequest.InferInputTensor(name="image", datatype="UINT8", shape=[1], contents=contents)
    many = {str(number): InferParameter(bool_param=True) for number in range(parameters)}
    output = ModelInferRequest.InferRequestedOutputTensor(name="probabilities", parameters=many)
    raws = [] if raw is None else [raw]
    content: bytes = ModelInferRequest(
        id="7", inputs=[tensor], outputs=[output], raw_input_contents=raws
    ).SerializeToString()
    return content


@pytest.mark.parametrize(
    "content",
    [
        b"",
        request(InferTensorContents(bytes_contents=[b"encoded"] * 20)),
        request(InferTensorContents(uint_contents=np.full(MOST_VALUES, 255, np.uint32))),
        request(raw=bytes(3 * MOST_VALUES)),
        request(parameters=extent.MOST_FIELDS // 2),
        b"\x0d1234\x09\x31\x32\x33\x34\x35\x36\x37\x38",  # numbers of a fixed width
    ],
    ids=["empty", "encoded", "numbers", "raw", "parameters", "widths"],
)
def test_what_clients_send_is_parsed(content: bytes) -> None:
    extent.check(content, SETTINGS)


@pytest.mark.parametrize(
    "content",
    [
        b"\x2a\0" * (MOST + 1),
        b"\x3a\0" * (MOST + 1),
        request(InferTensorContents(bytes_contents=[b""] * (MOST + 1))),
        request(parameters=MOST + 1),
        b"\xaa\x80\x00\x80\x00" * (MOST + 1),  # its first field once more, in longer words
    ],
    ids=["inputs", "raw", "encoded", "parameters", "long words"],
)
def test_more_fields_than_a_request_needs_are_not_parsed(content: bytes) -> None:
    with pytest.raises(TooManyImages):
        extent.check(content, SETTINGS)


@pytest.mark.parametrize("pieces", [1, 4])
def test_nor_are_more_numbers_than_any_pictures_have(pieces: int) -> None:
    numbers = InferTensorContents(int64_contents=np.zeros(2 * MOST_VALUES // pieces + 1, np.int64))
    content = b"".join([request(numbers)] * pieces)
    with pytest.raises(BodyTooLarge, match="raw_input_contents"):
        extent.check(content, SETTINGS)


@pytest.mark.parametrize("content", [b"\x0b\x0c", b"\xff" * 20], ids=["group", "nothing"])
def test_what_no_message_has_is_malformed(content: bytes) -> None:
    with pytest.raises(MalformedRequest):
        extent.check(content, SETTINGS)


@pytest.mark.parametrize("content", [b"\x2a", b"\x2a\xff", b"\x2a\x05\x2a\xff\xff\xff\xff", b"\x09\x01", b"\xfa" * 9])
def test_what_is_cut_short_is_left_to_the_parser(content: bytes) -> None:
    extent.check(content, SETTINGS)


def test_a_number_that_goes_on_and_on_is_not_read_to_its_end() -> None:
    """Of a growing number each byte takes longer."""
    assert extent._varint(memoryview(b"\xff" * 9 + b"\x01"), 0) == (2**64 - 1, 10)
    with pytest.raises(MalformedRequest):
        extent._varint(memoryview(b"\xff" * 10 + b"\x01"), 0)

"""A request's bytes → pictures; probabilities → an answer's bytes. In JSON, or binary behind the JSON object.

Triton's extensions: docs/protocol/extension_binary_data.md and extension_classification.md of triton-inference-server.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from service.api.incoming import positive
from service.api.open_inference.bodies import InferRequest, InputTensor, Parameters
from service.api.uploads import check_count, check_pixels, from_base64
from service.errors import BodyTooLarge, InvalidImage, MalformedRequest, WrongShape
from service.metadata import INPUT, OUTPUT
from service.prediction import ModelIdentity, Prediction
from service.preparation import Picture, Pictures
from service.settings import Settings
from service.types import Rows

JSON, BINARY = b"application/json", b"application/octet-stream"
MOST_VALUES = 5_000_000  # 1,024 images of 32 × 32 pixels, as lists of lists, are 4.2 million
MOST_OBJECTS = 64
LENGTH = struct.Struct("<I")  # before each element of a binary BYTES tensor


@dataclass(frozen=True, slots=True)
class Inference:
    """What a client asks for."""

    pictures: Pictures
    id: str | None
    timeout_us: int  # 0: none of its own
    priority: int  # 0: the usual one; 1 is the highest
    binary: bool  # whether the output comes behind the JSON object
    classes: int  # 0: all of them, as numbers


def json_length(body: bytes, told: str | None) -> int:
    """How many bytes of `body` are JSON: all, unless the client has told otherwise; raises `MalformedRequest`."""
    length = positive(told, "header Inference-Header-Content-Length") or len(body)
    if length > len(body):
        raise MalformedRequest("header Inference-Header-Content-Length: the body is shorter than that.")
    return length


def read(body: bytes, length: int, settings: Settings) -> Inference:
    """The request in `body`, of which `length` bytes are JSON.

    Raises `MalformedRequest`, `WrongShape`, `TooManyImages`, `ImageTooLarge` or `BodyTooLarge`.
    """
    _check_extent(body, length)
    return inference(InferRequest.parse(memoryview(body)[:length]), memoryview(body)[length:], settings)


def _check_extent(body: bytes, length: int) -> None:
    """Each value takes up to 80 bytes once it is parsed, and the time of everybody: too many stay unparsed."""
    if body.count(b",", 0, length) + body.count(b"[", 0, length) > MOST_VALUES:
        raise BodyTooLarge(f"JSON may hold {MOST_VALUES:,} numbers at most; send the tensor as binary data.")
    if body.count(b"{", 0, length) > MOST_OBJECTS:
        raise MalformedRequest("The request holds more JSON objects than the protocol has.")


def inference(asked: InferRequest, tail: memoryview, settings: Settings) -> Inference:
    """What `asked` and the binary tensors that belong to it ask for; raises as `read` does."""
    (tensor,) = asked.inputs
    wanted = asked.outputs[0].parameters if asked.outputs else {}
    binary = _flag(asked.parameters, "binary_data_output")
    return Inference(
        pictures=_pictures(tensor, tail, settings),
        id=asked.id,
        timeout_us=_number(asked.parameters, "timeout"),
        priority=_number(asked.parameters, "priority"),
        binary=_flag(wanted, "binary_data", default=binary),
        classes=_number(wanted, "classification"),
    )


def write(model: ModelIdentity, asked: Inference, outcomes: list[Prediction]) -> tuple[bytes, int | None]:
    """The answer's bytes, and how many of them are JSON where others follow."""
    told = output(asked, outcomes)
    tensor: dict[str, Any] = {"name": OUTPUT, "datatype": told.datatype, "shape": told.shape}
    tail = b""
    if asked.binary:
        tail = told.packed()
        tensor["parameters"] = {"binary_data_size": len(tail)}
    else:
        tensor["data"] = told.values
    answer = {"model_name": model.name, "model_version": model.version, "outputs": [tensor]}
    if asked.id is not None:
        answer["id"] = asked.id
    head = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return head + tail, len(head) if asked.binary else None


class Output(NamedTuple):
    """The only output: `FP32` (N, classes), or `BYTES` (N, k) where only k classes were asked for."""

    datatype: str
    shape: list[int]
    values: npt.NDArray[np.float32] | list[str]  # flat, row-major

    def packed(self) -> bytes:
        """As the binary data extension has it."""
        if isinstance(self.values, list):
            return pack([text.encode() for text in self.values])
        return self.values.astype("<f4").tobytes()


def output(asked: Inference, outcomes: list[Prediction]) -> Output:
    """What the client gets to see of the predictions."""
    if asked.classes:
        texts = [_classification(outcome, asked.classes) for outcome in outcomes]
        return Output("BYTES", [len(texts), len(texts[0])], [text for row in texts for text in row])
    probabilities = np.stack([outcome.probabilities for outcome in outcomes])
    return Output("FP32", list(probabilities.shape), probabilities.ravel())


def pack(elements: Iterable[bytes]) -> bytes:
    """A binary BYTES tensor: each element after its length."""
    return b"".join(LENGTH.pack(len(element)) + element for element in elements)


def _classification(outcome: Prediction, classes: int) -> list[str]:
    """The most probable classes, as the extension writes them."""
    order = np.argsort(-outcome.probabilities, kind="stable")[:classes].tolist()
    return [f"{outcome.probabilities[place]:f}:{place}:{outcome.model.labels[place]}" for place in order]


def _pictures(tensor: InputTensor, tail: memoryview, settings: Settings) -> Pictures:
    """The tensor's images; the bytes behind the JSON object are all its own, or there are none."""
    if tensor.name != INPUT or tensor.datatype not in READERS:
        raise MalformedRequest(
            f"The model has one input, {INPUT}: UINT8 [N, height, width, 3], or BYTES [N] of encoded images."
        )
    size = tensor.parameters.get("binary_data_size")
    if (size is None) != (tensor.data is not None) or len(tail) != (size or 0):
        raise MalformedRequest(
            "An input has either data, or binary_data_size and just so many bytes after the JSON object, whose length "
            "the header Inference-Header-Content-Length tells."
        )
    return READERS[tensor.datatype](tensor, tail, settings)


def _pixels(tensor: InputTensor, tail: memoryview, settings: Settings) -> Rows:
    shape = tensor.shape
    if len(shape) != 4 or shape[3] != 3 or 0 in shape[1:]:
        raise WrongShape(f"{INPUT} has the shape {shape}; send UINT8 [N, height, width, 3], RGB.")
    check_count(shape[0], settings)
    check_pixels(shape[1] * shape[2], settings)
    flat = np.frombuffer(tail if tensor.data is None else _bytes(tensor.data), np.uint8)
    if flat.size != math.prod(shape):
        raise WrongShape(f"{INPUT} has {flat.size:,} values, not the {math.prod(shape):,} of the shape {shape}.")
    return flat.reshape(shape)


def _bytes(data: object) -> bytes:
    """The numbers in `data`, flat or in rows of rows, without giving anything else in it room or time."""
    numbers: list[Any] = data if isinstance(data, list) else [data]
    while {list} == (kinds := set(map(type, numbers))):
        if len(set(map(len, numbers))) > 1:
            raise MalformedRequest(f"The data of {INPUT} is no array: its rows differ in length.")
        numbers = list(chain.from_iterable(numbers))
    if kinds <= {int}:
        with suppress(ValueError):  # of one that is no byte
            return bytes(numbers)
    raise MalformedRequest(f"The data of {INPUT} must be whole numbers from 0 to 255.")


def _encoded(tensor: InputTensor, tail: memoryview, settings: Settings) -> list[Picture | InvalidImage]:
    shape = tensor.shape
    if len(shape) not in (1, 2) or shape[1:] not in ([], [1]):
        raise WrongShape(f"{INPUT} has the shape {shape}; send BYTES [N], one encoded image each.")
    check_count(shape[0], settings)
    if tensor.data is None:
        return list(_elements(tail, shape, settings))
    texts = tensor.data if isinstance(tensor.data, list) else [tensor.data]
    if len(texts) != shape[0]:
        raise WrongShape(f"{INPUT} has {len(texts):,} values, not the {shape[0]:,} of the shape {shape}.")
    texts = [text[0] if isinstance(text, list) and len(text) == 1 else text for text in texts]
    if not all(isinstance(text, str) for text in texts):
        raise MalformedRequest(f"The data of {INPUT} must be a list of texts, each an image file in base64.")
    return [from_base64(text, settings) for text in texts]


def _elements(tail: memoryview, shape: list[int], settings: Settings) -> list[bytes]:
    """The elements of a binary BYTES tensor, each after its length, as many as `shape` says."""
    elements, place = list[bytes](), 0
    while place < len(tail) and len(elements) < shape[0]:
        start = place + LENGTH.size
        (length,) = LENGTH.unpack(tail[place:start]) if start <= len(tail) else (len(tail),)
        place = start + length
        if place > len(tail):
            raise MalformedRequest(f"The binary data of {INPUT} ends within an element: lengths and bytes differ.")
        if length > settings.max_image_bytes:
            raise BodyTooLarge(f"An image may have {settings.max_image_bytes:,} bytes at most; send a smaller one.")
        elements.append(bytes(tail[start:place]))
    if place < len(tail) or len(elements) < shape[0]:
        raise WrongShape(f"The binary data of {INPUT} has more values, or fewer, than the shape {shape}.")
    return elements


Reader = Callable[[InputTensor, memoryview, Settings], Pictures]
READERS: dict[str, Reader] = {"UINT8": _pixels, "BYTES": _encoded}


def _number(parameters: Parameters, name: str) -> int:
    """A whole number from 0 up, 0 where there is none; raises `MalformedRequest`."""
    value = parameters.get(name, 0)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)  # as some clients send it
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise MalformedRequest(f"parameter {name}: send a whole number, 0 or more.")
    return value


def _flag(parameters: Parameters, name: str, *, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise MalformedRequest(f"parameter {name}: send true or false.")
    return value

"""How many parts a message has, told from its bytes before it is parsed.

A field of two bytes becomes an object of a hundred, and nobody is answered while millions of them are made.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from service.api.open_inference.tensors import MOST_VALUES
from service.api.uploads import check_count
from service.errors import BodyTooLarge, MalformedRequest
from service.rpc.open_inference_pb2 import InferTensorContents, ModelInferRequest
from service.settings import Settings

MOST_FIELDS = 256  # beside those of images
INPUT = (ModelInferRequest.INPUTS_FIELD_NUMBER,)
CONTENTS = (*INPUT, ModelInferRequest.InferInputTensor.CONTENTS_FIELD_NUMBER)
OUTPUT = (ModelInferRequest.OUTPUTS_FIELD_NUMBER,)
ENCODED = (*CONTENTS, InferTensorContents.BYTES_CONTENTS_FIELD_NUMBER)
VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5  # wire types: protobuf.dev, "Encoding"
WIDTHS = {FIXED64: 8, FIXED32: 4}
LONGEST_VARINT = 10  # bytes, of seven bits each
FOREIGN = "The message has what none of the protocol's has; let a client of it make it."


class Field(NamedTuple):
    """One of a message's, or of one within it: the numbers on the way there, and its value's bytes."""

    path: tuple[int, ...]
    value: memoryview


def check(content: bytes, settings: Settings) -> None:
    """Raise `TooManyImages`, `BodyTooLarge` or `MalformedRequest` for a message that is not worth being parsed."""
    numbers = 0
    for place, field in enumerate(_fields(memoryview(content)), start=1):
        check_count(place - MOST_FIELDS, settings)
        if field.path[:-1] == CONTENTS and field.path != ENCODED:
            numbers += len(field.value)  # one takes a byte or, above 127, two
        if numbers > 2 * MOST_VALUES:
            raise BodyTooLarge(
                f"A message may hold {MOST_VALUES:,} numbers at most; send the tensor's bytes in raw_input_contents."
            )


def _fields(message: memoryview, *path: int) -> Iterator[Field]:
    """All that may be there many times; of what is cut short those before the cut."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        wire_type, start = tag & 7, place
        if wire_type == VARINT:
            _, place = _varint(message, place)
        elif wire_type == DELIMITED:
            length, start = _varint(message, place)
            place = start + length
        elif wire_type in WIDTHS:
            place += WIDTHS[wire_type]
        else:
            raise MalformedRequest(FOREIGN)
        field = Field((*path, tag >> 3), message[start:place])
        yield field
        if field.path in (INPUT, CONTENTS, OUTPUT) and wire_type == DELIMITED:
            yield from _fields(field.value, *field.path)


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """The number there, in groups of seven bits, and where it ends; raises `MalformedRequest`."""
    number = shift = 0
    for end in range(place, len(message)):
        if end - place == LONGEST_VARINT:
            raise MalformedRequest(FOREIGN)
        byte = message[end]
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return number, end + 1
    return number, len(message)

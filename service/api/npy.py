""".npy bytes ↔ arrays, without ever unpickling and without believing the header's size.

Format: numpy.lib.format, versions 1.0 to 3.0.
"""

from __future__ import annotations

import io
import math

import numpy as np
import numpy.typing as npt

from service.errors import MalformedRequest, WrongShape
from service.types import Rows

MEDIA_TYPE = "application/x-npy"
MOST = 1 << 63  # of anything, in an array


def read_images(data: bytes) -> Rows:
    """uint8 (N, H, W, 3); a single (H, W, 3) becomes N = 1. Raises `MalformedRequest` or `WrongShape`.

    They are a view of `data`, in the order in which it has them; see `in_order`.
    """
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read_header(stream)
    except Exception as exc:  # numpy parses the header as a Python literal and raises what that raises
        raise MalformedRequest("The body is not a .npy file; write it with numpy.save.") from exc
    if not all(type(length) is int and 0 <= length < MOST for length in shape):
        raise MalformedRequest("The .npy file's header has a shape that no array has; write it with numpy.save.")
    if dtype != np.uint8 or len(shape) not in (3, 4) or shape[-1] != 3:
        raise WrongShape(f"The array is {dtype} {shape}; send uint8 (N, H, W, 3) or (H, W, 3), RGB.")
    if 0 in shape[-3:]:
        raise WrongShape(f"The array is {shape}: images need a height and a width.")
    if len(data) - stream.tell() != math.prod(shape):
        raise MalformedRequest("The .npy file is cut off or has bytes after its array; send it whole.")
    images = np.frombuffer(data, np.uint8, offset=stream.tell())
    if not images.size:
        return np.empty((0, 1, 1, 3), np.uint8)  # whatever the sizes that none of them has
    images = images.reshape(shape[::-1]).T if fortran_order else images.reshape(shape)
    return images if images.ndim == 4 else images[np.newaxis]


def in_order(images: Rows) -> Rows:
    """The same, row after row: a copy where they came in Fortran's order."""
    return np.ascontiguousarray(images)


def dump(array: npt.NDArray[np.generic]) -> bytes:
    """`array` as a .npy file."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()

"""Pictures → rows as the model takes them, a picture at a time. Everything that can fail for one picture fails here."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np

from service.decoding import decode
from service.errors import InvalidImage
from service.metadata import InputSpec
from service.preprocessing import fit
from service.types import RGBImage, Rows

REDUCED_TO = 4  # times the model's input: how far a photo may be reduced while it is decoded
NO_ROWS = np.empty((0, 0, 0, 3), np.uint8)
Picture = bytes | RGBImage  # encoded, or decoded by the client
Pictures = Sequence[Picture | InvalidImage] | Rows  # each encoded, decoded, or known to be none


class Preparation:
    """The pictures of one request on their way; it may go on in one thread after the other."""

    def __init__(self, pictures: Pictures, spec: InputSpec, max_pixels: int) -> None:
        self._pictures, self._spec, self._max_pixels = pictures, spec, max_pixels
        self.rows: Rows = NO_ROWS  # of the good ones, once all steps are done
        self.invalid: dict[int, InvalidImage] = {}  # the others, by their place, ascending
        self.decode_s = self.preprocess_s = 0.0

    def steps(self) -> Iterator[None]:
        """Go through the pictures, one at each step; nothing about one of them raises."""
        spec, rows = self._spec, list[RGBImage]()
        for place, picture in enumerate(self._pictures):
            began = time.perf_counter()
            image = decoded(picture, spec, self._max_pixels)
            decoded_at = time.perf_counter()
            if isinstance(image, InvalidImage):
                self.invalid[place] = image
            else:
                rows.append(fit(image, height=spec.height, width=spec.width, resize_policy=spec.resize_policy))
            self.decode_s += decoded_at - began
            self.preprocess_s += time.perf_counter() - decoded_at
            yield
        if rows:
            self.rows = rows[0][np.newaxis] if len(rows) == 1 else np.stack(rows)


def decoded(picture: Picture | InvalidImage, spec: InputSpec, max_pixels: int) -> RGBImage | InvalidImage:
    """Its pixels, reduced where they are far more than `spec` asks for, or what is wrong with it."""
    if not isinstance(picture, bytes):
        return picture
    try:
        return decode(picture, max_pixels=max_pixels, at_least=REDUCED_TO * max(spec.height, spec.width))
    except InvalidImage as exc:
        return exc


def work(pictures: Pictures, spec: InputSpec) -> int:
    """Bytes that have to be gone through before the pictures are rows."""
    return sum(_work(picture, spec) for picture in pictures)


def _work(picture: Picture | InvalidImage, spec: InputSpec) -> int:
    if isinstance(picture, bytes):
        return len(picture)
    return 0 if isinstance(picture, InvalidImage) or picture.shape == (spec.height, spec.width, 3) else picture.nbytes

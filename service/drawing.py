"""Arrays → PNG pictures that a browser shows enlarged: one pixel per value, nothing smoothed."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
import numpy.typing as npt
from PIL import Image

from service.types import RGBImage

Plane = npt.NDArray[np.float32]
BRIGHTEST = 99.5  # percentile of the absolute values: a few outliers don't leave the rest in the dark
NOTHING, ZERO, LARGEST = 0, 128, 127  # palette: between channels; the value zero; steps from there to either end
COLOURS = ((86, 180, 255), (24, 60, 160), (12, 12, 16), (150, 70, 10), (255, 200, 90))  # negative … zero … positive
RED, STRENGTH = (230, 40, 20), 0.85  # of what matters, and how little of the picture may be left below it


def contact_sheet(channels: npt.NDArray[np.float32]) -> bytes:
    """A PNG of channels (C, H, W), row by row in about a square: orange is positive, blue negative, black zero.

    They share one scale. The lines between them are transparent.
    """
    count, height, width = channels.shape
    largest = max(float(np.percentile(np.abs(channels), BRIGHTEST)), 1e-12)
    steps = np.rint(np.clip(channels / largest, -1, 1) * LARGEST).astype(np.int16) + ZERO
    columns = math.ceil(math.sqrt(count * height / width))
    rows = math.ceil(count / columns)
    tiles = np.full((rows * columns, height + 1, width + 1), NOTHING, np.uint8)
    tiles[:count, :height, :width] = steps
    sheet = tiles.reshape(rows, columns, height + 1, width + 1).transpose(0, 2, 1, 3)
    image = Image.fromarray(sheet.reshape(rows * (height + 1), columns * (width + 1))[:-1, :-1])
    image.putpalette(_palette())
    return _png(image, transparency=NOTHING)


def heat_map(image: RGBImage, heat: Plane) -> bytes:
    """A PNG of `image` (H, W, 3), redder where `heat` (H, W), ≥ 0, is greater."""
    weight = STRENGTH * heat / max(float(heat.max()), 1e-12)
    painted = image + weight[:, :, None] * (np.array(RED, np.float32) - image)
    return _png(Image.fromarray(np.rint(painted).astype(np.uint8)))


def data_url(png: bytes) -> str:
    """The picture as text that an `img` element shows."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _palette() -> bytes:
    """Three bytes for each of 256 values; the first is `NOTHING`."""
    at = np.linspace(0, 2 * LARGEST, len(COLOURS))
    channels = [np.interp(np.arange(2 * LARGEST + 1), at, [colour[i] for colour in COLOURS]) for i in range(3)]
    return bytes(3) + np.rint(np.stack(channels, 1)).astype(np.uint8).tobytes()


def _png(image: Image.Image, **options: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", **options)
    return stream.getvalue()

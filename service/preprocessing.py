"""RGB array of any size → one row of the model's input, as the model's metadata says.

An image that has the model's size already passes through untouched. Values are not scaled here: that is in the graph.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from service.types import RGBImage

Box = tuple[float, float, float, float]  # left, top, right, bottom in source pixels


def fit(image: RGBImage, *, height: int, width: int, resize_policy: str) -> RGBImage:
    """`image` uint8 (H, W, 3) as contiguous uint8 (height, width, 3)."""
    if image.shape[:2] == (height, width):
        return np.ascontiguousarray(image)
    box = RESIZE_POLICIES[resize_policy](image.shape[1], image.shape[0], width, height)
    # Pillow's filters widen with the reduction, which is what antialiasing is.
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC, box=box)
    return np.asarray(resized)


def _shorter_side_crop(width: int, height: int, to_width: int, to_height: int) -> Box:
    """The largest centred part of the target's proportions: resize the shorter side, then crop the longer."""
    scale = min(width / to_width, height / to_height)
    part_width, part_height = min(to_width * scale, width), min(to_height * scale, height)  # rounding may exceed it
    left, top = (width - part_width) / 2, (height - part_height) / 2
    return left, top, min(left + part_width, width), min(top + part_height, height)


def _squash(width: int, height: int, _to_width: int, _to_height: int) -> Box:
    """The whole image, its proportions changed."""
    return 0, 0, width, height


RESIZE_POLICIES: dict[str, Callable[[int, int, int, int], Box]] = {
    "shorter-side-crop": _shorter_side_crop,
    "squash": _squash,
}

"""Files → pixels: exactly those that the service makes of the same files, or none at all."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from service import decoding as service_decoding
from service.errors import InvalidImage
from service.preparation import REDUCED_TO
from service.preprocessing import RESIZE_POLICIES, fit
from tests.service.test_decoding import EIGHT, SIXTEEN, grey_tiff, on_screen, planes_tiff, png
from training import decoding
from training.decoding import centre, decode

SIZE = 32
Make = Callable[[], bytes]


def saved(image: Image.Image, fmt: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, fmt, **options)
    return stream.getvalue()


def photo(width: int = 300, height: int = 200, mode: str = "RGB") -> Image.Image:
    """Smooth, with some noise, and different in every corner."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [255 * x / width, 255 * y / height, 255 * (x + y) / (width + height)]
    noise = np.random.default_rng(0).normal(0, 8, (height, width, 3))
    return Image.fromarray((np.stack(planes, 2) + noise).clip(0, 255).astype(np.uint8)).convert(mode)


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[decoding.ORIENTATION] = orientation
    return saved(photo(), "JPEG", exif=exif)


def see_through() -> Image.Image:
    image = photo().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


FILES: dict[str, Make] = {
    "jpeg": lambda: saved(photo(), "JPEG", quality=90),
    "a photo": lambda: saved(photo(3000, 2000), "JPEG"),
    "a narrow jpeg": lambda: saved(photo(1000, 40), "JPEG"),
    "a sliver of a jpeg": lambda: saved(photo(2000, 3), "JPEG"),
    "a column of a jpeg": lambda: saved(photo(1, 300), "JPEG"),
    "a small jpeg": lambda: saved(photo(20, 14), "JPEG"),
    "grey jpeg": lambda: saved(photo(mode="L"), "JPEG"),
    "cmyk jpeg": lambda: saved(photo(mode="CMYK"), "JPEG"),
    "progressive jpeg": lambda: saved(photo(), "JPEG", progressive=True),
    **{f"turned jpeg {each}": lambda each=each: turned(each) for each in range(1, 9)},  # type: ignore[misc]
    "png": lambda: saved(photo(), "PNG"),
    "png of the size": lambda: saved(photo(SIZE, SIZE), "PNG"),
    "palette png": lambda: saved(photo(mode="P"), "PNG"),
    "grey png": lambda: saved(photo(mode="L"), "PNG"),
    "16 bits": lambda: saved(Image.fromarray(np.arange(0, 65536, 8).astype(np.uint16).reshape(64, 128)), "PNG"),
    "see-through 16 bits": lambda: saved(
        Image.fromarray(np.arange(0, 65536, 8).astype(np.uint16).reshape(64, 128)), "PNG", transparency=800
    ),
    "damaged exif": lambda: saved(photo(), "PNG", exif=b"Exif\0\0garbage"),
    "png whose scale is rounded up": lambda: saved(photo(150, 49), "PNG"),
    "big tiff": lambda: saved(photo(), "TIFF", big_tiff=True),
    "see-through png": lambda: saved(see_through(), "PNG"),
    "webp": lambda: saved(photo(), "WEBP", quality=80),
    "bmp": lambda: saved(photo(), "BMP"),
    "gif": lambda: saved(photo(), "GIF", save_all=True, append_images=[photo(mode="L")]),
    "tiff": lambda: saved(photo(), "TIFF"),
    "tiff of 12 bits": lambda: grey_tiff(12, 1, bytes.fromhex("fff000800010")),
    "tiff of 16 bits, white is zero": lambda: grey_tiff(16, 0, struct.pack("<4H", 0, 65535, 257, 25700)),
    "tiff of 8 bits, white is zero": lambda: grey_tiff(8, 0, bytes([0, 255, 1, 100])),
    "tiff with planes": lambda: planes_tiff(8, 2, EIGHT),
    "tiff with packed planes": lambda: planes_tiff(16, 2, SIXTEEN, packed=True),
    "tiff with a plane of bits": lambda: planes_tiff(1, 1, [b"\x50"]),
    "see-through 2 bits": lambda: png(2, 0, [b"\x50"], 2, struct.pack(">H", 1)),
    "see-through 4 bits": lambda: png(4, 0, [b"\x8f"], 2, struct.pack(">H", 8)),
    "see-through colour of 16 bits": lambda: png(16, 2, [bytes(range(12))], 2, bytes(range(6))),
    "nearly that colour": lambda: png(16, 2, [bytes(range(6)) + b"\0\1\2\3\4\6"], 2, bytes(range(6))),
    "gif on a larger screen": lambda: on_screen(saved(photo(20, 30), "GIF"), (50, 40), (7, 3)),
    "see-through gif on one": lambda: on_screen(saved(see_through(), "GIF"), (400, 500), (0, 3)),
}
NONE: dict[str, Make] = {
    "nothing": lambda: b"",
    "text": lambda: b"hello",
    "cut off jpeg": lambda: FILES["jpeg"]()[:500],
    "cut off png": lambda: FILES["png"]()[:500],
    "floating point": lambda: saved(Image.fromarray(np.ones((9, 9), np.float32)), "TIFF"),
    "planes of 16 bits": lambda: planes_tiff(16, 2, SIXTEEN),
    "an inverted plane": lambda: planes_tiff(8, 0, EIGHT[:1]),
    "planes in reversed order": lambda: planes_tiff(8, 2, EIGHT, (266, 2)),
    "planes of grey and alpha": lambda: planes_tiff(8, 1, [EIGHT[0], b"\xff" * 4], (338, 2), packed=True),
    "another format": lambda: saved(photo(), "PPM"),
}


@pytest.mark.parametrize("make", FILES.values(), ids=FILES)
def test_a_network_learns_from_the_pixels_that_it_is_asked_about(make: Make) -> None:
    content = make()
    served = service_decoding.decode(content, max_pixels=10**8, at_least=REDUCED_TO * SIZE)
    expected = fit(served, height=SIZE, width=SIZE, resize_policy="shorter-side-crop")
    assert np.array_equal(decode(content, SIZE), expected)


@pytest.mark.parametrize("make", NONE.values(), ids=NONE)
def test_what_the_service_refuses_is_not_learned_from(make: Make) -> None:
    content = make()
    with pytest.raises(InvalidImage):
        service_decoding.decode(content, max_pixels=10**8)
    with pytest.raises(ValueError, match="no picture in a known format"):
        decode(content, SIZE)


@pytest.mark.parametrize("size", [32, 49, 64, 224, 336])
def test_the_centre_lies_within_an_image_of_any_sides_and_is_the_services(size: int) -> None:
    expected = RESIZE_POLICIES["shorter-side-crop"]
    for side in range(1, 2_000):
        for width, height in ((side, side), (side, side + 1), (side + 77, side)):
            box = centre(width, height, size)
            assert 0 <= box[0] <= box[2] <= width
            assert 0 <= box[1] <= box[3] <= height
            assert box == expected(width, height, size, size)


def test_a_picture_whose_scale_is_rounded_up_is_no_damaged_one() -> None:
    assert decode(saved(photo(640, 450), "PNG"), 224).shape == (224, 224, 3)

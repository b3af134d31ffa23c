"""bytes → RGB array."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from service import decoding
from service.decoding import DECODERS, decode
from service.errors import ImageTooLarge, InvalidImage
from tests.conftest import encode, picture

LIMIT = 1_000_000
LOSSLESS = [("PNG", {}), ("WEBP", {"lossless": True}), ("BMP", {}), ("TIFF", {})]


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)


@pytest.mark.parametrize(("fmt", "options"), LOSSLESS)
def test_lossless_formats_come_back_exactly(fmt: str, options: dict[str, object], noise: np.ndarray) -> None:
    assert np.array_equal(decode(encode(Image.fromarray(noise), fmt, **options), max_pixels=LIMIT), noise)


@pytest.mark.parametrize("fmt", [name.upper() for name in DECODERS])
def test_every_format_keeps_a_plain_colour(fmt: str) -> None:
    image = decode(encode(picture("red", (16, 12)), fmt), max_pixels=LIMIT)
    assert image.shape == (12, 16, 3)
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - (255, 0, 0)).max() <= 3


def test_first_frame_of_an_animation_is_taken() -> None:
    stream = io.BytesIO()
    picture("red").save(stream, "GIF", save_all=True, append_images=[picture("blue")])
    assert (decode(stream.getvalue(), max_pixels=LIMIT)[0, 0] == (255, 0, 0)).all()


def test_exif_orientation_is_honoured() -> None:
    image = Image.new("RGB", (2, 4), "black")
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter clockwise
    upright = decode(encode(image, "PNG", exif=exif), max_pixels=LIMIT)
    assert upright.shape == (2, 4, 3)
    assert (upright[0, 3] == 255).all()


def test_cmyk_jpeg_becomes_rgb() -> None:
    image = decode(encode(picture("blue", (16, 16)).convert("CMYK"), "JPEG"), max_pixels=LIMIT)
    assert image[8, 8].argmax() == 2


def test_too_many_pixels_are_refused_by_the_header() -> None:
    with pytest.raises(ImageTooLarge, match="10 × 11"):
        decode(encode(picture("red", (10, 11))), max_pixels=109)


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    small = encode(picture("red"))
    header = b"IHDR" + (60_000).to_bytes(4, "big") * 2 + small[24:29]
    bomb = small[:12] + header + zlib.crc32(header).to_bytes(4, "big") + small[33:]
    with pytest.raises(ImageTooLarge):
        decode(bomb, max_pixels=40_000_000)


@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 80}, {"quality": 80, "exif": b"Exif\0\0"}])
def test_a_webp_is_refused_before_there_is_room_for_its_pixels(
    options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = encode(picture("red", (300, 200)), "WEBP", **options)
    assert decode(content, max_pixels=60_000).shape == (200, 300, 3)
    monkeypatch.setattr(Image, "open", None)
    with pytest.raises(ImageTooLarge, match="300 × 200 pixels; send one of at most 59,999"):
        decode(content, max_pixels=59_999)


@pytest.mark.parametrize("length", range(12, 34))
def test_a_webp_that_is_cut_off_in_its_header_is_damaged(length: int) -> None:
    with pytest.raises(InvalidImage, match="damaged or cut off"):
        decode(encode(picture("red"), "WEBP", lossless=True)[:length], max_pixels=LIMIT)


def test_a_whole_file_of_a_rare_kind_is_not_only_called_damaged() -> None:
    """Pillow does not know all that TIFF can be: here, two bits for each of three colours."""
    content = planes_tiff(2, 2, [b"\x1b"] * 3)
    with pytest.raises(InvalidImage, match="or of a rare kind; save it anew, as PNG for instance"):
        decode(content, max_pixels=LIMIT)


def tiled_tiff(width: int, length: int, across: int = 16) -> bytes:
    """A grey picture of 16 rows of `across` pixels in tiles of that size, of which there is one, deflated."""
    tile = zlib.compress(bytes(width * length))
    tags = [(256, across), (257, 16), (258, 8), (259, 8), (262, 1), (277, 1), (322, width), (323, length), (324, 8)]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in [*tags, (325, len(tile))])
    padding = b"\0" * (len(tile) % 2)
    place = 8 + len(tile + padding)
    return struct.pack("<2sHI", b"II", 42, place) + tile + padding + struct.pack("<H", 10) + directory + bytes(4)


def test_a_tile_far_larger_than_its_image_is_refused_before_it_is_unpacked() -> None:
    assert decode(tiled_tiff(64, 64), max_pixels=64 * 64).shape == (16, 16, 3)
    with pytest.raises(ImageTooLarge, match="tiles have 64 × 80 pixels"):
        decode(tiled_tiff(64, 80), max_pixels=64 * 64)


def test_many_tiles_larger_than_their_part_of_an_image_are_as_many_pixels_as_they_have_together() -> None:
    with pytest.raises(ImageTooLarge, match="tiles have 6400 × 16 pixels"):
        decode(tiled_tiff(64, 16, across=6399 - 62), max_pixels=6399 * 16)


@pytest.mark.parametrize("fmt", [name.upper() for name in DECODERS])
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
def test_truncated_files_are_invalid(fmt: str, keep: float) -> None:
    data = encode(Image.effect_noise((64, 64), 90).convert("RGB"), fmt)
    with pytest.raises(InvalidImage):
        decode(data[: int(len(data) * keep)], max_pixels=LIMIT)


@pytest.mark.parametrize("data", [b"", b"hello", b"%PDF-1.7", b"<svg></svg>", b"\x00" * 100])
def test_other_bytes_are_no_image(data: bytes) -> None:
    with pytest.raises(InvalidImage, match="JPEG, PNG, WEBP, BMP, GIF, TIFF"):
        decode(data, max_pixels=LIMIT)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([name.upper() for name in DECODERS]), st.integers(0, 400), st.binary(min_size=1, max_size=8))
def test_damage_gives_an_image_or_invalid_image_and_nothing_else(fmt: str, place: int, damage: bytes) -> None:
    data = bytearray(encode(picture("green", (13, 5)), fmt))
    place %= len(data)
    data[place : place + len(damage)] = damage
    try:
        image = decode(bytes(data), max_pixels=LIMIT)
    except InvalidImage:
        pass
    else:
        assert image.ndim == 3
        assert image.shape[2] == 3


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpeg_pixels_are_those_of_pillow(mode: str, subsampling: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
    data = encode(Image.fromarray(noise).convert(mode), "JPEG", quality=80, subsampling=subsampling)
    with Image.open(io.BytesIO(data)) as reference:
        assert np.array_equal(decode(data, max_pixels=LIMIT), np.asarray(reference.convert("RGB")))


@pytest.mark.parametrize("orientation", range(9))
def test_every_orientation_of_a_jpeg_is_that_of_pillow(orientation: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(noise), "JPEG", exif=exif)
    with Image.open(io.BytesIO(data)) as reference:
        expected = np.asarray(ImageOps.exif_transpose(reference))
    assert np.array_equal(decode(data, max_pixels=LIMIT), expected)


def test_a_large_jpeg_comes_back_reduced_but_not_below_what_is_needed() -> None:
    data = encode(picture("green", (1600, 800)), "JPEG")
    assert decode(data, max_pixels=2_000_000).shape == (800, 1600, 3)
    assert decode(data, max_pixels=2_000_000, at_least=128).shape == (200, 400, 3)
    with pytest.raises(ImageTooLarge, match="1600 × 800"):  # its own size counts, not the reduced one
        decode(data, max_pixels=1_000_000, at_least=128)


@pytest.mark.parametrize("size", [(1, 300), (2, 999), (7, 1000), (999, 3)])
def test_a_sliver_of_a_jpeg_keeps_its_proportions(size: tuple[int, int]) -> None:
    """Where its short side can't become shorter, neither may the long one."""
    data = encode(picture("green", size), "JPEG")
    assert decode(data, max_pixels=LIMIT, at_least=128).shape == (*size[::-1], 3)
    assert decode(data, max_pixels=1 << 53, at_least=128).shape == (*size[::-1], 3)  # the setting's largest value


def test_what_pillow_remarks_on_odd_files_is_not_said_on_stderr() -> None:
    remark = (
        "warnings.warn_explicit('tag 274 had too many entries', UserWarning, 'x.py', 1, module='PIL.TiffImagePlugin')"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import warnings; import service.decoding; {remark}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""


def scans_of(content: bytes, wanted: int) -> bytes:
    """The progressive JPEG with its last scan again and again."""
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * wanted + content[-2:]


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_of_very_many_scans_is_refused_before_it_is_decoded(progressive: bool, noise: np.ndarray) -> None:
    content = encode(Image.fromarray(noise), "JPEG", progressive=progressive)
    if progressive:
        assert decode(scans_of(content, 3), max_pixels=LIMIT).shape == noise.shape
    with pytest.raises(InvalidImage, match="more than 100 scans"):
        decode(scans_of(content, 101), max_pixels=LIMIT)


@pytest.mark.parametrize(("scanned", "most"), [(12, 16), (20, 20)])
def test_a_large_jpeg_may_have_fewer(
    scanned: int, most: int, monkeypatch: pytest.MonkeyPatch, noise: np.ndarray
) -> None:
    """Eight thousand by five thousand pixels in a hundred scans took 7 seconds."""
    pixels = noise.shape[0] * noise.shape[1]
    monkeypatch.setattr(decoding, "MOST_SCANNED", scanned * pixels)
    content = encode(Image.fromarray(noise), "JPEG", progressive=True)
    others = content.count(b"\xff\xda") - 1
    assert decode(scans_of(content, most - others), max_pixels=pixels).shape == noise.shape
    with pytest.raises(InvalidImage, match=f"more than {most} scans, too many for its size"):
        decode(scans_of(content, most - others + 1), max_pixels=pixels)


def runs(width: int, height: int) -> bytes:
    """A BMP of one colour in 8 bits, each row a few runs (BI_RLE8)."""
    row = b"".join(bytes([min(255, width - at), 0]) for at in range(0, width, 255)) + b"\0\0"
    pixels, palette = row * height + b"\0\1", bytes([10, 20, 30, 0]) * 256
    info = struct.pack("<LllHHLLllLL", 40, width, height, 1, 8, 1, len(pixels), 0, 0, 256, 0)
    start = 14 + len(info) + len(palette)
    return struct.pack("<2sLHHL", b"BM", start + len(pixels), 0, 0, start) + info + palette + pixels


def test_a_bmp_of_packed_runs_may_have_fewer_pixels_than_others() -> None:
    assert decode(runs(300, 2), max_pixels=LIMIT)[0, 0].tolist() == [30, 20, 10]
    assert decode(runs(1024, 1024), max_pixels=40_000_000).shape == (1024, 1024, 3)
    with pytest.raises(ImageTooLarge, match="packed runs may have 1,048,576 pixels at most; save it as PNG"):
        decode(runs(1024, 1025), max_pixels=40_000_000)
    with pytest.raises(ImageTooLarge, match="at most 500"):
        decode(runs(300, 2), max_pixels=500)


def test_what_pillow_is_to_judge_has_no_more_scans_either(noise: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_answer(_data: bytes) -> None:
        raise ValueError("subsampling that libjpeg-turbo's interface has no name for")

    monkeypatch.setattr(simplejpeg, "decode_jpeg_header", no_answer)
    content = encode(Image.fromarray(noise), "JPEG", progressive=True)
    assert decode(content, max_pixels=LIMIT).shape == noise.shape
    with pytest.raises(InvalidImage, match="more than 100 scans"):
        decode(scans_of(content, 101), max_pixels=LIMIT)


@pytest.mark.parametrize(("marker", "beyond_scan"), [(b"\xff\x01", 0), (b"\xff\x01", 20), (b"\xff\xbf", 20)])
def test_markers_without_a_length_hide_no_scans(marker: bytes, beyond_scan: int, noise: np.ndarray) -> None:
    content = scans_of(encode(Image.fromarray(noise), "JPEG", progressive=True), 101)
    place = content.index(b"\xff\xda") + beyond_scan
    with pytest.raises(InvalidImage, match="more than 100 scans"):
        decode(content[:place] + marker + b"\xff\xff" + content[place:], max_pixels=LIMIT)


@pytest.mark.parametrize("progressive", [False, True])
def test_what_comes_with_a_jpeg_is_not_taken_for_scans(noise: np.ndarray, progressive: bool) -> None:
    content = encode(Image.fromarray(noise), "JPEG", progressive=progressive)
    note = b"\xff\xe1" + (2 + 4000).to_bytes(2) + b"\xff\xda" * 2000
    moving = content[:2] + note + content[2:] + b"\xff\xda" * 2000  # as a telephone adds a film
    assert np.array_equal(decode(moving, max_pixels=LIMIT), decode(content, max_pixels=LIMIT))


@pytest.mark.parametrize("fmt", ["PNG", "WEBP"])
@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\x08\0\0\0\x05", b"Exif\0\0XX*\0\x08\0\0\0"])
def test_damaged_exif_does_not_spoil_a_picture(fmt: str, exif: bytes, noise: np.ndarray) -> None:
    content = encode(Image.fromarray(noise), fmt, exif=exif, lossless=True)
    assert np.array_equal(decode(content, max_pixels=LIMIT), noise)


def test_a_transparent_grey_of_16_bits_is_white() -> None:
    image = Image.fromarray(np.array([[0, 300, 65535, 301]], np.uint16))
    assert decode(encode(image, "PNG", transparency=300), max_pixels=LIMIT)[0, :, 0].tolist() == [0, 255, 255, 1]


def test_big_tiff_is_tiff(noise: np.ndarray) -> None:
    content = encode(Image.fromarray(noise), "TIFF", big_tiff=True)
    assert content[:4] == b"II+\0"
    assert np.array_equal(decode(content, max_pixels=LIMIT), noise)


def test_the_operators_limit_is_the_only_one() -> None:
    height = 14_000
    content = encode(Image.new("1", (height, height)), "PNG")
    with pytest.raises(ImageTooLarge, match="14000 × 14000 pixels; send one of at most 190,000,000"):
        decode(content, max_pixels=190_000_000)
    assert decode(content, max_pixels=200_000_000).shape == (height, height, 3)


def png(depth: int, colour_type: int, rows: list[bytes], width: int, transparent: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">L", len(content)) + kind + content + struct.pack(">L", zlib.crc32(kind + content))

    header = struct.pack(">LLBBBBB", width, len(rows), depth, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = [(b"IHDR", header), (b"tRNS", transparent), (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


@pytest.mark.parametrize(
    ("depth", "row", "width", "transparent", "expected"),
    [
        (1, b"\x40", 2, 0, [255, 255]),
        (1, b"\x40", 2, 1, [0, 255]),
        (2, b"\x50", 2, 1, [255, 255]),
        (2, b"\x10", 2, 0, [255, 85]),
        (4, b"\x8f", 2, 8, [255, 255]),
        (4, b"\x08", 2, 0, [255, 136]),
        (8, b"\x08\x00", 2, 8, [255, 0]),
        (16, b"\x12\x34\x00\x00", 2, 0x1234, [255, 0]),
    ],
)
def test_the_transparent_grey_of_a_png_is_white_whatever_its_depth(
    depth: int, row: bytes, width: int, transparent: int, expected: list[int]
) -> None:
    image = decode(png(depth, 0, [row], width, struct.pack(">H", transparent)), max_pixels=LIMIT)
    assert image[0, :, 0].tolist() == expected


def test_the_transparent_colour_of_16_bits_is_white() -> None:
    row = struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0x3456, 0x789A, 0xBCDE)
    image = decode(png(16, 2, [row], 2, row[:6]), max_pixels=LIMIT)
    assert image[0].tolist() == [[255, 255, 255], [0x34, 0x78, 0xBC]]


def test_colours_of_16_bits_that_are_nearly_the_transparent_one_stay() -> None:
    colours = [(0x1234, 0x5678, 0x9ABC), (0x1235, 0x5678, 0x9ABC), (0x1234, 0x5600, 0x9ABC), (0x1234, 0x5678, 0x9ABD)]
    rows = [struct.pack(">6H", *first, *second) for first, second in (colours[:2], colours[2:], colours[::-3])]
    image = decode(png(16, 2, rows, 2, struct.pack(">3H", *colours[0])), max_pixels=LIMIT)
    white, nearly = [255, 255, 255], [0x12, 0x56, 0x9A]
    assert image.tolist() == [[white, nearly], [nearly, nearly], [nearly, white]]


def on_screen(frame: bytes, screen: tuple[int, int], place: tuple[int, int]) -> bytes:
    """A GIF's only frame at another place, on another screen."""
    start = frame.index(b",\0\0\0\0" + frame[6:10])  # all of its own screen
    return (
        frame[:6]
        + struct.pack("<HH", *screen)
        + frame[10 : start + 1]
        + struct.pack("<HH", *place)
        + frame[start + 5 :]
    )


@pytest.mark.parametrize("place", [(0, 0), (1, 2), (4, 0), (0, 3)])
@pytest.mark.parametrize("transparent", [None, 1])
def test_a_gif_is_white_where_its_frame_leaves_the_screen_free(
    place: tuple[int, int], transparent: int | None, noise: np.ndarray
) -> None:
    options = {} if transparent is None else {"transparency": transparent}
    frame = encode(Image.fromarray(noise).quantize(8), "GIF", **options)
    (left, top), (height, width, _) = place, noise.shape
    expected = np.full((12, 11, 3), 255, np.uint8)
    expected[top : top + height, left : left + width] = decode(frame, max_pixels=LIMIT)
    assert np.array_equal(decode(on_screen(frame, (11, 12), place), max_pixels=LIMIT), expected)


def grey_tiff(bits: int, photometric: int, pixels: bytes) -> bytes:
    """Four pixels in a row."""
    short, long = 3, 4
    tags = [(256, short, 4), (257, short, 1), (258, short, bits), (259, short, 1), (262, short, photometric)]
    tags += [(273, long, 8 + 2 + 12 * 9 + 4), (277, short, 1), (278, short, 1), (279, long, len(pixels))]
    entries = b"".join(struct.pack("<HHLL", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<LH", 8, len(tags)) + entries + bytes(4) + pixels


@pytest.mark.parametrize(
    ("bits", "photometric", "pixels", "expected"),
    [
        (8, 0, bytes([0, 255, 1, 100]), [255, 0, 254, 155]),
        (16, 0, struct.pack("<4H", 0, 65535, 257, 25700), [255, 0, 254, 155]),
        (16, 1, struct.pack("<4H", 0, 65535, 257, 25700), [0, 255, 1, 100]),
        (12, 1, bytes.fromhex("fff000800010"), [255, 0, 127, 0]),
    ],
)
def test_tiffs_levels_are_its_own(bits: int, photometric: int, pixels: bytes, expected: list[int]) -> None:
    """As scanners and medical instruments write them."""
    assert decode(grey_tiff(bits, photometric, pixels), max_pixels=LIMIT)[0, :, 0].tolist() == expected


def planes_tiff(
    bits: int, photometric: int, planes: list[bytes], *more: tuple[int, int], packed: bool = False
) -> bytes:
    """Four pixels in a row, each channel in a plane of its own; `more` tags, each a whole number of 16 bits."""
    stored = [zlib.compress(plane) if packed else plane for plane in planes]
    channels, short, long = len(planes), 3, 4
    tags = [(256, short, [4]), (257, short, [1]), (258, short, [bits] * channels), (259, short, [8 if packed else 1])]
    tags += [(262, short, [photometric]), (277, short, [channels]), (278, short, [1]), (284, short, [2])]
    tags += [(tag, short, [value]) for tag, value in more]
    size = 8 + 2 + 12 * (len(tags) + 2) + 4
    starts = [size + sum(map(len, stored[:place])) for place in range(channels)]
    tags += [(273, long, starts), (279, long, [len(plane) for plane in stored])]
    entries, beyond, place = b"", b"", size + sum(map(len, stored))
    for tag, kind, values in sorted(tags):
        value = struct.pack(f"<{len(values)}{'H' if kind == short else 'L'}", *values)
        if len(value) > 4:
            value, beyond, place = struct.pack("<L", place), beyond + value, place + len(value)
        entries += struct.pack("<HHL4s", tag, kind, len(values), value)
    return b"II*\0" + struct.pack("<LH", 8, len(tags)) + entries + bytes(4) + b"".join(stored) + beyond


EIGHT = [bytes([9, 99, 199, 255]), bytes([0, 50, 100, 150]), bytes([7, 77, 177, 250])]
SIXTEEN = [struct.pack("<4H", *(257 * level for level in plane)) for plane in EIGHT]
FILL_ORDER, EXTRA_CHANNEL = 266, 338


@pytest.mark.parametrize(
    "content",
    [
        planes_tiff(8, 2, EIGHT),
        planes_tiff(8, 2, EIGHT, packed=True),
        planes_tiff(16, 2, SIXTEEN, packed=True),
        planes_tiff(8, 2, [*EIGHT, b"\xff" * 4], (EXTRA_CHANNEL, 2)),
        planes_tiff(8, 5, [*(bytes(255 - level for level in plane) for plane in EIGHT), bytes(4)]),
    ],
    ids=["8 bits", "8 bits, packed", "16 bits, packed", "with alpha", "cmyk"],
)
def test_a_tiff_may_have_its_channels_in_planes(content: bytes) -> None:
    expected = np.frombuffer(b"".join(EIGHT), np.uint8).reshape(3, 4).T
    assert np.array_equal(decode(content, max_pixels=LIMIT)[0], expected)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (planes_tiff(1, 1, [b"\x50"]), [0, 255, 0, 255]),
        (planes_tiff(8, 1, [EIGHT[0]]), [9, 99, 199, 255]),
        (planes_tiff(16, 0, [SIXTEEN[0]], packed=True), [246, 156, 56, 0]),
    ],
    ids=["1 bit", "8 bits", "16 bits, packed"],
)
def test_a_grey_tiff_may_have_its_channel_in_a_plane(content: bytes, expected: list[int]) -> None:
    assert decode(content, max_pixels=LIMIT)[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    "content",
    [
        planes_tiff(16, 2, SIXTEEN),
        planes_tiff(16, 2, [*SIXTEEN, b"\xff" * 8], (EXTRA_CHANNEL, 2)),
        planes_tiff(16, 5, [*SIXTEEN, bytes(8)]),
        planes_tiff(8, 2, EIGHT, (FILL_ORDER, 2)),
        planes_tiff(8, 0, [EIGHT[0]]),
        planes_tiff(4, 1, [b"\x01\x23"]),
        planes_tiff(1, 0, [b"\x50"]),
        planes_tiff(8, 1, [EIGHT[0], b"\xff" * 4], (EXTRA_CHANNEL, 2)),
        planes_tiff(8, 1, [EIGHT[0], b"\xff" * 4], (EXTRA_CHANNEL, 2), packed=True),
    ],
    ids=["16 bits", "and alpha", "cmyk", "reversed", "inverted", "4 bits", "inverted bits", "grey alpha", "packed too"],
)
def test_planes_that_would_be_mistaken_for_others_are_refused(content: bytes) -> None:
    """Pillow says nothing, and gives other pixels."""
    with pytest.raises(InvalidImage, match=r"channels in planes of their own.* save it with them interleaved"):
        decode(content, max_pixels=LIMIT)


def test_a_jpeg_whose_notes_are_damaged_is_a_picture_all_the_same() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    content = encode(picture("red"), "JPEG", exif=exif)
    damaged = content[:2] + b"\xff\xe0\x00\x09JFIF\0\1\1" + content[2:]
    assert decode(damaged, max_pixels=LIMIT).shape == (*picture("red").size[::-1], 3)

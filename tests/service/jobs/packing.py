"""Makes the archives and tables that the tests of batch scoring read."""

from __future__ import annotations

import base64
import gzip
import io
import json
import struct
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow
from pyarrow import parquet

from service.jobs.inputs import Input, Limits
from service.jobs.sources import SOURCES

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Pictures = Iterable[tuple[str, bytes]]


def as_zip(pictures: Pictures, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in pictures:
            archive.writestr(name, content)
    return stream.getvalue()


def as_tar(pictures: Pictures) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in pictures:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def zstd_compressed(content: bytes) -> bytes:
    return zstd.compress(content)


def as_ndjson(pictures: Pictures) -> bytes:
    lines = [json.dumps({"id": name, "image": base64.b64encode(content).decode()}) for name, content in pictures]
    return "".join(line + "\n" for line in lines).encode()


def as_parquet(pictures: Pictures) -> bytes:
    names, contents = zip(*pictures, strict=True)
    stream = io.BytesIO()
    table = {"id": list(names), "image": [{"bytes": content, "path": None} for content in contents]}
    parquet.write_table(pyarrow.table(table), stream)
    return stream.getvalue()


def as_overlapping_zip(kernel_bytes: int, times: int) -> bytes:
    """D. Fifield, "A better zip bomb", 2019: many entries of the table of contents share one compressed kernel."""
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore")
        archive.writestr("kernel", bytes(kernel_bytes))
        for _ in range(times):
            archive.filelist.append(archive.filelist[0])
    return stream.getvalue()


def as_zip_of_one_blob(blob_bytes: int, times: int) -> bytes:
    """Many entries of the table of contents share one blob that unpacks to nothing."""
    blob, name = b"\x03\x00".ljust(blob_bytes, b"\0"), b"a.png"
    local = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 8, 0, 0, 0, blob_bytes, 0, len(name), 0) + name
    numbers = (20, 20, 0, 8, 0, 0, 0, blob_bytes, 0, len(name), 0, 0, 0, 0, 0, 0)
    directory = (struct.pack("<4s6H3L5H2L", b"PK\x01\x02", *numbers) + name) * times
    start = len(local) + blob_bytes
    return (
        local + blob + directory + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, times, times, len(directory), start, 0)
    )


def as_encrypted_zip(pictures: Pictures) -> bytes:
    """The first member's flags say that it is encrypted."""
    packed = bytearray(as_zip(pictures))
    at = packed.find(b"PK\x01\x02") + 8
    packed[at : at + 2] = struct.pack("<H", 1)
    return bytes(packed)


def as_zip_with_its_end_elsewhere(pictures: Pictures, position: int) -> bytes:
    """Its 64-bit locator says that the end of the table of contents is at `position`."""
    packed = as_zip(pictures)
    at = packed.rfind(b"PK\x05\x06")
    *_, length, start, _ = struct.unpack("<4s4H2LH", packed[at:])
    end = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, length, start)
    return packed[:at] + end + struct.pack("<4sLQL", b"PK\x06\x07", 0, position, 1) + packed[at:]


def as_zip_with_its_member_elsewhere(name: str, content: bytes, position: int) -> bytes:
    """Its table of contents says that the only member is at `position`."""
    packed = bytearray(as_zip([(name, content)]))
    at, end = packed.rfind(b"PK\x01\x02"), packed.rfind(b"PK\x05\x06")
    extra = struct.pack("<2HQ", 1, 8, position)
    packed[end + 12 : end + 16] = struct.pack("<L", end - at + len(extra))
    packed[end:end] = extra
    packed[at + 30 : at + 32] = struct.pack("<H", len(extra))
    packed[at + 42 : at + 46] = b"\xff" * 4
    return bytes(packed)


PACKERS: dict[str, Callable[[Pictures], bytes]] = {
    "zip": as_zip,
    "tar": as_tar,
    "tar.gz": lambda pictures: gzip.compress(as_tar(pictures)),
    "tar.zst": lambda pictures: zstd_compressed(as_tar(pictures)),
    "ndjson": as_ndjson,
    "parquet": as_parquet,
}


def inputs(kind: str, content: bytes, limits: Limits | None = None) -> Iterable[Input]:
    """The inputs of a packed file."""
    return SOURCES[kind].read(io.BytesIO(content), len(content), limits or Limits())


def outcomes(kind: str, content: bytes, limits: Limits | None = None) -> list[tuple[str | None, object]]:
    """Each input's id with its content, or with the detail of its error."""
    found = []
    for each in inputs(kind, content, limits):
        content_or_error = each.content()
        found.append((each.id, getattr(content_or_error, "detail", content_or_error)))
    return found


def write_folder(folder: Path, pictures: Pictures) -> Path:
    for name, content in pictures:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder

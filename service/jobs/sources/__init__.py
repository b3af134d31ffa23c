"""A path or URL → its inputs, in an order that is always the same: `SOURCES` names every kind there is.

The bytes decide what a file is, its name only where bytes can't: for lists of paths and CIFAR-10's batches.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Callable
from dataclasses import dataclass

from service.decoding import DECODERS
from service.jobs.inputs import ReadStream
from service.jobs.sources.cifar import FILE_NAME, cifar_inputs
from service.jobs.sources.tables import ndjson_inputs, parquet_inputs
from service.jobs.sources.tars import is_tar, tar_gz_inputs, tar_inputs, tar_zst_inputs
from service.jobs.sources.zips import zip_inputs

HEAD_BYTES = 512


@dataclass(frozen=True, slots=True)
class Source:
    """A kind of file that holds many images."""

    media_types: tuple[str, ...]  # as bodies of requests; none: only on the command line
    matches: Callable[[str, bytes], bool]  # file name, first bytes
    read: ReadStream


SOURCES: dict[str, Source] = {
    "zip": Source(("application/zip",), lambda _, head: head[:4] in (b"PK\x03\x04", b"PK\x05\x06"), zip_inputs),
    "tar": Source(("application/x-tar",), is_tar, tar_inputs),
    "tar.gz": Source(
        ("application/gzip", "application/x-gtar"), lambda _, head: head[:2] == b"\x1f\x8b", tar_gz_inputs
    ),
    "tar.zst": Source(("application/zstd",), lambda _, head: head[:4] == b"\x28\xb5\x2f\xfd", tar_zst_inputs),
    "parquet": Source(("application/vnd.apache.parquet",), lambda _, head: head[:4] == b"PAR1", parquet_inputs),
    "cifar-10": Source((), lambda name, _: FILE_NAME.fullmatch(name) is not None, cifar_inputs),
    "ndjson": Source(
        ("application/x-ndjson", "application/jsonl"),
        lambda _, head: head.removeprefix(BOM_UTF8).lstrip()[:1] == b"{",
        ndjson_inputs,
    ),
}


def is_image(head: bytes) -> bool:
    """Whether a file that begins so is an image."""
    return any(decoder.matches(head) for decoder in DECODERS.values())


def kind_of(name: str, head: bytes) -> Source | None:
    """The kind of a file, by its name and first bytes; None: a single image, a list of paths, or nothing known."""
    if is_image(head) and not is_tar(name, head):  # which begins with a file's name: with BM, for instance
        return None
    return next((source for source in SOURCES.values() if source.matches(name, head)), None)

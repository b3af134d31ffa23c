"""An address → a verified file on disk, resumed where an earlier attempt stopped.

The bytes grow in `NAME.part`; only a file whose checksum is right gets its real name.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from training.errors import DataError

ATTEMPTS = 5
CHUNK_BYTES = 1 << 18
TIMEOUT_S = 30.0  # without a byte


def download(url: str, target: Path, *, md5: str) -> None:
    """Fetch `url` to `target`; raises `DataError` when the network or the checksum says no."""
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _fetch(url, part)
        with part.open("rb") as stream:
            found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if found != md5:
            part.unlink()
            raise DataError(f"{url} arrived damaged (wrong MD5 sum) and was removed; run the same command again.")
        part.replace(target)
    except (OSError, http.client.HTTPException) as exc:
        raise DataError(
            f"{url} could not be downloaded ({getattr(exc, 'reason', None) or exc}); what has arrived is kept, "
            "run the same command again to go on, or point --data at a copy."
        ) from exc


def _fetch(url: str, part: Path) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            if _fetch_rest(url, part):
                return
        except (OSError, http.client.HTTPException):
            if attempt == ATTEMPTS:
                raise
    raise OSError("the connection kept breaking off")


def _fetch_rest(url: str, part: Path) -> bool:
    """Append what is still missing of `url` to `part`; whether it is complete now."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as exc:
        exc.close()
        if exc.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return True  # nothing is missing; the checksum decides
        raise
    with response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        have = have if resumed else 0
        length = response.headers["Content-Length"]  # of answers in chunks it is unknown
        expected = have + int(length) if length else None
        with (
            part.open("ab" if resumed else "wb") as out,
            tqdm(desc=part.stem, total=expected, initial=have, unit="B", unit_scale=True, disable=None) as bar,
        ):
            while chunk := response.read(CHUNK_BYTES):
                out.write(chunk)
                bar.update(len(chunk))
            out.flush()
            os.fsync(out.fileno())
        return expected is None or part.stat().st_size >= expected

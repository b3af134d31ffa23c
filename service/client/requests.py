"""Images → requests, as often as they are worth sending."""

from __future__ import annotations

import io
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import httpx2
import numpy as np
import numpy.typing as npt

from service.types import RGBImage, Rows

Image: TypeAlias = str | Path | bytes | RGBImage  # a file's path, a file's content, or pixels uint8 (H, W, 3)
PATH, NPY = "/v1/predict", "application/x-npy"
FIRST_PAUSE_S = 0.05  # before the second try, where the service does not say how long; doubled from then on
BREAKS = 6  # of a connection in one call: about two seconds, in which a server that restarts may be back
BUSY = {httpx2.codes.TOO_MANY_REQUESTS, httpx2.codes.SERVICE_UNAVAILABLE}
LATE = httpx2.codes.GATEWAY_TIMEOUT  # is final, unless the service had no time to begin and says when it has
APART = (1.0, 1.25)  # times the pause: those who were refused together don't come back together, and none too early
Outcome = httpx2.Response | httpx2.TransportError


@dataclass(frozen=True, slots=True)
class Asked:
    """What is the same at every try."""

    query: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes | None = None
    files: list[tuple[str, tuple[str, bytes]]] | None = None


def asked(images: Iterable[Image], top_k: int | None, coverage: float | None) -> Asked:
    """Predictions for `images`; raises `OSError` or `ValueError` for what is no image's file or pixels."""
    query = {name: str(value) for name, value in (("top_k", top_k), ("coverage", coverage)) if value is not None}
    return Asked(query, files=[("images", _file(image)) for image in images])


def asked_in_bulk(images: Rows) -> Asked:
    """Probabilities alone for uint8 (N, H, W, 3); raises `ValueError` for other arrays."""
    stream = io.BytesIO()
    np.save(stream, _pixels(images, ("N", "H", "W", "3")), allow_pickle=False)
    return Asked(headers={"content-type": NPY, "accept": NPY}, content=stream.getvalue())


def _file(image: Image) -> tuple[str, bytes]:
    """Name and content."""
    if isinstance(image, bytes):
        return "image", image
    if isinstance(image, np.ndarray):
        from service.jobs.remote import bitmap

        return "image.bmp", bitmap(_pixels(image, ("H", "W", "3")))
    return Path(image).name, Path(image).read_bytes()


def _pixels(array: npt.NDArray[Any], axes: tuple[str, ...]) -> npt.NDArray[np.uint8]:
    if array.dtype != np.uint8 or array.ndim != len(axes) or array.shape[-1] != 3:
        raise ValueError(f"Pixels must be RGB, uint8 ({', '.join(axes)}); these are {array.dtype} {array.shape}.")
    return array


@dataclass(frozen=True)
class Server:
    """Where and how one client asks."""

    url: str
    api_key: str | None
    model: str | None
    version: str | None
    timeout_s: float

    def arguments(self, request: Asked, left_s: float) -> dict[str, Any]:
        """Those of httpx's `post` for a try that may take `left_s`."""
        query = {"model": self.model, "version": self.version, **request.query}
        headers = {"x-request-timeout-ms": str(max(1, int(left_s * 1000))), **request.headers}
        if self.api_key:
            headers["authorization"] = f"Bearer {self.api_key}"
        return {
            "url": self.url.rstrip("/") + PATH,
            "params": {name: value for name, value in query.items() if value is not None},
            "headers": headers,
            "content": request.content,
            "files": request.files,
            "timeout": left_s,
        }


class Patience:
    """How long a request may still take, its tries and pauses together."""

    def __init__(self, timeout_s: float) -> None:
        self._ends, self._pause_s, self._breaks = time.monotonic() + timeout_s, FIRST_PAUSE_S, BREAKS

    @property
    def left_s(self) -> float:
        """Seconds, a thousandth at least."""
        return max(self._ends - time.monotonic(), 0.001)

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self._ends

    def pause_s(self, outcome: Outcome) -> float | None:
        """How long to wait before the next try; None where there will be none."""
        told = ""
        if isinstance(outcome, httpx2.TransportError):
            self._breaks -= 1
            if not self._breaks or not isinstance(outcome, httpx2.NetworkError | httpx2.RemoteProtocolError):
                return None
        else:
            told = outcome.headers.get("retry-after", "")
            if outcome.status_code not in BUSY and (outcome.status_code != LATE or not told):
                return None
        pause_s = max(float(told) if told.isdecimal() else 0.0, self._pause_s) * random.uniform(*APART)
        self._pause_s *= 2
        return pause_s if pause_s < self._ends - time.monotonic() else None

"""The Accept header → the media type of the answer (RFC 9110, section 12.5.1)."""

from __future__ import annotations

from service.api.incoming import check_length
from service.errors import NotAcceptable


def negotiate(accept: str | None, offered: tuple[str, ...]) -> str:
    """The offered type that the client likes best, the first offered among equals.

    Raises `NotAcceptable` or `MalformedRequest`.
    """
    if not accept or accept == "*/*":
        return offered[0]
    check_length(accept, "Accept")
    ranges = [_parse(part) for part in accept.split(",") if part.strip()] or [("*/*", 1.0)]
    best = max(offered, key=lambda media_type: _quality(media_type, ranges))
    if _quality(best, ranges) <= 0:
        raise NotAcceptable(f"Answers come as {' or '.join(offered)}; accept one of them.")
    return best


def _parse(part: str) -> tuple[str, float]:
    media_range, *parameters = (piece.strip() for piece in part.split(";"))
    quality = next((p[2:] for p in parameters if p[:2].lower() == "q="), "1")
    try:
        return media_range.lower(), float(quality)
    except ValueError:
        return media_range.lower(), 0.0


def _quality(media_type: str, ranges: list[tuple[str, float]]) -> float:
    """The quality of the most specific range that matches."""
    candidates = (media_type, media_type.partition("/")[0] + "/*", "*/*")
    return next((quality for candidate in candidates for range_, quality in ranges if range_ == candidate), 0.0)

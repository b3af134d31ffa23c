"""A request's head, looked at as bytes before any parser has seen it."""

from __future__ import annotations

import re

# The rest of a head without anything that only a real parser should judge: tokens, a colon, visible text (RFC 9112).
FIELDS = rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]++:[\t -~\x80-\xff]*+\r\n)++\r\n"
FIELD = re.compile(  # a pattern that left out the blanks behind a value would look at those within it again and again
    rb"(?i)\n(content-length|content-type|x-request-id|x-request-timeout-ms|authorization|x-api-key|origin"
    rb"|connection|transfer-encoding|expect|upgrade):([^\r]*+)\r"
)
NOT_PLAIN = {b"transfer-encoding", b"expect", b"upgrade"}
UPGRADE = re.compile(rb"(?i)\r\n(?=upgrade:)")


class PlainHead:
    """Recognises requests for one path that arrived in one piece and have nothing unusual about them."""

    def __init__(self, method: str, path: str) -> None:
        self._head = re.compile(b"%b %b HTTP/1[.]1\r\n" % (method.encode(), re.escape(path.encode())) + FIELDS)

    def fields(self, data: bytes) -> dict[bytes, bytes] | None:
        """Those that matter, their names in lower case, if `data` is such a request and no more."""
        if (head := self._head.match(data)) is None:
            return None
        found = FIELD.findall(head[0])
        fields = {name.lower(): value.strip(b" \t") for name, value in found}
        if (
            len(fields) != len(found)
            or not NOT_PLAIN.isdisjoint(fields)
            or fields.get(b"connection", b"keep-alive").lower() != b"keep-alive"
            or fields.get(b"content-length") != b"%d" % (len(data) - head.end())
        ):
            return None
        return fields


def without_upgrade(data: bytes) -> bytes:
    """The beginning of a request, its wish for another protocol renamed: a server may ignore it (RFC 9110, 7.8).

    The parser would take what comes after the head for that protocol: with `Upgrade: h2c`, which some clients send with
    every first request, the body would be lost.
    """
    end = data.find(b"\r\n\r\n")
    head = data if end < 0 else data[:end]
    if UPGRADE.search(head) is None:
        return data
    return UPGRADE.sub(b"\r\nignored-", head) + data[len(head) :]

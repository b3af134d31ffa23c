"""Heads of requests as bytes."""

from __future__ import annotations

import re

import pytest

from service.heads import FIELD, PlainHead, without_upgrade
from tests.wire import wire

PLAIN = PlainHead("POST", "/v1/predict")


def test_a_plain_request_is_its_fields() -> None:
    fields = PLAIN.fields(
        wire(b"body", "X-Request-Id:  mine ", "Authorization: Bearer of me", "Accept: */*", "Origin: o")
    )
    assert fields == {
        b"content-type": b"image/png",
        b"content-length": b"4",
        b"x-request-id": b"mine",
        b"authorization": b"Bearer of me",
        b"origin": b"o",
    }


@pytest.mark.parametrize(
    "data",
    [
        wire(b"body", start="POST /v1/predict?top_k=1 HTTP/1.1"),
        wire(b"body", start="GET /v1/predict HTTP/1.1"),
        wire(b"body", start="POST /v1/predict HTTP/1.0"),
        wire(b"body", "Connection: close"),
        wire(b"body", "Expect: 100-continue"),
        wire(b"body", "X-API-Key: a", "x-api-key: b"),
        wire(b"body", "a b: c"),
        wire(b"body") + b"GET",
        wire(b"body")[:-1],
    ],
)
def test_what_only_a_parser_should_judge_is_not_plain(data: bytes) -> None:
    assert PLAIN.fields(data) is None


def test_blanks_within_a_field_stay_and_those_around_it_go() -> None:
    fields = PLAIN.fields(wire(b"body", "X-Request-Id: \t mine  of \t two\t "))
    assert fields
    assert fields[b"x-request-id"] == b"mine  of \t two"


def test_the_pattern_of_a_field_looks_at_each_byte_once() -> None:
    """What a repetition has taken it never gives back, however many blanks there are in it."""
    others = re.sub(rb"[(][?]i[)]|[*+][+]", b"", FIELD.pattern)
    assert not re.search(rb"[*+?{]", others)


@pytest.mark.parametrize("name", ["Upgrade", "upgrade", "UPGRADE"])
def test_a_wish_for_another_protocol_is_renamed(name: str) -> None:
    data = wire(b"body", f"{name}: h2c", "Connection: Upgrade, HTTP2-Settings")
    assert without_upgrade(data) == wire(b"body", f"ignored-{name}: h2c", "Connection: Upgrade, HTTP2-Settings")


def test_so_are_several_and_those_of_a_head_whose_end_is_still_to_come() -> None:
    head = b"GET / HTTP/1.1\r\n%bUpgrade: h2c\r\nHost: x\r\n%bupgrade: h3\r\n"
    assert without_upgrade(head % (b"", b"")) == head % (b"ignored-", b"ignored-")


def test_nothing_else_is_touched() -> None:
    for data in (wire(b"\r\nUpgrade: h2c\r\n\r\n"), wire(b"body", "X-Upgrade: h2c"), b"POST", b""):
        assert without_upgrade(data) == data

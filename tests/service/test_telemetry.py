"""Structured log lines with request ids."""

from __future__ import annotations

import json
import logging
import sys

from service.telemetry import JsonFormatter, TextFormatter, request_id


def record(**extra: object) -> logging.LogRecord:
    made = logging.makeLogRecord(
        {"name": "service.x", "levelno": logging.INFO, "levelname": "INFO", "msg": "two\nlines"}
    )
    made.__dict__.update(extra)
    return made


def test_json_is_one_line_with_fields_and_request_id() -> None:
    token = request_id.set("abc")
    try:
        line = JsonFormatter().format(record(status=200))
    finally:
        request_id.reset(token)
    assert "\n" not in line
    entry = json.loads(line)
    assert entry.items() >= {"level": "info", "message": "two\nlines", "status": 200, "request_id": "abc"}.items()


def test_json_leaves_nothing_to_an_encoding_or_a_terminal() -> None:
    line = JsonFormatter().format(record(path="/käse\x7f\x9b2J\u2028"))
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["path"] == "/käse\x7f\x9b2J\u2028"


def test_json_holds_the_traceback() -> None:
    try:
        raise ValueError("here")
    except ValueError:
        made = record(exc_info=sys.exc_info())
    assert "ValueError: here" in json.loads(JsonFormatter().format(made))["exception"]


def test_text_shows_the_fields() -> None:
    assert TextFormatter().format(record(status=200)).endswith("two\nlines  status=200")


def test_a_field_can_not_look_like_another_line() -> None:
    line = TextFormatter().format(record(path="/v1/x\n07:00:00 error\x1b[2J\u2028"))
    assert line.endswith("  path=/v1/x\\n07:00:00 error\\x1b[2J\\u2028")

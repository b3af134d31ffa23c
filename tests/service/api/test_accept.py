"""The Accept header."""

from __future__ import annotations

import pytest

from service.api.accept import negotiate
from service.errors import MalformedRequest, NotAcceptable

JSON, NPY = "application/json", "application/x-npy"


@pytest.mark.parametrize(
    ("accept", "answer"),
    [
        (None, JSON),
        ("", JSON),
        (" , ", JSON),  # an empty list: anything goes
        (f",{NPY},", NPY),
        ("*/*", JSON),
        ("application/*", JSON),
        (NPY, NPY),
        (f"{NPY}, {JSON}", JSON),
        (f"{NPY}, {JSON};q=0.5", NPY),
        (f"{NPY}, */*;q=0.1", NPY),
        (f"text/html, {JSON.upper()}; q=0.9", JSON),
        (f"{JSON};q=0, */*", NPY),
        (f"*/*, {JSON};q=0.5", NPY),
        (f"{JSON};Q=0.5, {NPY}", NPY),
    ],
)
def test_the_client_gets_what_it_likes_best(accept: str | None, answer: str) -> None:
    assert negotiate(accept, (JSON, NPY)) == answer


@pytest.mark.parametrize("accept", ["image/png", f"{JSON};q=0", f"{JSON};q=x", "nonsense"])
def test_nothing_it_likes_is_not_acceptable(accept: str) -> None:
    with pytest.raises(NotAcceptable, match=JSON):
        negotiate(accept, (JSON, NPY))


def test_a_list_without_end_is_not_parsed() -> None:
    assert negotiate("a/b," * 200 + NPY, (JSON, NPY)) == NPY
    with pytest.raises(MalformedRequest, match=r"^header Accept: it may have 1,024 bytes at most; send a shorter one"):
        negotiate("a/b," * 300 + NPY, (JSON, NPY))

"""Archives of every kind → members, the hostile ones among them."""

from __future__ import annotations

import contextlib
import itertools
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import InvalidSource
from service.jobs.inputs import Limits
from tests.service.jobs.packing import PACKERS, inputs, outcomes

PICTURES = [("cat/a.png", b"first"), ("dog/b.png", b"second" * 1000), ("c.png", b"")]
ARCHIVES = ["zip", "tar", "tar.gz", "tar.zst"]


@pytest.mark.parametrize("kind", ARCHIVES)
def test_members_come_in_the_archives_order_whole(kind: str) -> None:
    assert outcomes(kind, PACKERS[kind](PICTURES)) == PICTURES


@pytest.mark.parametrize("kind", ARCHIVES)
def test_a_members_folder_is_its_label(kind: str) -> None:
    assert [each.truth for each in inputs(kind, PACKERS[kind](PICTURES))] == ["cat", "dog", None]


@pytest.mark.parametrize("kind", ARCHIVES)
def test_members_that_are_passed_over_need_not_be_read(kind: str) -> None:
    later = itertools.islice(inputs(kind, PACKERS[kind](PICTURES)), 1, None)
    assert next(later).content() == PICTURES[1][1]


@pytest.mark.parametrize("kind", ARCHIVES)
def test_what_nobody_means_to_score_is_passed_over(kind: str) -> None:
    packed = PACKERS[kind]([(".DS_Store", b"x"), ("__MACOSX/._a.png", b"x"), ("a/.hidden", b"x"), ("a.png", b"x")])
    assert [each.id for each in inputs(kind, packed)] == ["a.png"]


@pytest.mark.parametrize("kind", ARCHIVES)
@pytest.mark.parametrize("name", ["../out.png", "a/../../out.png", "/etc/passwd", "C:\\out.png", "..\\out.png"])
def test_a_path_that_leads_out_has_an_error_in_its_place(kind: str, name: str) -> None:
    (_, good), (id_, bad) = outcomes(kind, PACKERS[kind]([("a.png", b"x"), (name, b"x")]))
    assert good == b"x"
    assert id_ == name
    assert "leads out of the archive" in str(bad)


@pytest.mark.parametrize("kind", ARCHIVES)
def test_a_member_that_is_too_large_has_an_error_in_its_place(kind: str) -> None:
    packed = PACKERS[kind]([("a", b"x" * 11), ("b", b"x" * 10)])
    (_, large), (_, good) = outcomes(kind, packed, Limits(max_image_bytes=10))
    assert "10 bytes at most" in str(large)
    assert good == b"x" * 10


@pytest.mark.parametrize("kind", ARCHIVES)
def test_too_many_members_are_refused(kind: str) -> None:
    with pytest.raises(InvalidSource, match="2 images at most"):
        outcomes(kind, PACKERS[kind](PICTURES), Limits(max_inputs=2))


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.zst"])
def test_a_bomb_is_refused_before_it_fills_memory(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.jobs.inputs.GRACE_BYTES", 1 << 20)
    packed = PACKERS[kind]([(f"{i}.bmp", bytes(8 << 20)) for i in range(8)])
    assert len(packed) < 1 << 17
    tracemalloc.start()
    with pytest.raises(InvalidSource, match="unpacks to far more"):
        outcomes(kind, packed, Limits(max_ratio=50))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 << 20


@pytest.mark.parametrize("kind", ARCHIVES)
def test_an_archive_in_an_archive_stays_packed(kind: str) -> None:
    inner = PACKERS[kind](PICTURES)
    assert outcomes(kind, PACKERS[kind]([("inner", inner)])) == [("inner", inner)]


@pytest.mark.parametrize("kind", ARCHIVES)
@settings(max_examples=60, deadline=None)
@given(cut=st.floats(0, 0.999))
def test_an_archive_that_is_cut_off_is_refused(kind: str, cut: float) -> None:
    packed = PACKERS[kind](PICTURES)
    end = packed.rstrip(b"\0") if kind == "tar" else packed
    with pytest.raises(InvalidSource):
        outcomes(kind, packed[: int(cut * len(end))])


@pytest.mark.parametrize("kind", ARCHIVES)
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damage_has_no_other_end_than_an_error(kind: str, data: st.DataObject) -> None:
    packed = bytearray(PACKERS[kind](PICTURES))
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InvalidSource):
        outcomes(kind, bytes(packed), Limits(max_image_bytes=1 << 16))


@pytest.mark.parametrize("kind", ARCHIVES)
def test_an_archive_of_nothing_has_no_inputs(kind: str) -> None:
    assert outcomes(kind, PACKERS[kind]([])) == []

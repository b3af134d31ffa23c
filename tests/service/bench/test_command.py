"""`convoy bench` against a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.__main__ import main
from tests.conftest import write_colour_model
from tests.processes import Convoy, running

KEY = "0123456789abcdef"
SHORT = ("--seconds", "0.5", "--connections", "2")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("keys") / "keys.txt"
    file.write_text(KEY)
    return file


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Convoy]:
    """One that asks for a key."""
    root = tmp_path_factory.mktemp("models")
    write_colour_model(root / "colours" / "1")
    with running(root, api_keys_file=str(keys)) as convoy:
        yield convoy


@pytest.mark.parametrize("kind", [("--size", "8"), ("--bulk", "4", "--size", "8"), ("--rate", "20", "--size", "8")])
def test_it_shows_what_was_answered_and_where_the_time_went(
    server: Convoy, keys: Path, kind: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"http://127.0.0.1:{server.port}"
    assert main(["bench", url, *SHORT, *kind, "--api-key-file", str(keys)]) == 0
    shown = capsys.readouterr().out
    assert "p99" in shown
    assert "On the server, per request:" in shown
    assert "infer" in shown


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        (None, "The server asks for a key (status 401); give it one with --api-key-file."),
        ("f" * 16, "The server does not know the key in {file} (status 401); give it one with --api-key-file."),
    ],
)
def test_without_the_key_it_is_one_sentence_at_once(
    key: str | None, sentence: str, server: Convoy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "key.txt"
    file.write_text(key or "")
    given = ("--api-key-file", str(file)) if key else ()
    assert main(["bench", f"http://127.0.0.1:{server.port}", "--seconds", "600", *given]) == 1
    assert capsys.readouterr() == ("", f"convoy: {sentence.format(file=file)}\n")


@pytest.mark.parametrize("kind", [("bench", "--bulk", "2"), ("bench", "--size", "32"), ("tune", "--size", "32")])
def test_an_image_that_can_not_be_decoded_is_one_sentence(
    kind: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert main([*kind, "--image", str(tmp_path / "broken.png")]) == 1
    assert capsys.readouterr().err.startswith("convoy: An image to be resized can't be decoded")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("bench", "--seconds", "soon"), "must be a number of seconds above 0, 604,800 at most"),
        (("bench", "--seconds", "1e6"), "must be a number of seconds above 0, 604,800 at most"),
        (("bench", "--connections", "65536"), "must be a whole number from 1 to 65,535"),
        (("bench", "--rate", "100001"), "must be a whole number from 1 to 100,000"),
        (("bench", "--bulk", "65537"), "must be a whole number from 1 to 65,536"),
        (("bench", "--size", "4097"), "must be a whole number from 1 to 4,096"),
        (("bench", "--deadline-ms", "86400001"), "must be a whole number from 1 to 86,400,000"),
        (("tune", "--seconds", "0"), "must be a number of seconds above 0, 604,800 at most"),
        (("tune", "--size", "0"), "must be a whole number from 1 to 4,096"),
        (("tune", "--p99-ms", "nan"), "must be a number of milliseconds above 0, 86,400,000 at most"),
    ],
)
def test_a_number_that_makes_no_sense_is_told_what_it_must_be(
    words: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*words])
    assert f"argument {words[1]}: {sentence}\n" in capsys.readouterr().err


def test_a_request_that_no_memory_holds_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--bulk", "65536", "--size", "4096"]) == 1
    assert capsys.readouterr().err == (
        "convoy: A request would have 3,298,534,883,328 bytes; choose a smaller --bulk or --size.\n"
    )


def test_a_key_that_can_not_be_read_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "http://127.0.0.1:1", "--api-key-file", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.startswith("convoy: The keys can't be read from ")

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
        (("--seconds", "0"), "must be a number of seconds, more than 0"),
        (("--seconds", "nan"), "must be a number of seconds, more than 0"),
        (("--seconds", "soon"), "must be a number of seconds, more than 0"),
        (("--connections", "0.5"), "must be a whole number, at least 1"),
        (("--rate", "0"), "must be a whole number, at least 1"),
    ],
)
def test_a_number_that_makes_no_sense_is_told_what_it_must_be(
    words: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["bench", *words])
    assert sentence in capsys.readouterr().err


def test_a_key_that_can_not_be_read_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "http://127.0.0.1:1", "--api-key-file", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.startswith("convoy: The keys can't be read from ")

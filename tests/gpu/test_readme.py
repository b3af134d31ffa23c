"""The way to a bare machine is what the script does: its commands are understood, its packages and parts are those."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.gpu.__main__ import PART_BYTES, parser
from tests.gpu.steps import ROOT

README = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ python3 -m tests\.gpu (.+)$", README, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands_are_understood(command: str) -> None:
    assert parser().parse_args(shlex.split(command)).wheels == Path("runs/gpu/wheels")


def test_its_packages_are_pinned_for_gpus() -> None:
    (names,) = re.findall(r"^\$ names='(.+)'$", README, re.MULTILINE)
    pinned = re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements-gpu.txt").read_text(), re.MULTILINE)
    assert not set(names.split("|")) - set(pinned)
    there = {"anyio", "annotated-doc", "flatbuffers", "fsspec", "grpcio", "h11", "idna", "numpy", "packaging"}
    there |= {"pillow", "protobuf", "tqdm", "typing-extensions", "uvloop", "colorama"}  # that such a Python has
    brought = {name for name in pinned if name.startswith("nvidia-")}  # by torch
    assert set(pinned) == set(names.split("|")) | there | brought


def test_a_part_and_the_source_are_less_than_what_travels() -> None:
    source = sum(path.stat().st_size for room in ("models", "service", "tests", "training") for path in _files(room))
    assert PART_BYTES + source < 62 << 20  # with the few files beside them


def _files(room: str) -> list[Path]:
    return [path for path in (ROOT / room).rglob("*") if path.is_file() and "__pycache__" not in path.parts]

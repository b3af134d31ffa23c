"""Wheels that came in parts are whole again, or it is said which part is missing."""

from __future__ import annotations

import random
import subprocess
import zipfile
from importlib.metadata import Distribution, version
from pathlib import Path

import pytest

from tests.gpu import wheels
from tests.gpu.wheels import Incomplete


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """A wheel of 10,000 bytes in three parts, each in a folder of its own."""
    file = tmp_path / "package-1-py3-none-any.whl"
    file.write_bytes(random.Random(0).randbytes(10_000))
    assert wheels.split(file, tmp_path / "parts", 4096) == 3
    for part in sorted((tmp_path / "parts").glob("*.00?")):
        (tmp_path / "parts" / part.suffix[1:]).mkdir()
        part.rename(tmp_path / "parts" / part.suffix[1:] / part.name)
    return tmp_path / "parts"


def test_parts_are_joined_wherever_each_lies(parts: Path, tmp_path: Path) -> None:
    (whole,) = wheels.join(parts, tmp_path / "joined")
    assert whole.read_bytes() == (tmp_path / whole.name).read_bytes()


def test_a_missing_part_is_named(parts: Path, tmp_path: Path) -> None:
    next(parts.rglob("*.001")).unlink()
    with pytest.raises(Incomplete, match=r"package-1-py3-none-any\.whl\.001 missing"):
        wheels.join(parts, tmp_path / "joined")


def test_a_damaged_part_leaves_no_wheel(parts: Path, tmp_path: Path) -> None:
    next(parts.rglob("*.002")).write_bytes(b"other")
    with pytest.raises(Incomplete, match="damaged"):
        wheels.join(parts, tmp_path / "joined")
    assert not list((tmp_path / "joined").iterdir())


def test_a_folder_without_wheels_is_said(tmp_path: Path) -> None:
    with pytest.raises(Incomplete, match="no wheel"):
        wheels.install(tmp_path, tmp_path / "site")


def wheel(folder: Path, name: str) -> None:
    """A wheel with one empty module."""
    folder.mkdir(exist_ok=True)
    described = f"{name}-1.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(f"{described}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        archive.writestr(f"{described}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{described}/RECORD", f"{name}.py,,\n")


def test_an_installation_that_was_interrupted_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel(tmp_path / "wheels", "one")

    def interrupted(command: list[str], **_: object) -> None:
        target = Path(command[command.index("--target") + 1])
        target.mkdir()
        (target / "half.py").touch()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            wheels.install(tmp_path / "wheels", tmp_path / "site")
    assert not (tmp_path / "site").exists()
    wheels.install(tmp_path / "wheels", tmp_path / "site")
    assert (tmp_path / "site" / "one.py").is_file()
    assert not (tmp_path / "site" / "half.py").exists()


def test_the_service_finds_its_version_beside_them(tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", "one")
    wheels.install(tmp_path / "wheels", tmp_path / "site")
    (found,) = Distribution.discover(name="convoy", path=[str(tmp_path / "site")])
    assert found.version == version("convoy")


def test_wheels_are_installed_once_and_again_when_another_has_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel(tmp_path / "wheels", "one")
    wheels.install(tmp_path / "wheels", tmp_path / "site")
    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "run", None)
        wheels.install(tmp_path / "wheels", tmp_path / "site")
    wheel(tmp_path / "wheels", "two")
    wheels.install(tmp_path / "wheels", tmp_path / "site")
    assert {path.name for path in (tmp_path / "site").glob("*.py")} == {"one.py", "two.py"}


def test_nvidias_libraries_are_found_where_wheels_put_them(tmp_path: Path) -> None:
    (tmp_path / "site" / "nvidia" / "cudnn" / "lib").mkdir(parents=True)
    found = wheels.environment(tmp_path / "site", tmp_path)
    assert found["PYTHONPATH"].split(":")[:2] == [str(tmp_path), str(tmp_path / "site")]
    assert found["LD_LIBRARY_PATH"].split(":")[0] == str(tmp_path / "site" / "nvidia" / "cudnn" / "lib")

"""What the image is made from: the dynamic linker's word, and what is left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.deploy import image

LDD = """\
/image/usr/local/bin/python3.11:
\tlinux-vdso.so.1 (0x00007ffd2bfd1000)
\tlibpython3.11.so.1.0 => /usr/local/lib/libpython3.11.so.1.0 (0x00007f5b7a200000)
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f5b7a01f000)
\tlibjpeg.so.62 => /image/usr/local/lib/python3.11/site-packages/pillow.libs/libjpeg.so.62 (0x00007f5b7a000000)
\tlibcuda.so.1 => not found
\t/lib64/ld-linux-x86-64.so.2 (0x00007f5b7a8c5000)
/image/usr/local/bin/dumb-init:
\tstatically linked
"""


def test_libraries_of_the_system_are_taken_and_the_packages_own_are_there_already() -> None:
    assert image.parse_ldd(LDD) == {Path("/lib/x86_64-linux-gnu/libc.so.6"), Path("/lib64/ld-linux-x86-64.so.2")}


def test_a_library_that_is_nowhere_ends_the_build() -> None:
    with pytest.raises(ValueError, match=r"libz\.so\.1 is needed and not there"):
        image.parse_ldd("\tlibz.so.1 => not found\n")


def test_tests_and_the_means_to_install_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "IMAGE", tmp_path / "image")
    site = tmp_path / "site-packages"
    for name in ("numpy/core.py", "numpy/tests/test_core.py", "pip/__init__.py", "pip-26.0.dist-info/METADATA"):
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).touch()
    image.copy(site, Path("/site-packages"))
    assert [path.name for path in (tmp_path / "image").rglob("*") if path.is_file()] == ["core.py"]


def test_a_library_arrives_as_itself_and_not_as_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "IMAGE", tmp_path / "image")
    (tmp_path / "libz.so.1.3").write_bytes(b"\x7fELF")
    (tmp_path / "libz.so.1").symlink_to("libz.so.1.3")
    image.copy(tmp_path / "libz.so.1", Path("/lib/libz.so.1"))
    arrived = tmp_path / "image" / "lib" / "libz.so.1"
    assert image.is_elf(arrived)
    assert not arrived.is_symlink()

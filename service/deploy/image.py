"""What pip installed into the base image's Python → /image, the root of the final image, and the list of what is in it.

A file is there because Python, a package or the dynamic linker asks for it: no shell, no package manager, no pip. The
Dockerfile's build stages run this; it reads their file system and writes /image alone. Raises `OSError`,
`CalledProcessError` and `ValueError`, which end the build.
"""

from __future__ import annotations

import compileall
import json
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

IMAGE, PREFIX, TOOLS = Path("/image"), Path("/usr/local"), Path(sys.prefix)
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
KEPT = ("bin/python", "bin/python3", f"bin/{PYTHON}", "lib/libpython3*.so.*", f"lib/{PYTHON}")
LEFT_OUT = (
    *("__pycache__", "*.pyi", "*.a", "*.h", "include", "test", "tests", "conftest.py"),
    *("config-3*", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "turtledemo", "venv"),
    *("tkinter", "_tkinter*", "dbm", "_dbm*", "_gdbm*"),  # what they need is not in the base image either
    *("pip", "pip-*", "setuptools", "setuptools-*", "pkg_resources", "wheel", "wheel-*"),
    *("_distutils_hack", "distutils-precedence.pth"),
    # Of ONNX Runtime, what makes models and what others than Python link against; of CUDA, what it does not load.
    *("transformers", "quantization", "datasets", "libonnxruntime.so*", "libonnxruntime_providers_tensorrt.so"),
    *("libcufftw.so*", "libnvblas.so*"),
)
ETC = ("debian_version", "ld.so.conf", "ld.so.conf.d", "nsswitch.conf", "os-release")
FROM_THE_DRIVER = {"libcuda.so.1"}  # comes with the device, by the NVIDIA container runtime


def main() -> None:
    """Fill /image."""
    for found in (path for pattern in KEPT for path in PREFIX.glob(pattern)):
        copy(found, found)
    copy(TOOLS / "bin" / "dumb-init", PREFIX / "bin" / "dumb-init")
    libraries = needed_libraries(path for path in IMAGE.rglob("*") if is_elf(path))
    packages = {owner(library) for library in libraries}
    for library in libraries:
        copy(library, library)
    for package in packages:
        keep_record(package)
    for name in ETC:
        copy(Path("/etc", name).resolve(), Path("/etc", name))
    subprocess.run(["ldconfig", "-r", IMAGE], check=True)
    (IMAGE / "etc" / "passwd").write_text("convoy:x:10001:10001::/:\n")
    compileall.compile_dir(IMAGE / "usr", quiet=1, workers=0, stripdir=str(IMAGE), prependdir="/")
    write_contents(packages)


def copy(source: Path, place: Path) -> None:
    """A file or folder to its place in the image; links stay links, except those that lead to a library."""
    target = IMAGE / place.relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT))
    else:
        shutil.copy2(source, target, follow_symlinks=".so" in source.name)


def is_elf(path: Path) -> bool:
    """Whether the dynamic linker has to do with it."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(4) == b"\x7fELF"


def needed_libraries(files: Iterable[Path]) -> set[Path]:
    """Where the system's libraries lie that these files need, by the dynamic linker's own word.

    Raises `ValueError` for one that is nowhere: better now than when a request meets it.
    """
    paths = list(files)
    own = ":".join(sorted({str(path.parent) for path in paths}))
    command = ["env", f"LD_LIBRARY_PATH={own}", "ldd", *map(str, paths)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)  # 1 where a file is linked statically
    return parse_ldd(told.stdout)


def parse_ldd(text: str) -> set[Path]:
    """The libraries of the system, linker included, that lie neither in the image nor under /usr/local."""
    found: set[Path] = set()
    for name, place in re.findall(r"^\s+(\S+)(?: => (.+?))?(?: \(0x[0-9a-f]+\))?$", text, re.MULTILINE):
        if place == "not found" and name not in FROM_THE_DRIVER:
            raise ValueError(f"{name} is needed and not there; install its package in the build stage")
        path = Path(place or name)
        if path.is_absolute() and not any(path.is_relative_to(own) for own in (IMAGE, PREFIX)):
            found.add(path)
    return found


def owner(library: Path) -> str:
    """The Debian package that a library is from."""
    told = subprocess.run(["dpkg", "-S", f"*/{library.name}"], capture_output=True, text=True, check=True)
    return told.stdout.partition(":")[0]


def keep_record(package: str) -> None:
    """The package's version, where scanners look for it in images without dpkg, and its licence."""
    record = subprocess.run(["dpkg-query", "--status", package], capture_output=True, text=True, check=True)
    target = IMAGE / "var" / "lib" / "dpkg" / "status.d" / package
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(record.stdout)
    notice = Path("/usr/share/doc", package, "copyright")
    copy(notice.resolve(), notice)


def write_contents(packages: Iterable[str]) -> None:
    """/sbom.cdx.json: CycloneDX's list of Python packages, completed with what pip does not know of, and checked."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    place = IMAGE / "sbom.cdx.json"
    subprocess.run(
        [TOOLS / "bin" / "cyclonedx-py", "environment", "--output-reproducible", "--output-file", place,
         "--pyproject", "/src/pyproject.toml", PREFIX / "bin" / "python"],
        check=True,
    )  # fmt: skip
    document = json.loads(place.read_text())
    document["components"] = [
        each for each in document["components"] if not any(fnmatch(each["name"], name) for name in LEFT_OUT)
    ]
    document["components"] += [
        component("python", platform.python_version(), "pkg:generic/python"),
        component("dumb-init", version("dumb-init"), "pkg:pypi/dumb-init"),
        *(component(name, debian_version(name), f"pkg:deb/debian/{name}") for name in sorted(packages)),
    ]
    place.write_text(json.dumps(document, indent=1))
    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(place.read_text()):
        raise ValueError(f"the list of contents is not CycloneDX: {error}")


def component(name: str, number: str, purl: str) -> dict[str, Any]:
    """A row of the list; `purl` is its package URL without the version."""
    url = f"{purl}@{quote(number)}"
    return {"type": "library", "name": name, "version": number, "purl": url, "bom-ref": url}


def debian_version(package: str) -> str:
    """As dpkg says it."""
    told = subprocess.run(
        ["dpkg-query", "--show", "--showformat=${Version}", package], capture_output=True, text=True, check=True
    )
    return told.stdout


if __name__ == "__main__":
    main()

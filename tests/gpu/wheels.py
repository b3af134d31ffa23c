"""A folder of wheels, or of their parts → packages beside the interpreter's own. No network; no other package.

A part is FILE.000, FILE.001, …, beside FILE.sha256 that holds the digest of the whole and how many parts there are.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.gpu.steps import ROOT

LIST = "wheels.txt"  # in the folder: which are in it


class Incomplete(Exception):
    """A part is missing or damaged; the text names it."""


def split(file: Path, folder: Path, part_bytes: int) -> int:
    """Cut `file` into parts; how many."""
    folder.mkdir(parents=True, exist_ok=True)
    digest, count = hashlib.sha256(), 0
    with file.open("rb") as source:
        while part := source.read(part_bytes):
            digest.update(part)
            (folder / f"{file.name}.{count:03d}").write_bytes(part)
            count += 1
    (folder / f"{file.name}.sha256").write_text(f"{digest.hexdigest()} {count}\n", encoding="utf-8")
    return count


def join(sources: Path, target: Path) -> list[Path]:
    """Put every cut file under `sources` together in `target`; raises `Incomplete`."""
    target.mkdir(parents=True, exist_ok=True)
    return [_joined(record, sources, target) for record in sorted(sources.rglob("*.sha256"))]


def _joined(record: Path, sources: Path, target: Path) -> Path:
    wanted, count = record.read_text(encoding="utf-8").split()
    whole, digest = target / record.stem, hashlib.sha256()
    found = {part.name: part for part in sources.rglob(f"{record.stem}.[0-9][0-9][0-9]")}  # wherever each came to lie
    parts = [f"{record.stem}.{number:03d}" for number in range(int(count))]
    if missing := [part for part in parts if part not in found]:
        raise Incomplete(f"{', '.join(missing)} missing under {sources}")
    partial = whole.with_name(whole.name + ".partial")
    with partial.open("wb") as stream:
        for part in parts:
            content = found[part].read_bytes()
            digest.update(content)
            stream.write(content)
    if digest.hexdigest() != wanted:
        partial.unlink()
        raise Incomplete(f"the parts of {record.stem} are damaged: its digest differs")
    return partial.replace(whole)


def install(sources: Path, site: Path) -> None:
    """Every wheel under `sources`, whole or in parts, into the folder `site`; raises `Incomplete`.

    `site` is there when all are in it: what was interrupted is done again, as it is when other wheels have come.
    """
    if (site / LIST).is_file() and (site / LIST).read_text(encoding="utf-8") == _listed(sources):
        return
    partial, joined = site.with_name(site.name + ".partial"), site.with_name(site.name + "-joined")
    wheels = {path.name: path for path in [*join(sources, joined), *sources.rglob("*.whl")]}
    if not wheels:
        raise Incomplete(f"there is no wheel under {sources}")
    shutil.rmtree(partial, ignore_errors=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir",
         "--disable-pip-version-check", "--upgrade", "--target", str(partial), *map(str, wheels.values())],
        check=True,
    )  # fmt: skip
    _describe_this(partial)
    (partial / LIST).write_text(_listed(sources), encoding="utf-8")
    shutil.rmtree(site, ignore_errors=True)
    partial.rename(site)


def _describe_this(site: Path) -> None:
    """Give `site` what it would know of this source if that were installed: the service asks for its own version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    folder = site / f"{project['name']}-{project['version']}.dist-info"
    folder.mkdir()
    described = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (folder / "METADATA").write_text(described, encoding="utf-8")


def _listed(sources: Path) -> str:
    """The wheels under `sources`, without having put them together."""
    whole = {path.name for path in sources.rglob("*.whl")}
    return "\n".join(sorted(whole | {record.stem for record in sources.rglob("*.sha256")}))


def environment(site: Path | None, root: Path) -> dict[str, str]:
    """What children of this process need to find the packages of `site`, this source, and NVIDIA's libraries."""
    found = dict(os.environ)
    folders = [str(root), *([str(site)] if site else []), *filter(None, [found.get("PYTHONPATH")])]
    found["PYTHONPATH"] = os.pathsep.join(folders)
    found["PYTHONUNBUFFERED"] = "1"
    paths = [site] if site else []
    libraries = [
        str(folder) for path in (*paths, *map(Path, sys.path)) if path and (path / "nvidia").is_dir()
        for folder in sorted((path / "nvidia").glob("*/lib"))
    ]  # fmt: skip
    if libraries:
        found["LD_LIBRARY_PATH"] = os.pathsep.join([*libraries, *filter(None, [found.get("LD_LIBRARY_PATH")])])
    return found

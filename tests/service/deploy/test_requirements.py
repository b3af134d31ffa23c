"""The pinned lists: on every Python that pyproject.toml names, and the next, they hold what it asks for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LISTS = {
    "requirements.txt": ("cpu", "grpc"),
    "requirements-gpu.txt": ("gpu", "grpc"),
    "requirements-test.txt": ("cpu", "cluster", "grpc", "parquet", "test"),
}
NEXT = "3.14"  # nothing has run on it yet
PYTHONS = [*re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"])), NEXT]


def applies(requirement: Requirement, python: str) -> bool:
    there = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    return requirement.marker is None or requirement.marker.evaluate(there)


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("name", LISTS)
def test_a_list_pins_what_is_needed_on_this_python(name: str, python: str) -> None:
    pinned = {
        canonicalize_name(pin.name): applies(pin, python)
        for pin in map(Requirement, re.findall(r"^(\w.*?) \\$", (ROOT / name).read_text(), re.MULTILINE))
    }
    extras = [PROJECT["optional-dependencies"][extra] for extra in LISTS[name]]
    for asked in map(Requirement, [*PROJECT["dependencies"], *(each for extra in extras for each in extra)]):
        assert pinned[canonicalize_name(asked.name)] == applies(asked, python), asked.name

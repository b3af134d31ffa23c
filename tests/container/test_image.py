"""What is in the image, what is not, and how large it is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from tests.container.conftest import ROOT
from tests.container.containers import Container, docker

LARGEST = 300_000_000  # bytes
FILES = "import os; print(*(os.path.join(place, name) for top in ('usr', 'lib', 'etc', 'var', 'models')" \
        " for place, _, names in os.walk('/' + top) for name in names), sep='\\n')"  # fmt: skip
PACKAGES = "import importlib.metadata as m; print(*(d.name for d in m.distributions()), sep='\\n')"


@pytest.fixture(scope="module")
def contents(container: Container) -> dict[str, Any]:
    """The list of contents (SBOM)."""
    listed: dict[str, Any] = json.loads(container.python("print(open('/sbom.cdx.json').read())"))
    return listed


def described(image: str) -> dict[str, Any]:
    (found,) = json.loads(docker("image", "inspect", image))
    return dict(found)


def test_the_image_is_small(image: str) -> None:
    assert described(image)["Size"] <= LARGEST


def test_there_is_nothing_to_break_in_with_and_nothing_that_only_builds_or_tests(container: Container) -> None:
    files = container.python(FILES).split()
    names = {Path(file).name for file in files}
    assert not names & {"sh", "bash", "dash", "apt", "dpkg", "gcc", "cc", "ld", "pip", "su", "mount", "conftest.py"}
    packages = {path.name for file in files for path in Path(file).parents if path.parent.name == "site-packages"}
    assert {"service", "onnxruntime", "numpy"} <= packages
    assert not packages & {"torch", "training", "pip", "setuptools", "pytest", "onnx", "pyarrow"}
    assert not [file for file in files if re.search(r"/tests?/|\.(pyi|h|a)$", file)]
    assert {Path(file).name for file in files if file.startswith("/usr/local/bin/")} == {
        "convoy", "dumb-init", "python", "python3", "python3.11"
    }  # fmt: skip


def test_every_module_is_compiled_since_no_start_could_keep_its_work(container: Container) -> None:
    files = container.python(FILES).split()
    compiled = {
        re.sub(r"__pycache__/(.*)\.cpython-\d+\.pyc$", r"\1.py", file) for file in files if file.endswith("pyc")
    }
    sources = {file for file in files if file.endswith(".py")}
    assert sources
    assert sources <= compiled


def test_it_is_not_roots(image: str, container: Container) -> None:
    assert described(image)["Config"]["User"] == "10001:10001"
    assert container.python("import os; print(os.getuid(), os.getgid(), os.access('/jobs', os.W_OK))").split() == [
        "10001", "10001", "True"
    ]  # fmt: skip
    writable = (
        "import os; print(*(p for p, _, _ in os.walk('/usr') if os.stat(p).st_uid or os.stat(p).st_mode & 0o022))"
    )
    assert not container.python(writable).split()


def test_the_labels_say_what_it_is(image: str) -> None:
    labels = described(image)["Config"]["Labels"]
    assert labels["org.opencontainers.image.title"] == "Convoy"
    assert labels["org.opencontainers.image.licenses"] == "MIT"
    assert (
        labels["org.opencontainers.image.version"]
        == re.findall(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE).pop()
    )


def test_the_list_of_contents_has_every_pinned_package_and_no_other(contents: dict[str, Any]) -> None:
    pins = map(Requirement, re.findall(r"^(\w.*?) \\$", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    linux = {"sys_platform": "linux", "python_full_version": "3.11.15"}  # what the Dockerfile names
    pinned = {f"{pin.name}{pin.specifier}" for pin in pins if pin.marker is None or pin.marker.evaluate(linux)}
    listed = {f"{each['name']}=={each['version']}" for each in contents["components"] if "pkg:pypi" in each["purl"]}
    own = {each for each in listed if each.partition("==")[0] in ("dumb-init", "convoy")}
    assert {
        re.sub(r"^[^=]+", lambda name: re.sub(r"[-_.]+", "-", name[0]), each).lower() for each in listed - own
    } == pinned
    assert contents["bomFormat"] == "CycloneDX"


def test_the_list_of_contents_has_the_packages_that_are_there(contents: dict[str, Any], container: Container) -> None:
    there = {name.lower() for name in container.python(PACKAGES).split()}
    assert there <= {each["name"].lower() for each in contents["components"]} | {"convoy"}


def test_the_list_of_contents_has_what_is_not_pythons(contents: dict[str, Any], container: Container) -> None:
    listed = {each["purl"].partition("@")[0] for each in contents["components"]}
    recorded = container.python("import os; print(*os.listdir('/var/lib/dpkg/status.d'))").split()
    assert {f"pkg:deb/debian/{name}" for name in recorded} == {each for each in listed if each.startswith("pkg:deb")}
    assert {"libc6", "libssl3", "libstdc++6"} <= set(recorded)
    assert {"pkg:generic/python", "pkg:pypi/dumb-init"} <= listed

"""The layout's rules: who may import whom, one home per library, no cycles, the fixed top level."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the ground up: a module may import modules of its own tier and those below, never above.
TIERS = [
    {"cores", "counters", "errors", "observer", "types", "settings", "metadata", "prediction", "telemetry"},
    {"channel", "coverage", "event_loop", "heads", "keys", "shares", "streams"},
    {
        "bench",
        "decoding",
        "pixels",
        "preprocessing",
        "engine",
        "loading",
        "repository",
        "binding",
        "cuda",
        "providers",
        "stages",
        "drawing",
        "choices",
    },
    {
        "accepting",
        "bisection",
        "deadlines",
        "listening",
        "pace",
        "queueing",
        "metrics",
        "preparation",
        "supervisor",
        "turns",
    },
    {"batching"},
    {"serving"},
    {"administration", "classifier"},
    {"jobs", "explain"},
    {"client"},
    {"api"},
    {"rpc"},
    {"app", "exchange", "protocol"},
    {"server"},
    {"cluster", "worker"},
    {"command"},
    {"__main__"},
    {"deploy"},
]
LEAVES = TIERS[0]
HOMES = {
    "fastapi": {"api", "app"},
    "starlette": {"api", "app"},
    "uvicorn": {"exchange", "protocol", "server"},
    "uvloop": {"event_loop"},
    "onnxruntime": {"binding", "cuda", "providers", "stages"},
    "PIL": {"bench.requests", "decoding", "drawing", "pixels", "preprocessing"},
    "simplejpeg": {"decoding"},
    "pydantic": {"api.bodies", "api.open_inference.bodies", "settings", "metadata"},
    "pydantic_settings": {"settings"},
    "python_multipart": {"api.multipart"},
    "orjson": {"api", "jobs"},
    "grpc": {"rpc"},
    "httpx2": {"client"},
    "google": {"rpc"},
    "fsspec": {"jobs.sources.files"},
    "pyarrow": {"jobs"},
    "ray": {"cluster"},
    "sqlite3": {"jobs"},
    "tqdm": {"jobs.command"},
}
NEVER_IN_SERVICE = {"torch", "training", "onnx", "pickle", "requests"}
TOP_LEVEL = {
    "pyproject.toml",
    "README.md",
    "service",
    "training",
    "models",
    "tests",
    "docker-compose.yml",
    "Dockerfile",
}
REQUIREMENTS = {f"requirements{kind}.txt" for kind in ("", "-gpu", "-image", "-test", "-torch")}
EXPECTED_BESIDE = {"LICENSE", "Makefile", *REQUIREMENTS}
WORDS = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "handler", "base", "scheduler"}

Imports = dict[str, set[str]]


def imports_of(package: str) -> Imports:
    """module (dotted, without the package) → everything it imports, absolute, `from a import b` as a and a.b."""
    found: Imports = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT / package).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        names: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: relative import"
                assert node.module
                names.update({node.module, *(f"{node.module}.{alias.name}" for alias in node.names)})
        found[module] = names
    return found


SERVICE, TRAINING = imports_of("service"), imports_of("training")


def inner(imports: Imports, package: str) -> Imports:
    """Only the imports within the package, as module names."""
    return {
        module: {
            name.removeprefix(package + ".")
            for name in names
            if name.startswith(package + ".") and name.removeprefix(package + ".") in imports
        }
        - {module}
        for module, names in imports.items()
    }


def tier(module: str) -> int:
    room = module.split(".")[0]
    return next(number for number, rooms in enumerate(TIERS) if room in rooms)


@pytest.mark.parametrize("module", sorted(SERVICE.keys() - {"__init__"}))
def test_imports_never_go_upwards(module: str) -> None:
    upwards = {other for other in inner(SERVICE, "service")[module] if tier(other) > tier(module)}
    assert not upwards


@pytest.mark.parametrize("leaf", sorted(LEAVES))
def test_leaves_import_nothing_of_the_package(leaf: str) -> None:
    assert not inner(SERVICE, "service")[leaf]


def test_batching_does_not_know_onnx() -> None:
    rooms = {"batching", "bisection", "deadlines", "queueing"}
    for room in rooms:
        assert inner(SERVICE, "service")[room] <= rooms | {"errors", "observer", "pace", "types"}


@pytest.mark.parametrize("package", ["service", "training"])
def test_there_are_no_import_cycles(package: str) -> None:
    graphlib.TopologicalSorter(inner(imports_of(package), package)).prepare()  # raises CycleError


@pytest.mark.parametrize("library", sorted(HOMES))
def test_each_library_has_one_home(library: str) -> None:
    users = {module for module, names in SERVICE.items() if library in {name.split(".")[0] for name in names}}
    strangers = {m for m in users if not any(m == home or m.startswith(home + ".") for home in HOMES[library])}
    assert users, "nobody uses it: take it out of the dependencies"
    assert not strangers


def test_the_service_never_imports_torch_or_training() -> None:
    for module, names in SERVICE.items():
        assert not {name.split(".")[0] for name in names} & NEVER_IN_SERVICE, module


def test_training_knows_of_the_service_only_the_metadata() -> None:
    for module, names in TRAINING.items():
        seen = {name for name in names if name.split(".")[0] == "service"}
        assert all(name == "service.metadata" or name.startswith("service.metadata.") for name in seen), module


def test_only_settings_read_the_environment() -> None:
    readers = {path.name for path in (ROOT / "service").rglob("*.py") if {"environ", "getenv"} & set(_attributes(path))}
    assert not readers  # settings.py does it through pydantic-settings


def _attributes(path: Path) -> list[str]:
    return [node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)]


def test_every_module_says_what_flows_through_it() -> None:
    for path in (
        *(ROOT / "service").rglob("*.py"),
        *(ROOT / "training").rglob("*.py"),
        *(ROOT / "tests").rglob("*.py"),
    ):
        assert ast.get_docstring(ast.parse(path.read_text())), path


def test_the_map_of_the_service_shows_every_room() -> None:
    package = ROOT / "service"
    rooms = {path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    shown = set(re.findall(r"`(\w+)`", ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""))
    assert shown == (rooms - {"__init__"}) | {"web", "deploy"}


def test_every_lint_exception_carries_its_reason() -> None:
    for path in (*(ROOT / "service").rglob("*.py"), *(ROOT / "training").rglob("*.py")):
        for line in path.read_text().splitlines():
            if re.search(r"# (noqa|type: ignore)", line):
                assert re.search(r"# (noqa: [A-Z0-9, ]+ - |type: ignore\[[a-z, -]+\]  # )\w", line), (path, line)


def test_nothing_is_called_utils() -> None:
    for path in (*(ROOT / "service").rglob("*"), *(ROOT / "training").rglob("*")):
        assert not WORDS & set(path.stem.split("_")), path


def test_nobody_says_scheduler_and_leaves_open_whose() -> None:
    for path in (*(ROOT / "service").rglob("*.py"), *(ROOT / "training").rglob("*.py")):
        assert not re.search(r"\bscheduler\b", path.read_text(), re.IGNORECASE), path


def test_the_top_level_is_fixed() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    top = {line.split("/")[0] for line in tracked.stdout.splitlines()}
    assert top >= TOP_LEVEL
    assert {name for name in top - TOP_LEVEL if not name.startswith(".")} <= EXPECTED_BESIDE


def test_tests_mirror_the_source() -> None:
    untested_alone = {  # without behaviour, or exercised by the tests of the API, the supervisor, the whole
        "service": {"__init__", "app", "errors", "observer", "types", "worker"},
        "service/deploy": set(),
        "service/jobs": {"__init__", "database", "inputs"},
        "service/jobs/sources": {"__init__"},
        "service/client": {"__init__", "answers"},
        "service/cluster": {"__init__"},
        "service/rpc": {"__init__", "methods", "open_inference_pb2"},
        "service/api": {
            "__init__",
            "batch_results",
            "batch_uploads",
            "bodies",
            "npy",
            "problems",
            "request_bodies",
            "request_log",
            "uploads",
        },
        "training": {"__init__", "errors", "evaluate", "onnx_graph", "onnx_nodes", "progress", "recipes", "report"},
    }
    for folder, exceptions in untested_alone.items():
        for path in (ROOT / folder).glob("*.py"):
            if path.stem not in exceptions:
                assert (ROOT / "tests" / folder / f"test_{path.stem.strip('_')}.py").is_file(), path


WITHOUT_OTHERS = """
import importlib.abc, importlib.metadata as md, re, sys
wanted, queue = set(), ["convoy", "onnxruntime"]
while queue:
    name = re.sub(r"[-_.]+", "-", queue.pop()).lower()
    if name not in wanted:
        wanted.add(name)
        try:
            requirements = md.requires(name) or []
        except md.PackageNotFoundError:  # for another platform or Python
            continue
        queue += [re.match(r"[A-Za-z0-9._-]+", r)[0] for r in requirements if "extra ==" not in r]
allowed = {re.sub(r"[-_.]+", "-", dist).lower() for dist in wanted}
foreign = {top for top, dists in md.packages_distributions().items()
           if not any(re.sub(r"[-_.]+", "-", d).lower() in allowed for d in dists)}
assert {"torch", "pytest", "onnx", "ray"} <= foreign, foreign

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in foreign:
            raise ModuleNotFoundError(f"No module named {name!r} (not among the service's requirements)", name=name)

sys.meta_path.insert(0, Absent())
from service.app import create_app
from service.settings import Settings
app = create_app(Settings(models_dir=sys.argv[1], default_model="colours"))
import asyncio
async def predict():
    classifier, models = app.state.classifier, app.state.served
    await models.start()
    import io
    from PIL import Image
    stream = io.BytesIO()
    Image.new("RGB", (9, 9), (0, 255, 0)).save(stream, "PNG")
    (prediction,) = await classifier.classify([stream.getvalue()])
    await models.stop()
    return prediction.label
print(asyncio.run(predict()))
"""


def test_the_service_runs_with_nothing_but_its_requirements(models_dir: Path) -> None:
    """Torch, onnx and the test tools are installed here; for this process they are not."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_OTHERS, str(models_dir)], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "green", done.stderr

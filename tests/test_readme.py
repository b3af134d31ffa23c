"""The documents say what the code does: their tables, commands, links and examples are held against it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from starlette.testclient import TestClient

from service import errors
from service.app import create_app
from service.command import EXAMPLE
from service.command import parser as convoy
from service.errors import ServiceError
from service.metadata import ModelMetadata
from service.metrics import METRICS
from service.settings import Settings
from tests.conftest import clear_environment
from tests.processes import running
from training.__main__ import parser as convoy_train
from training.architectures import ARCHITECTURES
from training.recipes import RECIPES
from training.report import seen_in_training

ROOT = Path(__file__).parents[1]
DOCUMENTS = {
    path: (ROOT / path).read_text("utf-8") for path in ("README.md", "training/README.md", "service/deploy/README.md")
}
README = "\n".join(DOCUMENTS.values())


def rows(heading: str) -> dict[str, list[str]]:
    """The table under `heading`: first cell without its code marks → the other cells."""
    section = README.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return {first.strip("`"): rest for first, *rest in cells[2:]}


def ways(path: str) -> set[str]:
    """Both of what a path with a part in [brackets] stands for."""
    head, _, rest = path.partition("[")
    part, _, tail = rest.partition("]")
    return {path} if not rest else {head + tail, head + part + tail}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    return [
        line.removeprefix("$ ") for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")
    ]


def test_every_setting_has_its_row() -> None:
    table = rows("Settings")
    assert set(table) == {f"CONVOY_{name.upper()}" for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        default, meaning = table[f"CONVOY_{name.upper()}"]
        assert default.strip("`") == str(field.default)
        assert meaning == field.description


def test_every_endpoint_has_its_row(settings: Settings) -> None:
    with TestClient(create_app(settings)) as client:
        paths = client.get("/openapi.json").json()["paths"]
    served = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    named = {way for row in [*rows("Endpoints"), *rows("Open Inference Protocol")] for way in ways(row)}
    assert named == served | {"GET /", "GET /openapi.json", "GET /docs"}


def test_every_error_has_its_row() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ServiceError)]
    assert {slug: cells[0] for slug, cells in rows("Errors").items()} == {
        kind.slug: str(int(kind.status)) for kind in kinds
    }


def test_every_recipe_has_its_row() -> None:
    table = rows("Recipes")
    assert set(table) == set(RECIPES)
    for name, (architecture, epochs, *_) in table.items():
        assert (architecture.strip("`"), float(epochs)) == (RECIPES[name].architecture, RECIPES[name].epochs)
        assert RECIPES[name].architecture in ARCHITECTURES


def test_every_shipped_model_has_its_row_with_its_numbers() -> None:
    shipped = {
        f"{path.parent.parent.name}/{path.parent.name}": path.parent for path in ROOT.glob("models/*/*/metadata.json")
    }
    table = rows("Models")
    assert set(table) == set(shipped)
    for name, folder in shipped.items():
        metadata = ModelMetadata.read(folder)
        (test,) = (e for e in metadata.evaluations if (e.split, e.precision) == ("test", "fp32"))
        accuracy, ece, macs, parameters = table[name][:4]
        assert accuracy == f"{test.accuracy:.2%}"
        assert ece == f"{test.ece:.2%} ({test.ece_uncalibrated:.2%})"
        assert macs == f"{metadata.macs / 1e6:.1f} M"
        assert parameters == f"{metadata.parameters:,}"


def test_every_robust_model_has_its_row_with_its_numbers() -> None:
    measured = {}
    for path in ROOT.glob("models/*/*/metadata.json"):
        metadata = ModelMetadata.read(path.parent)
        clean = {e.precision: e.accuracy for e in metadata.evaluations if e.split == "test"}
        for found in metadata.robustness:
            if (found.split, found.precision) == ("test", "fp32"):
                unseen = found.mean_corruption_accuracy(seen_in_training(metadata))
                numbers = (clean["fp32"], found.jpeg_75, found.grey, found.mean_corruption_accuracy(), unseen)
                measured[f"{metadata.name}/{metadata.version}"] = [f"{number:.2%}" for number in numbers]
    assert rows("Damaged images") == measured


def test_every_command_is_one_that_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    parsers = {"convoy": convoy(), "convoy-train": convoy_train()}
    seen = set()
    for command in commands():
        words = [word for word in shlex.split(command) if "=" not in word or word.startswith("-")]
        if words[0] == "make":
            assert set(words[1:]) <= targets, command
        elif words[0] in parsers:
            parsers[words[0]].parse_args(words[1:])  # exits on a mistake
        elif words[0] == ".":
            assert words[1] in {".venv/serve/bin/activate", ".venv/test/bin/activate"}
        else:
            assert words[0] in {"curl", "pip", "docker", "kubectl", "openssl", "ray", "serve"}, command
        seen.add(words[0])
    assert seen >= {"make", "curl", "convoy-train"}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(document: str) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", DOCUMENTS[document])
    assert links
    for link in links:
        if not link.startswith(("http://", "https://")):
            path, _, anchor = link.partition("#")
            target = (ROOT / document).parent / path if path else ROOT / document
            assert target.exists(), link
            if anchor:
                headings = re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.MULTILINE)
                assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}, (
                    link
                )


def test_every_alert_has_its_row() -> None:
    groups = yaml.safe_load((ROOT / "service" / "deploy" / "monitoring" / "alerts.yml").read_text())["groups"]
    assert list(rows("Monitoring")) == [rule["alert"] for group in groups for rule in group["rules"]]


def test_every_metric_has_its_row() -> None:
    kinds = {name: "gauge" if family.kind == "info" else family.kind for name, family in METRICS.items()}
    assert rows("Metrics") == {
        name: [", ".join(f"`{label}`" for label in family.labels), kinds[name], family.help]
        for name, family in METRICS.items()
    }


def test_every_path_in_a_kubectl_command_is_there() -> None:
    paths = [shlex.split(command)[-1] for command in commands() if command.startswith("kubectl ")]
    assert paths
    assert all((ROOT / path).exists() for path in paths)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a server as the README's examples ask it."""
    with running(ROOT / "models", default_model="cifar10", precision="fp32", workers="1") as convoy:
        yield f"127.0.0.1:{convoy.port}"


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.split()[1])
def test_a_client_gets_what_it_shows(code: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = README.partition(code)[2].partition("```text\n")[2].partition("```")[0]
    monkeypatch.chdir(ROOT)
    code = code.replace("127.0.0.1:8000", address)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == shown, done.stderr


def test_the_first_prediction_is_the_one_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    clear_environment(monkeypatch)
    shown = json.loads(blocks("json")[0])
    with TestClient(create_app(Settings(models_dir=ROOT / "models", device="cpu", precision="fp32"))) as client:
        files = {"images": (EXAMPLE.name, EXAMPLE.read_bytes())}
        answered = client.post("/v1/predict?top_k=3", files=files).json()
    assert answered["model"] == shown["model"]
    (got,), (expected,) = answered["predictions"], shown["predictions"]
    assert (got["label"], got["filename"], list(got["probabilities"])) == (
        expected["label"], expected["filename"], list(expected["probabilities"])
    )  # fmt: skip
    for label, probability in expected["probabilities"].items():
        assert got["probabilities"][label] == pytest.approx(probability, abs=1e-3)

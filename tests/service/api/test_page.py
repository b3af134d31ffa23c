"""GET / and the files of the page; what they do is tried in a browser, in tests/browser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from service.api.page import FOLDER, MEDIA_TYPES


@pytest.mark.parametrize("path", ["/", *(f"/web/{file.name}" for file in FOLDER.iterdir())])
def test_every_file_is_served_as_what_it_is_and_may_run_nothing_from_elsewhere(client: TestClient, path: str) -> None:
    response = client.get(path)
    name = "index.html" if path == "/" else Path(path).name
    assert response.headers["content-type"].partition(";")[0] == MEDIA_TYPES[Path(name).suffix]
    assert response.content == (FOLDER / name).read_bytes()
    assert "default-src 'none'; script-src 'self';" in response.headers["content-security-policy"]
    assert response.headers["x-content-type-options"] == "nosniff"


def test_what_the_page_is_made_of_is_there(client: TestClient) -> None:
    scripts = "".join(file.read_text(encoding="utf-8") for file in FOLDER.glob("*.js"))
    named = set(re.findall(r'"(web/[^"]+)"', (FOLDER / "index.html").read_text(encoding="utf-8") + scripts))
    named |= {f"web/{name}" for name in re.findall(r'from "./([^"]+)"', scripts)}
    assert named == {f"web/{file.name}" for file in FOLDER.iterdir()} - {"web/index.html"}
    assert all(client.get(f"/{name}").status_code == 200 for name in named)


def test_nothing_is_inline_that_the_policy_forbids() -> None:
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<script[^>]*>(.*?)</script>", page) == [""]
    assert not re.search(r"<style| style=| on\w+=", page)


@pytest.mark.parametrize("name", ["nothing.js", "..%2fapp.py", "%2e%2e/app.py"])
def test_no_other_file_is_served(client: TestClient, name: str) -> None:
    response = client.get(f"/web/{name}")
    assert (response.status_code, response.json()["type"]) == (404, "/problems/not-found")


def test_the_document_names_the_prefix_that_it_is_found_behind(client: TestClient) -> None:
    assert "servers" not in client.get("/openapi.json").json()
    behind = TestClient(client.app, root_path="/convoy")
    assert behind.get("/openapi.json").json()["servers"] == [{"url": "/convoy"}]


@pytest.mark.parametrize("path", ["/", "/openapi.json"])
def test_what_can_be_asked_of_it_is_told(client: TestClient, path: str) -> None:
    assert client.head(path).status_code == 200
    assert set(client.put(path).headers["allow"].split(", ")) == {"GET", "HEAD"}

"""Which pages of other origins may read what is answered, on every kind of route."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from starlette.testclient import TestClient

from service.api.cors import Origins
from service.app import create_app
from service.settings import Settings
from tests.conftest import encode, picture

SHOP, OTHER = "https://shop.example", "https://other.example"
IMAGE, PNG = encode(picture("red")), {"Content-Type": "image/png"}


@pytest.fixture
def keyed(settings: Settings, tmp_path: Path) -> Iterator[TestClient]:
    (tmp_path / "keys").write_text("a-key-of-the-shop\n")
    changed = {"cors_origins": f"http://localhost:3000,{SHOP}", "api_keys_file": tmp_path / "keys"}
    with TestClient(create_app(settings.model_copy(update=changed))) as client:
        yield client


def answers(client: TestClient, origin: str) -> list[httpx2.Response]:
    """Of a direct route and of one of the framework's, each once with a key and once without."""
    headers = {"Origin": origin, **PNG}
    key = {"X-API-Key": "a-key-of-the-shop"}
    return [
        *(client.post("/v1/predict", content=IMAGE, headers=headers | each) for each in (key, {})),
        *(client.get("/v1/models", headers=headers | each) for each in (key, {})),
    ]


def test_an_allowed_page_may_read_answers_and_errors(keyed: TestClient) -> None:
    found = answers(keyed, SHOP)
    assert [answer.status_code for answer in found] == [200, 401, 200, 401]
    for answer in found:
        assert answer.headers["access-control-allow-origin"] == SHOP
        assert answer.headers["access-control-expose-headers"] == "*"
        assert answer.headers["vary"] == "Origin"


def test_it_may_read_what_the_request_log_answers_too(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(settings.model_copy(update={"cors_origins": SHOP}))
    monkeypatch.setattr(app.state.store, "newest", None)  # something that nobody foresaw
    with TestClient(app) as client:
        for path, request_id, status in (("/v1/models", "a b", 400), ("/v1/batches", "ab", 500)):
            shop, other = (
                client.get(path, headers={"Origin": origin, "X-Request-Id": request_id}) for origin in (SHOP, OTHER)
            )
            assert (shop.status_code, other.status_code) == (status, status)
            assert (shop.headers["access-control-allow-origin"], shop.headers["vary"]) == (SHOP, "Origin")
            assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize("origin", [OTHER, "null", f"{SHOP}.evil.example", "http://shop.example"])
def test_another_may_not(keyed: TestClient, origin: str) -> None:
    assert not [answer for answer in answers(keyed, origin) if "access-control-allow-origin" in answer.headers]


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/batches", "/v2/models/colours/infer"])
def test_browsers_ask_beforehand_without_a_key(keyed: TestClient, path: str) -> None:
    wish = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization, x-request-id"}
    allowed = keyed.options(path, headers={"Origin": SHOP, **wish})
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == SHOP
    assert "POST" in allowed.headers["access-control-allow-methods"]
    assert allowed.headers["access-control-allow-headers"] == wish["Access-Control-Request-Headers"]
    refused = keyed.options(path, headers={"Origin": OTHER, **wish})
    assert (refused.status_code, "access-control-allow-origin" in refused.headers) == (400, False)


def test_all_may_where_the_settings_say_so(settings: Settings) -> None:
    with TestClient(create_app(settings.model_copy(update={"cors_origins": "*"}))) as client:
        for answer in answers(client, OTHER):
            assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-origin" not in client.post("/v1/predict", content=IMAGE, headers=PNG).headers


def test_nobody_may_unless_the_settings_say_so(settings: Settings) -> None:
    with TestClient(create_app(settings)) as client:
        for answer in answers(client, SHOP):
            assert not [name for name in answer.headers if name.startswith("access-control") or name == "vary"]


def from_elsewhere(client: TestClient, path: str, origin: str, site: str) -> httpx2.Response:
    return client.post(path, content=IMAGE, headers={"Origin": origin, "Sec-Fetch-Site": site, **PNG})


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize("path", ["/v1/predict", "/v1/explain", "/v1/batches", "/v2/models/colours/infer"])
def test_a_page_of_another_origin_may_not_even_ask(settings: Settings, path: str, site: str) -> None:
    """For what a form can send no browser asks beforehand."""
    with TestClient(create_app(settings)) as client:
        answer = from_elsewhere(client, path, OTHER, site)
        assert answer.status_code == 403
        assert "CONVOY_CORS_ORIGINS" in answer.text
        assert from_elsewhere(client, path, OTHER, "same-origin").status_code != 403
        assert from_elsewhere(client, path, OTHER, "none").status_code != 403


def test_one_that_is_allowed_may(settings: Settings) -> None:
    for allowed in (SHOP, "*"):
        with TestClient(create_app(settings.model_copy(update={"cors_origins": allowed}))) as client:
            assert from_elsewhere(client, "/v1/predict", SHOP, "cross-site").status_code == 200
            assert from_elsewhere(client, "/v1/batches", SHOP, "cross-site").status_code == 415
            assert from_elsewhere(client, "/v1/predict", OTHER, "cross-site").status_code == (
                403 if allowed == SHOP else 200
            )


def test_what_changes_nothing_may_be_asked_from_anywhere(settings: Settings) -> None:
    with TestClient(create_app(settings)) as client:
        assert client.get("/", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200  # a link to the page


def test_a_request_of_no_page_needs_nothing() -> None:
    assert Origins([SHOP]).headers({b"host": b"127.0.0.1"}) == ()

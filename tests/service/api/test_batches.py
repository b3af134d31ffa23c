"""/v1/batches, from the upload to the last row."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from httpx2 import ASGITransport, AsyncClient, Response
from pyarrow import parquet
from starlette.requests import Request
from starlette.testclient import TestClient
from starlette.types import Message

from service.api import batch_results, batch_uploads
from service.api import batches as batches_module
from service.api.batches import Batches
from service.api.incoming import Incoming
from service.app import create_app
from service.choices import Choice
from service.errors import InvalidSource, StorageFailed
from service.jobs import runner as runner_module
from service.jobs import store as store_module
from service.jobs import upkeep as upkeep_module
from service.jobs.database import FILE_NAME, Batch
from service.jobs.spool import SyncedFile
from service.jobs.store import UPLOAD, NewBatch, Store
from service.jobs.upkeep import Upkeep
from service.settings import Settings
from tests.conftest import COLOURS, encode, picture
from tests.service.conftest import noting_threads
from tests.service.jobs.packing import PACKERS

PICTURES = [(f"{i:02}.png", encode(picture(COLOURS[i % 3]))) for i in range(25)]
MEDIA_TYPES = {
    "zip": "application/zip",
    "tar": "application/x-tar",
    "tar.gz": "application/x-tar",
    "tar.zst": "application/x-tar",
    "ndjson": "application/x-ndjson",
    "parquet": "application/vnd.apache.parquet",
}
ZIP = PACKERS["zip"](PICTURES)
NEVER_MEASURED = {"measured": None, "mean_size": None, "split": None, "images": None}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "CHUNK_INPUTS", 10)
    monkeypatch.setattr(upkeep_module, "BESIDE_RESULTS", 0)  # batches here have a few bytes
    for module, name in ((runner_module, "IDLE_S"), (runner_module, "RETRY_S"), (batch_results, "POLL_S")):
        monkeypatch.setattr(module, name, 0.05)


@pytest.fixture
def idle(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A client of an application that accepts batches and does not work on them."""
    monkeypatch.setattr(runner_module.Runner, "start", lambda _: None)
    with TestClient(create_app(settings)) as client:
        yield client


def send(client: TestClient, content: bytes = ZIP, media_type: str = "application/zip", **headers: str) -> Response:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post("/v1/batches", content=content, headers={"content-type": media_type, **headers})


def finished(client: TestClient, response: Response) -> dict[str, Any]:
    assert response.status_code == 202, response.text
    client.get(f"{response.headers['location']}/events")  # they end when the batch does
    batch: dict[str, Any] = client.get(response.headers["location"]).json()
    return batch


def rows(content: bytes | str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content.splitlines()]


@pytest.mark.parametrize("kind", MEDIA_TYPES)
def test_every_kind_of_body_gets_a_row_per_image_in_order(kind: str, client: TestClient) -> None:
    batch = finished(client, send(client, PACKERS[kind](PICTURES), MEDIA_TYPES[kind]))
    assert (batch["status"], batch["counts"]) == ("succeeded", {"total": 25, "done": 25, "failed": 0})
    assert (batch["progress"], batch["error"]) == (1, None)
    found = rows(client.get(f"/v1/batches/{batch['id']}/results").content)
    assert [(row["index"], row["id"], row["label"]) for row in found] == [
        (i, name, COLOURS[i % 3]) for i, (name, _) in enumerate(PICTURES)
    ]


def test_a_form_of_images_is_a_batch(client: TestClient) -> None:
    files = [("images", (name, content)) for name, content in [*PICTURES, ("notes.txt", b"no image")]]
    batch = finished(client, client.post("/v1/batches", files=files))
    assert batch["counts"] == {"total": 26, "done": 26, "failed": 1}
    found = rows(client.get(f"/v1/batches/{batch['id']}/results").content)
    assert [row["id"] for row in found] == [name for name, _ in PICTURES] + ["notes.txt"]
    assert found[-1]["error"]["type"] == "invalid-image"


def test_rows_are_what_predict_answers(client: TestClient) -> None:
    batch = finished(client, send(client))
    found = rows(client.get(f"/v1/batches/{batch['id']}/results").content)
    answered = client.post("/v1/predict", files=[("images", picture) for picture in PICTURES]).json()
    assert batch["model"] == answered["model"]
    for row, prediction in zip(found, answered["predictions"], strict=True):
        assert (row["label"], row["probabilities"]) == (prediction["label"], prediction["probabilities"])


@pytest.mark.parametrize("coverage", ["0.95", "0.990"])
def test_prediction_sets_are_those_that_predict_answers(client: TestClient, coverage: str) -> None:
    query = {"version": "1", "coverage": coverage, "top_k": "1"}
    sent = client.post("/v1/batches", params=query, content=ZIP, headers={"content-type": "application/zip"})
    batch = finished(client, sent)
    answered = client.post("/v1/predict", params=query, files=[("images", picture) for picture in PICTURES]).json()
    assert batch["coverage"] == answered["coverage"] | NEVER_MEASURED
    *_, last = client.get(f"/v1/batches/{batch['id']}/events").text.strip().splitlines()
    assert json.loads(last.removeprefix("data: ")) == batch
    wanted = [prediction["prediction_set"] for prediction in answered["predictions"]]
    url = f"/v1/batches/{batch['id']}/results"
    assert [row["prediction_set"] for row in rows(client.get(url).content)] == wanted
    assert (
        parquet.read_table(io.BytesIO(client.get(f"{url}?format=parquet").content))["prediction_set"].to_pylist()
        == wanted
    )
    assert [
        json.loads(row["prediction_set"]) for row in csv.DictReader(client.get(f"{url}?format=csv").text.splitlines())
    ] == wanted


def test_without_coverage_nothing_is_said_of_sets(client: TestClient) -> None:
    batch = finished(client, send(client))
    assert batch["coverage"] is None
    assert "prediction_set" not in rows(client.get(f"/v1/batches/{batch['id']}/results").content)[0]
    assert b"prediction_set" not in client.get(f"/v1/batches/{batch['id']}/results?format=csv").content


@pytest.mark.parametrize(
    ("version", "coverage", "told"), [("1", "0.5", "0.9, 0.95, 0.99"), ("2", "0.9", "no thresholds")]
)
def test_a_coverage_that_the_version_has_no_sets_for_is_refused(
    version: str, coverage: str, told: str, idle: TestClient, settings: Settings
) -> None:
    query = {"version": version, "coverage": coverage}
    answer = idle.post("/v1/batches", params=query, content=ZIP, headers={"content-type": "application/zip"})
    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/malformed-request")
    assert told in answer.json()["detail"]
    assert not list(settings.jobs_dir.glob("batch-*"))


def test_model_version_and_top_k_are_heeded(client: TestClient) -> None:
    response = client.post("/v1/batches?version=1&top_k=1", content=ZIP, headers={"content-type": "application/zip"})
    batch = finished(client, response)
    assert batch["model"]["version"] == "1"
    assert all(len(row["probabilities"]) == 1 for row in rows(client.get(f"/v1/batches/{batch['id']}/results").content))


def test_results_come_in_every_format(client: TestClient) -> None:
    url = f"/v1/batches/{finished(client, send(client))['id']}/results"
    csv = client.get(url, headers={"accept": "text/csv"})
    assert csv.headers["content-type"].startswith("text/csv")
    assert csv.text.count("\n") == 26
    table = parquet.read_table(io.BytesIO(client.get(f"{url}?format=parquet").content))
    assert table.column("id").to_pylist() == [name for name, _ in PICTURES]
    assert client.get(url, headers={"accept": "image/png"}).status_code == 406
    assert client.get(f"{url}?format=xlsx").status_code == 400


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("bytes=0-9", slice(0, 10)),
        ("bytes=100-", slice(100, None)),
        ("bytes=-50", slice(-50, None)),
        ("bytes=5-999999999", slice(5, None)),
    ],
)
def test_a_part_of_the_results_can_be_fetched(header: str, part: slice, client: TestClient) -> None:
    url = f"/v1/batches/{finished(client, send(client))['id']}/results"
    whole = client.get(url)
    answer = client.get(url, headers={"range": header})
    assert answer.status_code == 206
    assert answer.content == whole.content[part]
    start = len(whole.content) - len(answer.content) if part.start and part.start < 0 else part.start
    assert answer.headers["content-range"] == f"bytes {start}-{start + len(answer.content) - 1}/{len(whole.content)}"


def test_a_part_that_is_not_there_is_refused(client: TestClient) -> None:
    url = f"/v1/batches/{finished(client, send(client))['id']}/results"
    refused = client.get(url, headers={"range": "bytes=999999999-"})
    assert (refused.status_code, refused.json()["type"]) == (416, "/problems/range-not-satisfiable")
    size = len(client.get(url).content)
    assert refused.headers["content-range"] == f"bytes */{size}", "so that who has all of it knows"
    assert client.get(url, headers={"range": f"bytes={'9' * 1000}-"}).status_code == 416


def test_how_much_there_will_be_is_not_told_too_early(idle: TestClient) -> None:
    refused = idle.get(f"{send(idle).headers['location']}/results", headers={"range": "bytes=0-"})
    assert refused.status_code == 416
    assert "content-range" not in refused.headers


@pytest.mark.parametrize("header", ["bytes=0-1,5-6", "lines=0-1", "bytes=5-2", "bytes=-", "bytes=a-b"])
def test_what_is_no_range_is_answered_with_everything(header: str, idle: TestClient) -> None:
    answer = idle.get(f"{send(idle).headers['location']}/results", headers={"range": header})
    assert answer.status_code == 200


@pytest.mark.parametrize("kind", ["ndjson", "parquet"])
@pytest.mark.parametrize("end", ["it is deleted", "it fails", "the process stops"])
def test_rows_that_break_off_have_no_end(kind: str, end: str, idle: TestClient) -> None:
    """Neither the last chunk, without which the connection is cut, nor what makes a Parquet file whole."""
    state = idle.app.state  # type: ignore[attr-defined]
    batch = state.store.get(send(idle).json()["id"])
    batches = Batches(state.store, state.runner, state.served, Settings())
    asgi = {"spec_version": "2.4"}
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": [], "asgi": asgi}
    messages: list[Message] = []

    async def sent(message: Message) -> None:
        messages.append(message)

    async def never() -> Message:
        raise AssertionError

    async def follow() -> None:
        answer = await batches.results(Request(scope, never), batch, kind, follow=True)
        if end == "it is deleted":
            state.store.delete(batch.id)
        elif end == "it fails":
            state.runner.work.fail(state.runner.work.claim(), InvalidSource("Too much."))
        else:
            state.served.draining = True
        await answer(scope, never, sent)

    asyncio.run(follow())
    assert messages[0]["status"] == 200
    assert all(message["more_body"] for message in messages[1:])
    assert not any(message["body"].endswith(b"PAR1") for message in messages[1:])


@pytest.mark.parametrize(
    ("path", "query"),
    [("", "limit=abc"), ("/{batch_id}/results", "follow=maybe"), ("/{batch_id}/results", "format=xml")],
)
def test_the_status_that_a_bad_query_gets_is_documented(path: str, query: str, idle: TestClient) -> None:
    documented = idle.get("/openapi.json").json()["paths"][f"/v1/batches{path}"]["get"]["responses"]
    path = path.format(batch_id=send(idle).json()["id"])
    assert idle.get(f"/v1/batches{path}?{query}").status_code == 400
    assert "400" in documented


def test_following_gives_every_row_to_the_end(client: TestClient) -> None:
    response = send(client)
    with client.stream("GET", f"{response.headers['location']}/results?follow=true") as stream:
        found = rows("\n".join(stream.iter_lines()))
    assert [row["index"] for row in found] == list(range(25))


def test_events_tell_every_change_to_the_end(client: TestClient) -> None:
    response = send(client)
    with client.stream("GET", f"{response.headers['location']}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        events = [json.loads(line.removeprefix("data: ")) for line in stream.iter_lines() if line.startswith("data: ")]
    assert events[-1]["status"] == "succeeded"
    done = [event["counts"]["done"] for event in events]
    assert done == sorted(done)


def test_the_events_of_a_batch_that_is_deleted_end_with_its_cancellation(idle: TestClient) -> None:
    batch = send(idle).json()
    shown = shown_events(idle, batch["id"])
    assert [event["status"] for event in shown] == ["queued", "cancelled"]


def shown_events(client: TestClient, batch_id: str) -> list[dict[str, Any]]:
    """The events of a batch that is deleted after the first of them."""
    state = client.app.state  # type: ignore[attr-defined]
    store: Store = state.store
    batches = Batches(store, state.runner, state.served, Settings())

    async def collect() -> list[dict[str, Any]]:
        found = []
        async for event in batches.events(store.get(batch_id)):
            found.append(json.loads(event.removeprefix(b"data: ")))
            if len(found) == 1:
                store.delete(batch_id)
        return found

    return asyncio.run(collect())


def test_a_key_gives_the_same_batch_however_often_it_is_sent(idle: TestClient, settings: Settings) -> None:
    first, second = (send(idle, idempotency_key="k") for _ in range(2))
    assert first.json() == second.json()
    assert len(list(settings.jobs_dir.glob("batch-*"))) == 1
    other = send(idle, PACKERS["zip"](PICTURES[:2]), idempotency_key="k")
    assert (other.status_code, other.json()["type"]) == (409, "/problems/conflict")
    assert len(list(settings.jobs_dir.glob("batch-*"))) == 1


def test_with_another_coverage_it_is_another_batch(idle: TestClient) -> None:
    headers = {"content-type": "application/zip", "idempotency-key": "k"}
    queries = ["&coverage=0.9", "&coverage=0.90", "&coverage=0.95", ""]
    found = [idle.post(f"/v1/batches?version=1{query}", content=ZIP, headers=headers).status_code for query in queries]
    assert found == [202, 202, 409, 409]


def test_a_key_gives_the_same_batch_after_another_version_became_active(
    settings: Settings, models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(shutil.copytree(models_dir, tmp_path / "models"))
    monkeypatch.setattr(runner_module.Runner, "start", lambda _: None)
    answers = []
    for active in ("1", "2"):
        Choice(active).write(root / "colours")
        with TestClient(create_app(settings.model_copy(update={"models_dir": root}))) as client:
            answers.append(send(client, idempotency_key="k").json())
    assert answers[0]["model"]["version"] == "1"
    assert answers[0] == answers[1]


def test_a_form_is_known_by_its_parts_not_by_its_boundary(idle: TestClient) -> None:
    files = [("images", picture) for picture in PICTURES]
    first, second = (idle.post("/v1/batches", files=files, headers={"idempotency-key": "k"}).json() for _ in range(2))
    assert first["id"] == second["id"]


def test_batches_are_listed_newest_first_in_pages(idle: TestClient) -> None:
    ids = [send(idle).json()["id"] for _ in range(3)][::-1]
    page = idle.get("/v1/batches?limit=2").json()
    assert [batch["id"] for batch in page["batches"]] == ids[:2]
    last = idle.get(f"/v1/batches?limit=2&after={page['after']}").json()
    assert ([batch["id"] for batch in last["batches"]], last["after"]) == (ids[2:], None)


def test_a_batch_that_is_not_worked_on_yet_is_queued(idle: TestClient) -> None:
    batch = send(idle).json()
    assert (batch["status"], batch["counts"]["total"], batch["eta_seconds"]) == ("queued", None, None)
    assert idle.get(f"/v1/batches/{batch['id']}/results").content == b""


def test_batches_are_among_the_metrics(idle: TestClient) -> None:
    assert 'convoy_batches{status="queued"} 0' in idle.get("/metrics").text
    send(idle)
    assert 'convoy_batches{status="queued"} 1' in idle.get("/metrics").text


def test_a_deleted_batch_is_gone(idle: TestClient, settings: Settings) -> None:
    url = send(idle).headers["location"]
    assert idle.delete(url).status_code == 204
    for answer in (idle.get(url), idle.get(f"{url}/results"), idle.get(f"{url}/events"), idle.delete(url)):
        assert (answer.status_code, answer.json()["type"]) == (404, "/problems/batch-not-found")
    assert not list(settings.jobs_dir.glob("batch-*"))


def test_a_batch_that_can_not_be_read_has_failed_and_says_why(client: TestClient) -> None:
    batch = finished(client, send(client, b"no archive"))
    assert (batch["status"], batch["error"]["type"]) == ("failed", "invalid-source")
    assert client.post("/v1/predict", content=PICTURES[0][1], headers={"content-type": "image/png"}).status_code == 200


@pytest.mark.parametrize(
    ("content", "media_type", "headers", "problem"),
    [
        (b"", "application/zip", {}, "empty-request"),
        (ZIP, "image/png", {}, "unsupported-media-type"),
        (ZIP, "application/zip", {"content-encoding": "gzip"}, "unsupported-media-type"),
        (ZIP, "application/zip", {"idempotency-key": "x" * 256}, "malformed-request"),
        (b"--b\r\n", "multipart/form-data; boundary=b", {}, "malformed-request"),
        (b"--b--\r\n", "multipart/form-data; boundary=b", {}, "empty-request"),
        (b"--b--\r\n", "multipart/form-data; boundary*0*=a; boundary*=b", {}, "malformed-request"),
        (bytes(200_001), "application/zip", {}, "body-too-large"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(
    content: bytes, media_type: str, headers: dict[str, str], problem: str, settings: Settings
) -> None:
    with TestClient(create_app(settings.model_copy(update={"max_batch_upload_bytes": 200_000}))) as client:
        answer = send(client, content, media_type, **headers)
    assert answer.json()["type"] == f"/problems/{problem}"
    assert not list(settings.jobs_dir.glob("batch-*"))


def test_an_unknown_model_is_refused_before_the_body_is_read(idle: TestClient) -> None:
    assert idle.post("/v1/batches?model=nothing", content=ZIP).json()["type"] == "/problems/model-not-found"
    answer = idle.post("/v1/batches?top_k=4", content=ZIP, headers={"content-type": "application/zip"})
    assert answer.json()["type"] == "/problems/malformed-request"


def test_without_pyarrow_parquet_is_refused(idle: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_uploads, "parquet_is_available", lambda: False)
    assert send(idle, b"PAR1", "application/vnd.apache.parquet").status_code == 415


def test_a_full_disk_is_a_clear_error_and_the_service_goes_on(
    idle: TestClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(SyncedFile, "write", full)
        answer = send(idle)
    assert (answer.status_code, answer.json()["type"]) == (507, "/problems/storage-failed")
    assert "retry-after" in answer.headers
    assert not list(settings.jobs_dir.glob("batch-*"))
    assert idle.post("/v1/predict", content=PICTURES[0][1], headers={"content-type": "image/png"}).status_code == 200
    assert send(idle).status_code == 202


def test_while_the_list_is_locked_batches_are_shown_and_none_is_deleted(
    idle: TestClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = send(idle).headers["location"]
    monkeypatch.setattr(batches_module, "REQUEST_S", 0.01)
    with closing(sqlite3.connect(settings.jobs_dir / FILE_NAME)) as other:
        other.execute("BEGIN IMMEDIATE")
        answer = idle.delete(url)
        assert [idle.get(path).status_code for path in (url, f"{url}/results", "/v1/batches")] == [200, 200, 200]
    assert (answer.status_code, answer.json()["type"]) == (507, "/problems/storage-failed")
    assert answer.headers["retry-after"] == "5"
    assert "try again in a moment" in answer.json()["detail"]
    assert idle.delete(url).status_code == 204


def test_those_who_wait_for_a_locked_list_keep_no_thread_from_others(
    idle: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    monkeypatch.setattr(Store, "create", noting_threads(Store.create, threads))
    monkeypatch.setattr(Upkeep, "make_room", noting_threads(Upkeep.make_room, threads))
    monkeypatch.setattr(Store, "delete", noting_threads(Store.delete, threads))
    url = send(idle).headers["location"]
    assert idle.delete(url).status_code == 204
    assert threads == ["wait", "wait", "delete"]


def test_many_who_delete_from_a_locked_list_wait_no_longer_than_one(
    idle: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    patience: list[float] = []

    def delete(_store: Store, _batch_id: str, patience_s: float) -> None:
        patience.append(patience_s)

    monkeypatch.setattr(batches_module, "REQUEST_S", 0.0)  # as long as all of them have waited for a thread
    monkeypatch.setattr(Store, "delete", delete)
    assert idle.delete("/v1/batches/batch-0").status_code == 204
    assert patience == [batches_module.LEAST_S]


def test_a_damaged_list_is_told_and_keeps_no_other_request_from_its_answer(
    idle: TestClient, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    url = send(idle).headers["location"]
    path = settings.jobs_dir / FILE_NAME
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole = path.read_bytes()
    path.write_bytes(b"\xff" * len(whole))
    for answer in (idle.get(url), idle.delete(url), send(idle)):
        assert (answer.status_code, answer.json()["type"]) == (507, "/problems/storage-failed")
        assert "tell the operator, who must put it back from a copy" in answer.json()["detail"]
    assert "batches.sqlite is damaged" in caplog.text
    assert idle.get("/metrics").status_code == 200
    assert list(settings.jobs_dir.glob("batch-*/results.ndjson"))  # no file was given up
    path.write_bytes(whole)
    assert idle.get(url).json()["status"] == "queued"


def test_no_batch_is_accepted_beyond_what_all_may_take(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module.Runner, "start", lambda _: None)
    with TestClient(create_app(settings.model_copy(update={"jobs_max_bytes": len(ZIP) + 100}))) as client:
        assert send(client).status_code == 202
        refused = send(client).json()
    assert refused["type"] == "/problems/storage-failed"
    assert "others make room an hour after they are finished" in refused["detail"]


def test_what_is_larger_than_a_batch_may_be_costs_no_other_its_rows(settings: Settings) -> None:
    own = settings.model_copy(update={"max_batch_upload_bytes": 200_000, "jobs_max_bytes": 200_000})
    with TestClient(create_app(own)) as client:
        batch = finished(client, send(client))
        answer = send(client, content_length="200001")
        assert (answer.status_code, answer.json()["type"]) == (413, "/problems/body-too-large")
        assert client.get(f"/v1/batches/{batch['id']}").status_code == 200


def test_what_is_only_announced_costs_no_other_its_rows(
    idle: TestClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more goes than twice as many bytes as have arrived."""
    monkeypatch.setattr(upkeep_module, "FETCH_S", -1.0)  # as when they were finished an hour ago
    state = idle.app.state  # type: ignore[attr-defined]
    store: Store = state.store
    ids = [send(idle).json()["id"] for _ in range(4)]
    for batch_id in ids:
        state.runner.work.fail(state.runner.work.claim(), InvalidSource("Too much."))
        (store.folder(batch_id) / "results.ndjson").write_bytes(bytes(1000))
        with store.database.writing() as connection:
            connection.execute("UPDATE batches SET bytes = 1000 WHERE id = ?", [batch_id])
    own = settings.model_copy(update={"jobs_max_bytes": 4000})
    arriving, folder = store.new_folder()
    left = list[int]()

    async def receive() -> Message:
        left.append(len(store.newest(9)))
        return {"type": "http.request", "body": bytes(500), "more_body": len(left) < 7}

    headers = [(b"content-length", b"3500"), (b"content-type", b"application/zip")]
    scope = {"type": "http", "path": "/v1/batches", "headers": headers, "query_string": b""}
    asyncio.run(batch_uploads.receive(Incoming.of(scope, receive), folder, store, own))
    assert left == [4, 3, 3, 1, 1, 1, 1]
    assert store.newest(9) == []
    store.discard(arriving)


def test_what_would_not_fit_whatever_went_is_refused_before_it_is_read(idle: TestClient, settings: Settings) -> None:
    store: Store = idle.app.state.store  # type: ignore[attr-defined]
    send(idle)
    own = settings.model_copy(update={"jobs_max_bytes": 2 * len(ZIP)})

    async def receive() -> Message:
        raise AssertionError

    headers = [(b"content-length", b"%d" % (len(ZIP) + 1)), (b"content-type", b"application/zip")]
    scope = {"type": "http", "path": "/v1/batches", "headers": headers, "query_string": b""}
    with pytest.raises(StorageFailed, match="no room"):
        asyncio.run(batch_uploads.receive(Incoming.of(scope, receive), store.new_folder()[1], store, own))


def test_not_any_number_of_batches_may_wait(idle: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_uploads, "MOST_UNFINISHED", 2)
    assert [send(idle).status_code for _ in range(3)] == [202, 202, 507]
    idle.delete(f"/v1/batches/{idle.get('/v1/batches').json()['batches'][0]['id']}")
    assert send(idle).status_code == 202


def test_a_body_that_does_not_say_how_long_it_is_has_as_much_room_as_any(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep_module, "FETCH_S", -1.0)  # as when they were finished an hour ago
    with TestClient(create_app(settings.model_copy(update={"jobs_max_bytes": 20_000}))) as client:
        first, second = (finished(client, send(client))["id"] for _ in range(2))
        size = 20_000 - len(client.get(f"/v1/batches/{first}/results").content)

        def in_pieces(length: int) -> Response:
            pieces = (ZIP.ljust(length, b"x")[at : at + 500] for at in range(0, length, 500))
            return client.post("/v1/batches", content=pieces, headers={"content-type": "application/zip"})

        refused = in_pieces(20_001)
        assert (refused.status_code, refused.json()["type"]) == (507, "/problems/storage-failed")
        assert in_pieces(size).status_code == 202
        assert client.get(f"/v1/batches/{first}").status_code == 404
        assert client.get(f"/v1/batches/{second}").status_code == 200


def test_bodies_of_no_declared_length_that_arrive_at_once_share_the_room(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_uploads, "STEP_BYTES", 100)
    store, received = Store(settings.jobs_dir), [0, 0]
    upkeep = Upkeep(store, keep_s=3600, max_bytes=1000)

    async def pieces() -> AsyncIterator[bytes]:
        while True:
            yield bytes(50)

    async def arrive() -> None:
        bodies = []
        for _ in received:
            batch_id, _ = store.new_folder()
            share = batch_uploads._DiskShare(upkeep, batch_id, max_body_bytes=settings.max_batch_upload_bytes)
            bodies.append(share.within(pieces()))
        while True:
            for place, body in enumerate(bodies):
                received[place] += len(await anext(body))

    with pytest.raises(StorageFailed):
        asyncio.run(arrive())
    assert 900 <= sum(received) <= 1000 + 2 * 100


def test_a_folder_that_can_not_be_written_is_a_clear_error(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with TestClient(create_app(settings.model_copy(update={"jobs_dir": tmp_path / "file" / "jobs"}))) as client:
        assert send(client).json()["type"] == "/problems/storage-failed"
        assert client.get("/v1/batches").json()["batches"] == []


def test_a_batch_whose_sender_is_cut_off_while_it_is_entered_is_accepted_and_keeps_its_files(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that enters it goes on: what is in the list must not lack what it is made of."""
    entering, may_go_on, create = threading.Event(), threading.Event(), Store.create

    def slowly(store: Store, new: NewBatch) -> Batch:
        entering.set()
        assert may_go_on.wait(30)
        return create(store, new)

    async def scenario() -> None:
        app = create_app(settings)
        async with (
            app.router.lifespan_context(app),
            AsyncClient(transport=ASGITransport(app), base_url="http://t") as c,
        ):
            before = asyncio.all_tasks()
            asked = asyncio.create_task(c.post("/v1/batches", content=ZIP, headers={"content-type": "application/zip"}))
            assert await asyncio.to_thread(entering.wait, 30)
            for _ in range(2):  # by the server whose time to drain is over, and by the event loop that ends
                for task in asyncio.all_tasks() - {asyncio.current_task()} - before:
                    task.cancel()
                await asyncio.sleep(0.01)
            may_go_on.set()
            assert (await asked).status_code == 202
            (batch,) = (await c.get("/v1/batches")).json()["batches"]
            assert (settings.jobs_dir / batch["id"] / UPLOAD).is_file()

    monkeypatch.setattr(runner_module.Runner, "start", lambda _: None)
    monkeypatch.setattr(Store, "create", slowly)
    asyncio.run(scenario())

"""Batches in a store, as uploads and workers leave them."""

from __future__ import annotations

from service.jobs.database import Batch
from service.jobs.store import NewBatch, Store
from service.prediction import ModelIdentity
from tests.conftest import COLOURS

IDENTITY = ModelIdentity("colours", "1", "sha256:0", COLOURS)


def add(store: Store, key: str | None = None, fingerprint: str = "x", content: bytes = b"") -> Batch:
    batch_id, folder = store.new_folder()
    (folder / "upload").write_bytes(content)
    return store.create(NewBatch(batch_id, IDENTITY, None, "zip", key, fingerprint))


def finish(store: Store, batch: Batch, finished: float, results: bytes = b"") -> None:
    (store.folder(batch.id) / "results.ndjson").write_bytes(results)
    with store.database.writing() as connection:
        connection.execute(
            "UPDATE batches SET status = 'succeeded', finished = ?, bytes = ? WHERE number = ?",
            [finished, len(results), batch.number],
        )
    store.drop_inputs(batch.id)

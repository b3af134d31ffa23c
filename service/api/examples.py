"""What answers look like, for OpenAPI; tests hold each of them against its shape, and against what writes it."""

from __future__ import annotations

from typing import Any

import orjson

Example = dict[str, Any]
MODEL: Example = {"name": "cifar10", "version": "1", "digest": "sha256:…"}
ERROR: Example = {"type": "invalid-image", "title": "Not an image", "detail": "…"}
CAT: Example = {"label": "cat", "probability": 0.97, "probabilities": {"cat": 0.97, "dog": 0.03}}

PREDICT: Example = {
    "model": MODEL,
    "coverage": {"asked": 0.99, "measured": 0.99, "mean_size": 1.4, "split": "test", "images": 10000},
    "predictions": [
        {"index": 0, "filename": "cat.jpg", **CAT, "prediction_set": ["cat", "dog"]},
        {"index": 1, "filename": "notes.txt", "error": ERROR},
    ],
}
EXPLAIN: Example = {
    "model": MODEL,
    "prediction": {"index": 0, "filename": "cat.jpg", **CAT},
    "occlusion": {
        "grid": [[0.0, 0.1, 0.4, 0.9, 0.4, 0.1, 0.0]] * 7,
        "probabilities": [[0.97, 0.967, 0.956, 0.929, 0.956, 0.967, 0.97]] * 7,
        "image": "data:image/png;base64,…",
    },
    "stages": [
        {"name": "conv1", "kind": "convolution", "shape": [32, 30, 30], "image": "data:image/png;base64,…"},
        {"name": "relu1", "kind": "activation", "shape": [32, 30, 30], "image": "data:image/png;base64,…"},
        {"name": "pool1", "kind": "pooling", "shape": [32, 15, 15], "image": "data:image/png;base64,…"},
    ],
}
SERVES: Example = {
    "version": "1",
    "state": "ready",
    "active": True,
    "digest": "sha256:…",
    "provider": "CPUExecutionProvider",
    "precision": "int8",
    "detail": None,
}
FAILED: Example = {**dict.fromkeys(SERVES), "version": "2", "state": "failed", "active": False, "detail": "…"}
MODELS: Example = {
    "models": [{"name": "cifar10", "default": True, "active_version": "1", "versions": [SERVES, FAILED]}]
}
BATCH: Example = {
    "id": "batch-4be0643f1d98573b97cdca98a65347dd",
    "status": "running",
    "model": MODEL,
    "counts": {"total": 10000, "done": 2500, "failed": 3},
    "progress": 0.25,
    "eta_seconds": 12.0,
    "created_at": "2026-01-01T12:00:00.000+00:00",
    "started_at": "2026-01-01T12:00:01.000+00:00",
    "finished_at": None,
    "error": None,
    "coverage": None,
}
ENDED: Example = {
    **BATCH,
    "status": "succeeded",
    "counts": {"total": 10000, "done": 10000, "failed": 7},
    "progress": 1.0,
    "eta_seconds": None,
    "finished_at": "2026-01-01T12:00:17.000+00:00",
}
EVENTS = "".join(f"data: {orjson.dumps(batch).decode()}\n\n" for batch in (BATCH, ENDED))

ROWS: list[Example] = [{"index": 0, "id": "cat/00000.png", **CAT}, {"index": 1, "id": "notes.txt", "error": ERROR}]
NDJSON = "".join(f"{orjson.dumps(row).decode()}\n" for row in ROWS)
CSV = (
    "index,id,label,probability,error,detail,probabilities.cat,probabilities.dog\r\n"
    "0,cat/00000.png,cat,0.97,,,0.97,0.03\r\n"
    "1,notes.txt,,,invalid-image,…,,\r\n"
)

"""The whole line, for real: data → training → ONNX → a server process → every kind of request → SIGTERM."""

from __future__ import annotations

import base64
import io
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest
from PIL import Image

from tests.conftest import encode
from tests.processes import Convoy, running
from training.__main__ import main as convoy_train
from training.data import load_training_data
from training.onnx_graph import run_onnx


def test_from_data_to_a_served_prediction(generated_data: Path, tmp_path: Path) -> None:
    run, model, data = tmp_path / "run", tmp_path / "models" / "fresh" / "1", ["--data", str(generated_data)]
    assert convoy_train(["train", "tutorial", *data, "--output", str(run), "--max-steps", "40"]) == 0
    assert convoy_train(["export", str(run), str(model), *data]) == 0
    assert convoy_train(["evaluate", str(model), *data, "--record"]) == 0

    images = load_training_data(generated_data).validation.images[:12].numpy()
    expected = run_onnx(model / "model.onnx", images)
    labels = [json.loads((model / "metadata.json").read_text())["labels"][i] for i in expected.argmax(1)]
    pngs = [encode(Image.fromarray(image)) for image in images]

    settings = {"default_model": "fresh", "precision": "fp32", "log_requests": "all"}
    with running(tmp_path / "models", **settings) as convoy, httpx2.Client(base_url=convoy.url) as client:
        assert client.get("/readyz").status_code == 200
        check_every_body(client, images, pngs, expected, labels)
        check_errors(client, pngs)
        finish_under_way(convoy, images)
        assert convoy.process.wait(20) == 0
    log = [json.loads(line) for line in convoy.log]
    assert any(entry["message"] == "request" and entry["request_id"] == "from-the-test" for entry in log)
    assert not [entry for entry in log if entry["level"] in ("error", "critical")]


def check_every_body(
    client: httpx2.Client, images: np.ndarray, pngs: list[bytes], expected: np.ndarray, labels: list[str]
) -> None:
    def answered(response: httpx2.Response) -> list[str]:
        assert response.status_code == 200, response.text
        return [prediction["label"] for prediction in response.json()["predictions"]]

    for png, label in zip(pngs, labels, strict=True):
        for media_type in ("image/png", "application/octet-stream"):
            assert answered(client.post("/v1/predict", content=png, headers={"content-type": media_type})) == [label]
    files = [("images", (f"{i}.png", png)) for i, png in enumerate(pngs)]
    assert answered(client.post("/v1/predict", files=files)) == labels
    as_text = [base64.b64encode(png).decode() for png in pngs]
    assert answered(client.post("/v1/predict", json={"images": as_text})) == labels

    stream = io.BytesIO()
    np.save(stream, images)
    headers = {"content-type": "application/x-npy", "accept": "application/x-npy", "x-request-id": "from-the-test"}
    response = client.post("/v1/predict", content=stream.getvalue(), headers=headers)
    assert response.headers["x-request-id"] == "from-the-test"
    probabilities = np.load(io.BytesIO(response.content))
    assert np.abs(probabilities - expected).max() < 1e-5
    assert np.abs(probabilities.sum(1) - 1).max() < 1e-5


def check_errors(client: httpx2.Client, pngs: list[bytes]) -> None:
    refused = client.post("/v1/predict", content=pngs[0][:40], headers={"content-type": "image/png"})
    assert (refused.status_code, refused.json()["type"]) == (422, "/problems/invalid-image")
    mixed = client.post("/v1/predict", files=[("a", ("a.png", pngs[0])), ("b", ("b.png", b"no image"))])
    assert [("error" in prediction) for prediction in mixed.json()["predictions"]] == [False, True]


def finish_under_way(convoy: Convoy, images: np.ndarray) -> None:
    """SIGTERM while a large request is being sent and answered: it still gets its answer."""
    stream = io.BytesIO()
    np.save(stream, np.concatenate([images] * 80))
    body, half_sent, answers = stream.getvalue(), threading.Event(), list[int]()

    def chunks() -> Iterator[bytes]:
        yield body[: len(body) // 2]
        half_sent.set()
        signalled.wait(10)
        yield body[len(body) // 2 :]

    def ask() -> None:
        headers = {"content-type": "application/x-npy", "content-length": str(len(body))}
        answers.append(
            httpx2.post(f"{convoy.url}/v1/predict", content=chunks(), headers=headers, timeout=30).status_code
        )

    signalled = threading.Event()
    asking = threading.Thread(target=ask)
    asking.start()
    assert half_sent.wait(10)
    convoy.process.send_signal(signal.SIGTERM)
    signalled.set()
    asking.join(30)
    assert answers == [200]


def test_a_port_that_is_taken_is_an_exit_status(models_dir: Path) -> None:
    with running(models_dir) as convoy:
        port = str(convoy.port)
        again = subprocess.run(
            [sys.executable, "-m", "service", "serve", "--port", port],
            capture_output=True,
            text=True,
            check=False,
        )
    assert again.returncode == 1
    assert again.stderr == (
        f"convoy: Can't listen on 127.0.0.1 port {port}: Address already in use. "
        "Choose others with --host and --port (or CONVOY_HOST and CONVOY_PORT).\n"
    )


def test_cuda_without_a_device_is_one_sentence_and_an_exit_status(models_dir: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    arguments = ["--device", "cuda", "--models-dir", str(models_dir), "--default-model", "colours"]
    command = [sys.executable, "-m", "service", "serve", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("convoy: ")
    assert "--device cuda can't be had" in done.stderr
    assert "Traceback" not in done.stderr

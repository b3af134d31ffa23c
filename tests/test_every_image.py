"""CIFAR-10's test images, one by one, as PNG → a server process → the labels of the offline evaluation."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import numpy as np
import pytest
from PIL import Image

from service.metadata import ModelMetadata
from tests.conftest import REAL_DATA, encode
from tests.processes import running
from training.data import load_test_split
from training.onnx_graph import run_onnx


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real CIFAR-10 is not here")
def test_every_test_image_as_png_gets_the_label_of_the_offline_evaluation() -> None:
    models = Path(__file__).parents[1] / "models"
    folder = models / "cifar10" / "9"
    metadata, split = ModelMetadata.read(folder), load_test_split(REAL_DATA)
    with (
        running(models, default_model="cifar10") as convoy,
        httpx2.Client(base_url=f"http://127.0.0.1:{convoy.port}") as client,
    ):

        def label(image: np.ndarray) -> str:
            headers = {"content-type": "image/png"}
            response = client.post("/v1/predict?top_k=1", content=encode(Image.fromarray(image)), headers=headers)
            return str(response.json()["predictions"][0]["label"])

        precision = client.get("/readyz").json()["precision"]  # what this machine computes fastest
        with ThreadPoolExecutor(8) as pool:
            served = list(pool.map(label, split.images.numpy()))
    answers = run_onnx(metadata.files[precision].verify(folder), split.images.numpy()).argmax(1)
    (recorded,) = (e.accuracy for e in metadata.evaluations if (e.split, e.precision) == ("test", precision))
    assert (answers == split.labels.numpy()).mean() == pytest.approx(recorded, abs=2e-4)
    assert len(served) == 10_000
    assert served == [metadata.labels[answer] for answer in answers]

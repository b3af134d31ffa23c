"""CIFAR-10's test images, one by one, as PNG → a server process → the labels of the offline evaluation."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.metadata import ModelMetadata
from tests.conftest import REAL_DATA, encode
from tests.processes import running
from training.data import load_test_split
from training.onnx_graph import run_onnx

CLIENTS = 8


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real CIFAR-10 is not here")
def test_every_test_image_as_png_gets_the_label_of_the_offline_evaluation() -> None:
    models = Path(__file__).parents[1] / "models"
    folder = models / "cifar10" / "9"
    metadata, split = ModelMetadata.read(folder), load_test_split(REAL_DATA)
    with running(models, default_model="cifar10") as convoy:

        def labels(images: np.ndarray) -> list[str]:
            connection, found = convoy.connect(), []
            for image in images:
                headers = {"content-type": "image/png"}
                connection.request("POST", "/v1/predict?top_k=1", encode(Image.fromarray(image)), headers)
                found.append(str(json.load(connection.getresponse())["predictions"][0]["label"]))
            return found

        with ThreadPoolExecutor(CLIENTS) as pool:
            served = list(chain(*pool.map(labels, np.array_split(split.images.numpy(), CLIENTS))))
        connection = convoy.connect()
        connection.request("GET", "/readyz")
        precision = json.load(connection.getresponse())["precision"]  # what this machine computes fastest
    answers = run_onnx(metadata.files[precision].verify(folder), split.images.numpy()).argmax(1)
    (recorded,) = (e.accuracy for e in metadata.evaluations if (e.split, e.precision) == ("test", precision))
    assert (answers == split.labels.numpy()).mean() == pytest.approx(recorded, abs=2e-4)
    assert len(served) == 10_000
    assert served == [metadata.labels[answer] for answer in answers]

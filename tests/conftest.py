"""What the tests share: a model whose answers can be foretold, and data sets in CIFAR-10's own format."""

from __future__ import annotations

import gc
import hashlib
import io
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from service.metadata import Calibration, FileRecord, InputSpec, ModelMetadata, Provenance
from service.settings import Settings
from training import cifar10
from training.architectures import ARCHITECTURES
from training.architectures.plain_cnn import PlainCNN
from training.stages import write_stages

torch.set_num_threads(1)  # the networks here are so small that more threads only wait for each other
# A shell's background job ignores Ctrl-C, and so would what the tests start in it.
signal.signal(signal.SIGINT, signal.default_int_handler)

COLOURS = ("red", "green", "blue")
SIZE = 8
RGB = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
REAL_DATA = Path(__file__).parents[2] / "shared" / "data" / "cifar-10-batches-py"


THRESHOLDS = {"0.9": 0.7, "0.95": 0.4, "0.99": 0.001}


def write_colour_model(
    folder: Path, *, version: str | None = None, scale: float = 0.02, thresholds: dict[str, float] | None = None
) -> Path:
    """A model that names the strongest colour: softmax(scale × mean of each channel). Returns its folder.

    It is a network of three stages, of which the first two change nothing.
    """
    folder.mkdir(parents=True)
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["channels"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["channels", "identity"], ["same"]),
        helper.make_node("Relu", ["same"], ["positive"]),
        helper.make_node("GlobalAveragePool", ["positive"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["means"]),
        helper.make_node("Mul", ["means", "scale"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 3])],
        [
            numpy_helper.from_array(np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1), "identity"),
            numpy_helper.from_array(np.array(scale, np.float32), "scale"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save_model(model, str(folder / "model.onnx"))
    images = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), np.uint8)
    np.savez(folder / "golden.npz", images=images, probabilities=colour_probabilities(images, scale))
    ModelMetadata(
        name=folder.parent.name,
        version=version or folder.name,
        description="Names the strongest colour.",
        architecture="mean",
        labels=COLOURS,
        input=InputSpec(height=SIZE, width=SIZE),
        parameters=1,
        macs=1,
        files={"fp32": FileRecord.of(folder / "model.onnx")},
        golden=FileRecord.of(folder / "golden.npz"),
        stages=write_stages(folder / "model.onnx"),
        calibration=Calibration(
            temperature=1, fitted_on="nothing", thresholds={"fp32": thresholds} if thresholds else {}
        ),
        provenance=Provenance(
            dataset="none",
            recipe="none",
            config={},
            epochs=1,
            training={},
            export={},
            created_at="2026-01-01T00:00:00+00:00",
        ),
    ).write(folder)
    (folder / "MODEL_CARD.md").write_text("# colours\n")
    return folder


def colour_probabilities(images: npt.NDArray[np.uint8], scale: float = 0.02) -> npt.NDArray[np.float32]:
    """What the colour model answers, computed without it."""
    logits = scale * images.astype(np.float64).mean((1, 2))
    powers = np.exp(logits - logits.max(1, keepdims=True))
    probabilities: npt.NDArray[np.float32] = (powers / powers.sum(1, keepdims=True)).astype(np.float32)
    return probabilities


def picture(colour: str, size: tuple[int, int] = (SIZE, SIZE)) -> Image.Image:
    return Image.new("RGB", size, RGB[colour])


def encode(image: Image.Image, fmt: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, fmt, **options)
    return stream.getvalue()


def pytest_collection_finish() -> None:
    """What is imported stays; collections that go through it again take a second each on a slow machine."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A repository with the colour model in two versions, for all tests; the second is less sure of itself.

    The first has prediction sets.
    """
    root = tmp_path_factory.mktemp("models")
    write_colour_model(root / "colours" / "1", thresholds=THRESHOLDS)
    write_colour_model(root / "colours" / "2", scale=0.01)
    made = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    yield root
    left = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert left == made, "a test has changed what all share; let it copy the folder"


@pytest.fixture
def settings(models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings for the colour model, deaf to the environment of whoever runs the tests."""
    clear_environment(monkeypatch)
    monkeypatch.setattr("service.engine.MEASURED_S", 0.0)  # how large a batch should be is not what these tests ask
    return Settings(models_dir=models_dir, default_model="colours", device="cpu", threads=1, jobs_dir=tmp_path / "jobs")


def clear_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"CONVOY_{name.upper()}", raising=False)


def generated_records(count: int, seed: int) -> cifar10.Records:
    """Learnable stand-ins for CIFAR-10: planar pixels (N, 3072) whose colour gradient depends on the label (N,)."""
    random = np.random.default_rng(seed)
    labels = (np.arange(count) % 10).astype(np.uint8)
    slopes = np.random.default_rng(1).uniform(-100, 100, (10, 2, 3))
    y, x = np.mgrid[0:32, 0:32] / 32 - 0.5
    images = 128 + slopes[labels, 0][:, None, None] * y[..., None] + slopes[labels, 1][:, None, None] * x[..., None]
    images = (images + random.normal(0, 20, images.shape)).clip(0, 255).astype(np.uint8)
    order = random.permutation(count)
    return images.transpose(0, 3, 1, 2).reshape(count, -1)[order], labels[order]


@pytest.fixture(scope="session")
def generated_version(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, cifar10.OfficialVersion]:
    """A folder in the binary version's format with generated pictures, and the checksums to make it official."""
    folder = tmp_path_factory.mktemp("data") / cifar10.BINARY.folder
    folder.mkdir()
    sums: dict[str, str] = {}
    for seed, name in enumerate([*cifar10.BINARY.train_files, *cifar10.BINARY.test_files]):
        pixels, labels = generated_records(400, seed)
        content = np.concatenate([labels[:, None], pixels], 1).tobytes()
        (folder / name).write_bytes(content)
        sums[name] = hashlib.md5(content, usedforsecurity=False).hexdigest()
    version = replace(
        cifar10.BINARY,
        train_files={name: sums[name] for name in cifar10.BINARY.train_files},
        test_files={name: sums[name] for name in cifar10.BINARY.test_files},
    )
    return folder, version


@pytest.fixture
def generated_data(
    generated_version: tuple[Path, cifar10.OfficialVersion], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A copy of the generated data set, which passes for the official one as long as the test runs."""
    folder, version = generated_version
    monkeypatch.setattr(cifar10, "BINARY", version)
    monkeypatch.setattr(cifar10, "VERSIONS", (cifar10.PYTHON, version))
    return Path(shutil.copytree(folder, tmp_path / folder.name))


@pytest.fixture
def narrow_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The served networks with few channels, whitened by few images: tests that train them are about the training."""
    monkeypatch.setattr("training.start.WHITENING_IMAGES", 200)
    narrow = partial(PlainCNN, widths=(16, 16, 16))
    monkeypatch.setitem(ARCHITECTURES, "plain-cnn", narrow)
    monkeypatch.setitem(ARCHITECTURES, "plain-cnn-small", partial(narrow, depths=(2, 3, 3)))
    monkeypatch.setitem(ARCHITECTURES, "excited-cnn-small", partial(narrow, depths=(2, 3, 3), excited=True))
    monkeypatch.setitem(ARCHITECTURES, "speed-cnn", partial(narrow, patch=2, directions=12, smooth=True))

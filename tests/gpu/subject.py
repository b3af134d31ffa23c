"""The model under test: its files, sessions on them, and pictures for them."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from service import cuda
from service.binding import BoundBatch
from service.metadata import FileRecord, ModelMetadata, Precision
from service.providers import PROVIDERS, open_session
from service.types import Rows
from tests.gpu.report import Row
from tests.gpu.steps import Options, Skip

ROUNDS, ROUND_S, WARM_UPS = 9, 0.06, 5


@dataclass
class Context:
    """What a step knows."""

    options: Options
    rows: dict[str, list[Row]] = field(default_factory=dict)  # of the steps before it

    @property
    def work(self) -> Path:
        """A folder that steps share."""
        path = Path(self.options.work).resolve()
        path.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def without_cuda(self) -> str | None:
        """Why there is no CUDA here, or None."""
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            return "this build of ONNX Runtime has no CUDA"
        return cuda.missing()

    def need_cuda(self) -> None:
        """Raise `Skip` where there is none."""
        if reason := self.without_cuda:
            raise Skip(reason)

    @property
    def device(self) -> str:
        """What this machine runs models on."""
        return "cpu" if self.without_cuda else "cuda"


class Timing(NamedTuple):
    """How long one call takes, over rounds of calls."""

    median_s: float
    spread: float  # interquartile range over median


def timed(call: Callable[[], object], *, small: bool = False) -> Timing:
    """Seconds of one call, which must not return before the device has finished."""
    for _ in range(WARM_UPS):
        call()
    began = time.perf_counter()
    call()
    calls = max(1, round((ROUND_S / 6 if small else ROUND_S) / max(time.perf_counter() - began, 1e-7)))
    rounds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(calls):
            call()
        rounds.append((time.perf_counter() - began) / calls)
    low, median, high = np.percentile(rounds, (25, 50, 75)).tolist()
    return Timing(median, (high - low) / median)


def model_folder(context: Context) -> Path:
    """models/<name>/<version> with an fp16 file: the given one, or a copy that has one made from its fp32 file."""
    given = Path(context.options.model)
    metadata = ModelMetadata.read(given)
    if "fp16" in metadata.files:
        return given
    made = context.work / "models" / metadata.name / metadata.version
    if not (made / "metadata.json").is_file():
        shutil.copytree(given, made, dirs_exist_ok=True)
        to_fp16(given / metadata.files["fp32"].name, made / "model.fp16.onnx")
        fp16 = FileRecord.of(made / "model.fp16.onnx")
        metadata.model_copy(update={"files": {**metadata.files, "fp16": fp16}}).write(made)
    return made


def model_file(context: Context, precision: Precision) -> Path:
    """One of its files."""
    folder = model_folder(context)
    return folder / ModelMetadata.read(folder).files[precision].name


def to_fp16(source: Path, target: Path) -> None:
    """The network of an fp32 file with its weights and arithmetic in float16, and its softmax in float32."""
    model = onnx.load(source)
    graph = model.graph
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
    (place,) = (i for i, node in enumerate(graph.node) if node.op_type == "Softmax")
    logits = graph.node[place].input[0]
    graph.node[place].input[0] = f"{logits}_float"
    graph.node.insert(place, helper.make_node("Cast", [logits], [f"{logits}_float"], to=TensorProto.FLOAT))
    del graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, str(target))


def session(
    context: Context, precision: Precision, changes: dict[str, str] | None = None, device: str | None = None
) -> onnxruntime.InferenceSession:
    """A session as the service opens it, with some of CUDA's options `changes`d."""
    PROVIDERS["cuda"] = replace(PROVIDERS["cuda"], options={**cuda.OPTIONS, **(changes or {})})
    return open_session({precision: model_file(context, precision)}, device or context.device, precision, 0).session


def bound(context: Context, of: onnxruntime.InferenceSession, size: int) -> BoundBatch:
    """A batch of `size` pictures on the device, filled and run once."""
    rows = generated(size)
    batch = BoundBatch(of, context.device, rows.shape[1:], size)
    batch.run(rows)
    return batch


def generated(count: int) -> Rows:
    """Pictures of nothing in particular, uint8 (N, 32, 32, 3): smooth, as photographs are, and noisy."""
    random = np.random.default_rng(count)
    coarse = random.integers(0, 256, (count, 4, 4, 3)).repeat(8, 1).repeat(8, 2)
    return (coarse + random.normal(0, 20, (count, 32, 32, 3))).clip(0, 255).astype(np.uint8)


def pictures(context: Context) -> tuple[Rows, npt.NDArray[np.int64] | None]:
    """The test images and their labels, or generated ones without."""
    most = 256 if context.options.small else 10_000
    if (given := context.options.data) is None:
        return generated(min(most, 2_000)), None
    if given.endswith(".npz"):
        with np.load(given) as arrays:
            return arrays["images"][:most], arrays["labels"][:most].astype(np.int64)
    from training.data import load_test_split  # it needs torch

    split = load_test_split(Path(given))
    return split.images.numpy()[:most], split.labels.numpy()[:most]


def gpu_memory_mib() -> float | None:
    """Memory that is taken on the GPU, by whomever; None where nobody can say."""
    try:
        said = subprocess.run(
            ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        return float(said.splitlines()[0])
    except (OSError, ValueError, IndexError, subprocess.CalledProcessError):
        return None

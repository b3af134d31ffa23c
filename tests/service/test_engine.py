"""The session: on the provider that was asked for, warmed, and honest about failures."""

from __future__ import annotations

import asyncio
import math
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from service.engine import Engine
from service.errors import DeviceLost, InferenceFailed, OutOfMemory, StartupError
from service.providers import PROVIDERS
from service.types import Probabilities, Rows
from tests.conftest import RGB, SIZE, colour_probabilities


def open_engine(file: Path, **changes: str | int | None) -> Engine:
    options: dict[str, Any] = {
        "device": "cpu", "classes": 3, "height": SIZE, "width": SIZE, "max_batch_size": 8, "threads": 1
    }  # fmt: skip
    return Engine({"fp32": file}, **{**options, **changes})


@pytest.fixture
def model_file(models_dir: Path) -> Path:
    return models_dir / "colours" / "1" / "model.onnx"


@pytest.mark.parametrize("count", [1, 3, 8])
def test_probabilities_come_back_in_order(model_file: Path, count: int) -> None:
    rows = np.random.default_rng(count).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)
    assert np.abs(open_engine(model_file).infer(rows) - colour_probabilities(rows)).max() < 1e-6


@pytest.fixture
def bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU as if it were a device with memory of its own: fixed sizes, padding, bound buffers."""
    row = replace(PROVIDERS["cpu"], memory="cpu", batch_sizes=PROVIDERS["cuda"].batch_sizes)
    monkeypatch.setitem(PROVIDERS, "cpu", row)


@pytest.mark.usefixtures("bound")
def test_a_device_with_memory_sees_only_its_batch_sizes(model_file: Path) -> None:
    engine = open_engine(model_file)
    engine.warm_up()
    assert engine.padded_sizes == (1, 8)
    for count in (5, 1, 8, 3):  # fewer rows after more: nothing of the larger batch may be left
        rows = np.random.default_rng(count).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)
        assert np.abs(engine.infer(rows) - colour_probabilities(rows)).max() < 1e-6
    assert set(engine._bound) == {1, 8}


@pytest.mark.usefixtures("bound")
def test_an_answer_stays_what_it_was_when_its_buffer_is_used_again(model_file: Path) -> None:
    engine = open_engine(model_file)
    first, second = (np.full((1, SIZE, SIZE, 3), RGB[colour], np.uint8) for colour in ("red", "blue"))
    answer = engine.infer(first)
    engine.infer(second)
    assert np.array_equal(answer, engine.infer(first))


def test_onnx_runtime_reports_to_nobody(model_file: Path) -> None:
    """Where it does, it says that it can't keep the number it gives this machine: there is no place for it here."""
    program = f"import service, onnxruntime; onnxruntime.InferenceSession({str(model_file)!r})"
    places = {"HOME": "/proc/none", "XDG_CACHE_HOME": "/proc/none"}
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **places}, capture_output=True, text=True, check=True
    )
    assert "telemetry" not in done.stderr


def test_short_inferences_run_on_the_loop_and_long_ones_on_a_thread(
    model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine(model_file)
    threads: list[str] = []
    infer = engine._infer

    def recorded(rows: Rows) -> Probabilities:
        threads.append(threading.current_thread().name.partition("_")[0])
        return infer(rows)

    monkeypatch.setattr(engine, "_infer", recorded)
    monkeypatch.setattr(engine, "_inline_rows", 4)
    for count in (4, 5):
        asyncio.run(engine.run(np.zeros((count, SIZE, SIZE, 3), np.uint8)))
    assert threads == ["MainThread", "engine"]


def clocked(engine: Engine, seconds: Mapping[int, float], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The engine takes so long for so many rows; which sizes it has run, in order."""
    sizes: list[int] = []

    def time_of(rows: Rows, _worthwhile: float) -> float:
        sizes.append(len(rows))
        return seconds[len(rows)]

    monkeypatch.setattr(engine, "_time", time_of)
    engine.warm_up()
    return list(dict.fromkeys(sizes))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux gives each thread a priority of its own")
def test_work_that_can_wait_gives_way_to_requests(model_file: Path) -> None:
    engine, rows = open_engine(model_file), np.zeros((3, SIZE, SIZE, 3), np.uint8)
    assert engine.background
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert engine.background.submit(os.getpriority, os.PRIO_PROCESS, 0).result() == min(own + 10, 19)
    assert np.array_equal(asyncio.run(engine.run_in_background(rows)), engine.infer(rows))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux gives each thread a priority of its own")
def test_it_gives_way_in_a_process_that_gives_way_itself() -> None:
    """Started with `nice -n 15`, where only root might set it to 10."""
    program = (
        "import os; from service.engine import background_thread; os.nice(15 - os.getpriority(os.PRIO_PROCESS, 0))\n"
        "print(background_thread(1).submit(os.getpriority, os.PRIO_PROCESS, 0).result(), os.nice(0))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "19 15\n"


def test_inferences_on_several_threads_have_no_background(model_file: Path) -> None:
    assert open_engine(model_file, threads=2).background is None


def test_small_sizes_are_measured_until_they_are_not_short_any_more(
    model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine(model_file)
    assert clocked(engine, {1: 0.001, 2: 0.003, 4: 0.005}, monkeypatch) == [1, 2, 4]
    assert engine._inline_rows == 2
    assert engine.max_batch_size == 8  # as demanded, whatever it costs


@pytest.mark.parametrize(("worthwhile", "runs"), [(0.3, 3), (0.25, 2), (math.inf, 3)])
def test_a_size_that_can_not_be_worthwhile_is_not_measured_further(
    model_file: Path, monkeypatch: pytest.MonkeyPatch, worthwhile: float, runs: int
) -> None:
    engine, ends = open_engine(model_file), iter([0.0, 0.9, 1.0, 1.25, 2.0, 2.25])  # 0.9 s at first, then 0.25
    monkeypatch.setattr(engine, "infer", lambda _rows: None)
    monkeypatch.setattr("service.engine.time.perf_counter", lambda: next(ends))
    assert engine._time(np.zeros((64, SIZE, SIZE, 3), np.uint8), worthwhile) == 0.25
    assert len(list(ends)) == 6 - 2 * runs


def test_batches_end_where_larger_ones_save_nothing(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_engine(model_file, max_batch_size=None)
    per_row = {1: 0.5, 2: 0.4, 4: 0.41, 8: 0.3, 16: 0.31, 32: 0.32, 64: 0.32, 128: 0.1}  # ms
    ran = clocked(engine, {size: size * ms / 1000 for size, ms in per_row.items()}, monkeypatch)
    assert ran == [1, 2, 4, 8, 16, 32, 64]
    assert engine.max_batch_size == 16


def test_a_size_that_is_measured_is_at_most_the_devices_largest(
    model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine(model_file, max_batch_size=None)
    clocked(engine, {1 << power: 0.001 for power in range(8)}, monkeypatch)
    assert engine.max_batch_size == 128


def test_no_batch_is_tried_that_would_take_long(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_engine(model_file, max_batch_size=None)
    assert clocked(engine, {1 << power: 0.01 * (1 << power) for power in range(8)}, monkeypatch) == [1, 16]
    assert engine.max_batch_size == 16


@pytest.mark.parametrize(("ms", "best"), [(3.2, 32), (3.4, 16)])
def test_what_forming_a_batch_costs_is_part_of_what_a_larger_one_saves(
    model_file: Path, monkeypatch: pytest.MonkeyPatch, ms: float, best: int
) -> None:
    engine = open_engine(model_file, max_batch_size=None)
    seconds = {1: 0.0001, 2: 0.0002, 4: 0.0004, 8: 0.0008, 16: 0.0016, 32: ms / 1000, 64: 1.0, 128: 1.0}
    clocked(engine, seconds, monkeypatch)
    assert engine.max_batch_size == best


@pytest.mark.usefixtures("bound")
def test_a_device_with_memory_pads_to_the_sizes_that_are_left(
    model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine(model_file, max_batch_size=None)
    clocked(engine, {1: 0.001, 8: 0.001, 32: 0.001, 128: 0.005}, monkeypatch)
    assert (engine.max_batch_size, engine.padded_sizes) == (32, (1, 8, 32))
    rows = np.random.default_rng(0).integers(0, 256, (20, SIZE, SIZE, 3), np.uint8)
    assert np.abs(engine.infer(rows) - colour_probabilities(rows)).max() < 1e-6


class Failing:
    """A session whose given calls fail so."""

    def __init__(self, session: onnxruntime.InferenceSession, calls: set[int], error: str) -> None:
        self._session, self._calls, self._error, self.count = session, calls, error, 0

    def run(self, outputs: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        self.count += 1
        if self.count in self._calls:
            raise RuntimeError(self._error)
        results: list[np.ndarray] = self._session.run(outputs, inputs)
        return results


@pytest.mark.parametrize(("failing", "lost"), [({1}, False), ({1, 2}, True)])
def test_a_device_is_lost_when_not_even_a_black_image_works(model_file: Path, failing: set[int], lost: bool) -> None:
    engine, rows = open_engine(model_file), np.zeros((2, SIZE, SIZE, 3), np.uint8)
    engine._session = session = Failing(engine._session, failing, "CUDA failure 700: an illegal memory access")
    with pytest.raises(InferenceFailed) as raised:
        engine.infer(rows)
    assert engine.lost is lost
    assert raised.value.status == (503 if lost else 500)
    if lost:  # nothing is tried on it any more
        with pytest.raises(DeviceLost):
            engine.infer(rows)
        assert session.count == 2


def test_a_device_without_room_is_not_lost(model_file: Path) -> None:
    engine, rows = open_engine(model_file), np.zeros((2, SIZE, SIZE, 3), np.uint8)
    engine._session = session = Failing(
        engine._session, {1, 2}, "Failed to allocate memory for requested buffer of size 939524096"
    )
    for _ in range(2):
        with pytest.raises(OutOfMemory):
            engine.infer(rows)
    assert (engine.lost, session.count) == (False, 2)
    assert len(engine.infer(rows)) == 2


@pytest.mark.usefixtures("bound")
def test_a_device_is_used_from_one_thread_alone(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_engine(model_file)
    threads: set[str] = set()
    run = engine._run

    def recorded(rows: Rows) -> Probabilities:
        threads.add(threading.current_thread().name)
        return run(rows)

    monkeypatch.setattr(engine, "_run", recorded)
    engine.warm_up()
    row = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    engine.infer(row)
    asyncio.run(engine.run(row))
    assert threads == {"engine_0"}
    assert engine.background is None


@pytest.mark.parametrize(("change", "what"), [({"classes": 4}, "output"), ({"height": 9}, "input")])
def test_a_graph_that_is_not_what_the_metadata_says_is_refused(
    model_file: Path, change: dict[str, int], what: str
) -> None:
    with pytest.raises(StartupError, match=f"The model's {what}"):
        open_engine(model_file, **change)


def test_a_runtime_error_becomes_inference_failed(model_file: Path) -> None:
    with pytest.raises(InferenceFailed):
        open_engine(model_file).infer(np.zeros((1, 2, 2, 3), np.uint8))


def test_another_number_of_rows_is_no_answer(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, rows = open_engine(model_file), np.zeros((3, SIZE, SIZE, 3), np.uint8)
    run = engine._run
    monkeypatch.setattr(engine, "_run", lambda rows: run(rows)[:-1])
    with pytest.raises(InferenceFailed, match="no valid probabilities"):
        engine.infer(rows)


def test_nan_is_no_probability(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x", "axes"], ["means"], keepdims=0),
        helper.make_node("Div", ["means", "means"], ["probabilities"]),  # 0 / 0 for black
    ]
    graph = helper.make_graph(
        nodes,
        "nan",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 3])],
        [onnx.numpy_helper.from_array(np.array([1, 2], np.int64), "axes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save_model(model, str(tmp_path / "model.onnx"))
    with pytest.raises(InferenceFailed):
        open_engine(tmp_path / "model.onnx").infer(np.zeros((1, SIZE, SIZE, 3), np.uint8))

"""Buffers of one batch size, on the CPU's memory as if it were a device's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

from service.binding import BoundBatch
from tests.conftest import SIZE, colour_probabilities


def test_what_is_run_again_is_what_the_device_holds(models_dir: Path) -> None:
    session = onnxruntime.InferenceSession(
        str(models_dir / "colours" / "1" / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    batch = BoundBatch(session, "cpu", (SIZE, SIZE, 3), 4)
    for count in (4, 2):
        rows = np.random.default_rng(count).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)
        answer = batch.run(rows)
        assert np.abs(answer - colour_probabilities(rows)).max() < 1e-6
        batch.compute()
        assert np.array_equal(batch._output.numpy()[:count], answer)

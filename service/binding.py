"""One batch size on a device → probabilities: buffers there that are filled, run and read again and again."""

from __future__ import annotations

import numpy as np
import onnxruntime

from service.metadata import INPUT, OUTPUT
from service.types import Probabilities, Rows


class BoundBatch:
    """The buffers of one batch size. Their addresses never change, which is what CUDA graphs ask for."""

    def __init__(
        self, session: onnxruntime.InferenceSession, memory: str, row_shape: tuple[int, ...], size: int, gpu: int = 0
    ) -> None:
        """`memory` is the kind of device that runs `session`, `gpu` which one of them."""
        (output,) = session.get_outputs()
        self._session, self._rows = session, np.zeros((size, *row_shape), np.uint8)
        self._input = onnxruntime.OrtValue.ortvalue_from_numpy(self._rows, memory, gpu)
        self._output = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
            (size, output.shape[1]), np.float32, memory, gpu
        )
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(INPUT, self._input)
        self._binding.bind_ortvalue_output(OUTPUT, self._output)
        self._options = onnxruntime.RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", str(size))  # where graphs are on, each size has its own

    def run(self, rows: Rows) -> Probabilities:
        """The probabilities of `rows`, of which there may be fewer than the batch has room for."""
        self._rows[: len(rows)] = rows  # what is left of earlier batches below them is inferred and thrown away
        self._input.update_inplace(self._rows)
        self.compute()
        probabilities: Probabilities = self._output.numpy()[: len(rows)].copy()
        return probabilities

    def compute(self) -> None:
        """Run on what the device's buffer holds, and wait for the end: what of `run` is the device's part."""
        self._session.run_with_iobinding(self._binding, self._options)

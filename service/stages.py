"""One row → what every stage of the network makes of it, on the CPU and in fp32, whatever it is served on.

The session is opened by the first call: most processes never need it, and it holds the weights once more. A file that
is not what was verified at the start any more, or can't be run, raises `InferenceFailed`.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnxruntime

from service.errors import InferenceFailed
from service.metadata import INPUT, FileRecord, Stage, Stages
from service.types import Rows

Activations: TypeAlias = npt.NDArray[np.float32]  # (C, H, W)
logger = logging.getLogger(__name__)


class StageViewer:
    """The stages of one version of a model; for one thread at a time."""

    def __init__(self, folder: Path, model: FileRecord, stages: Stages | None) -> None:
        """`model` is the record of the fp32 file in `folder`; raises `ValueError` when the stages' is not whole."""
        self._folder, self._model, self._stages = folder, model, stages
        self._session: onnxruntime.InferenceSession | None = None
        if stages:
            stages.file.verify(folder)

    def view(self, row: Rows) -> list[tuple[Stage, Activations]]:
        """Each stage, in the order in which they run, with its output for a row uint8 (1, H, W, 3)."""
        if self._stages is None:
            return []
        try:
            outputs = self._opened(self._stages).run([stage.tensor for stage in self._stages.shown], {INPUT: row})
        except Exception as exc:  # onnxruntime's exceptions have no common ancestor but this
            logger.exception("the stages of %s can't be shown", self._folder)
            raise InferenceFailed(
                "The model's stages can't be shown; tell the operator the request id: the log says why."
            ) from exc
        return [(stage, output[0]) for stage, output in zip(self._stages.shown, outputs, strict=True)]

    def _opened(self, stages: Stages) -> onnxruntime.InferenceSession:
        if self._session is None:
            files = (self._model, stages.file)
            model = b"".join(file.verify(self._folder).read_bytes() for file in files)  # protobuf reads both as one
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3  # errors only
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return self._session

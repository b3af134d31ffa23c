"""Nodes of an ONNX graph, one after another, and the constants among their inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper


class Nodes:
    """Nodes that follow each other, and their constants; names that are not given begin with `prefix`."""

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, kind: str, *inputs: str, named: str | None = None, **attributes: int | str | Sequence[int]) -> str:
        """One more; returns the name of its output."""
        name = f"{self._prefix}{kind}_{len(self.nodes)}"
        output = named or name
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name, **attributes))  # type: ignore[arg-type]  # none of them is one of its own arguments
        return output

    def constant(self, values: npt.ArrayLike, *, named: str | None = None, dtype: npt.DTypeLike = np.float32) -> str:
        """Numbers in that format; returns their name."""
        name = named or f"{self._prefix}constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

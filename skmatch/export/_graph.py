"""`Graph`: an ONNX graph that is written operator by operator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from skmatch._version import __version__

OPSET, IR_VERSION = 20, 10  # onnxruntime reads these since 1.18
SHARED = 16  # equal constants of fewer numbers are stored once
MAX_FILE = (
    2**30
)  # bytes of weights; more weights go to a file beside the graph, as protobuf ends at 2 GiB


class Graph:
    """An ONNX graph: each call adds an operator and returns the name of its output."""

    def __init__(self, name: str):
        self.name = name
        self.nodes: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.weights: list[Any] = []
        self._constants: dict[tuple, str] = {}

    def input(self, name: str, dtype: type, *shape: str | int) -> str:
        """Add an input; names in the shape stand for any size."""
        self.inputs.append(_value(name, dtype, shape))
        return name

    def output(self, result: str, name: str, dtype: type, *shape: str | int) -> None:
        """Name a result as an output."""
        self.nodes.append(helper.make_node("Identity", [result], [name]))
        self.outputs.append(_value(name, dtype, shape))

    def constant(self, value: Any, dtype: type = np.float32) -> str:
        """Return the name of an array; equal small arrays share a name."""
        array = np.ascontiguousarray(value, dtype=dtype).reshape(np.shape(value))
        key = (array.tobytes(), array.shape, array.dtype) if array.size < SHARED else None
        if key in self._constants:
            return self._constants[key]
        name = f"constant_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        if key is not None:
            self._constants[key] = name
        return name

    def __call__(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def axes(self, *numbers: int) -> str:
        return self.constant(numbers, np.int64)

    def save(self, path: Path) -> None:
        """Write the model."""
        graph = helper.make_graph(self.nodes, self.name, self.inputs, self.outputs, self.weights)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="skmatch",
            producer_version=__version__,
        )
        onnx.checker.check_model(model)
        is_large = sum(len(weight.raw_data) for weight in self.weights) > MAX_FILE
        onnx.save_model(model, path, save_as_external_data=is_large, location=f"{path.name}.data")


def _value(name: str, dtype: type, shape: tuple) -> Any:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, kind, shape)

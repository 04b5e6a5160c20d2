"""Writes a small, real TFLite file: one fully connected layer, with or without a free batch."""

from __future__ import annotations

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema


def dense(weights: np.ndarray, bias: np.ndarray, *, free_batch: bool) -> bytes:
    """``y = x @ weights + bias``: x float32 [batch, in], y float32 [batch, out]; batch is 1 where it is not free."""
    wide, classes = weights.shape

    def tensor(name: str, shape: list[int], buffer: int, free: bool = False) -> schema.TensorT:
        made = schema.TensorT()
        made.name, made.shape, made.buffer, made.type = name.encode(), shape, buffer, schema.TensorType.FLOAT32
        if free:
            made.shapeSignature = [-1, *shape[1:]]
        return made

    def buffer(data: np.ndarray | None) -> schema.BufferT:
        made = schema.BufferT()
        if data is not None:
            made.data = np.frombuffer(data.astype(np.float32).tobytes(), np.uint8)
        return made

    layer = schema.OperatorT()
    layer.opcodeIndex, layer.inputs, layer.outputs = 0, [0, 1, 2], [3]
    layer.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    layer.builtinOptions = schema.FullyConnectedOptionsT()
    graph = schema.SubGraphT()
    graph.tensors = [
        tensor("x", [1, wide], 0, free_batch),
        tensor("w", [classes, wide], 1),
        tensor("b", [classes], 2),
        tensor("y", [1, classes], 0, free_batch),
    ]
    graph.inputs, graph.outputs, graph.operators = [0], [3], [layer]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    code.version = 1
    model = schema.ModelT()
    model.version, model.subgraphs, model.operatorCodes = 3, [graph], [code]
    model.buffers = [buffer(None), buffer(weights.T.copy()), buffer(bias)]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())

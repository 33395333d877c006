"""What TensorRT's ONNX reader does not take, said in another way; results stay the same."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_AXIS = "tensorrt_first_axis"


def adapted(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` for TensorRT.

    HU come in as half instead of int16, which TensorRT has not: half is exact for whole numbers up to 2048, and
    every window ends far below. A softmax over a vector gets a leading axis, since TensorRT wants two.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in copy.graph.input:
        if value.type.tensor_type.elem_type == TensorProto.INT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    ranks = {o.name: len(o.type.tensor_type.shape.dim) for o in copy.graph.output}
    nodes = []
    for node in copy.graph.node:
        if node.op_type == "Softmax" and ranks.get(node.output[0]) == 1:
            nodes += _with_leading_axis(node)
        else:
            nodes.append(node)
    if len(nodes) > len(copy.graph.node):
        copy.graph.initializer.append(numpy_helper.from_array(np.array([0], dtype=np.int64), _AXIS))
        del copy.graph.node[:]
        copy.graph.node.extend(nodes)
    return copy


def _with_leading_axis(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    source, target = node.input[0], node.output[0]
    return [
        helper.make_node("Unsqueeze", [source, _AXIS], [f"{target}__row"]),
        helper.make_node("Softmax", [f"{target}__row"], [f"{target}__softmax"], axis=1),
        helper.make_node("Squeeze", [f"{target}__softmax", _AXIS], [target]),
    ]

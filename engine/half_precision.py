"""An ONNX graph in half precision, typed throughout: what TensorRT's strongly typed networks are built from.

Convolutions and matrix products with weights run in half; what only moves or joins their results follows them.
Everything else stays in float32: window and resize of HU, means, sums, softmax, divisions and the attention of the
patient network, where half overflows or loses.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

_STARTS = frozenset({"BatchNormalization", "Conv", "Gemm"})
"""Run in half whatever comes in."""

_FOLLOWS = frozenset(
    {
        "Add",
        "AveragePool",
        "Concat",
        "Expand",
        "GatherND",
        "Identity",
        "MaxPool",
        "Mul",
        "Relu",
        "Reshape",
        "Resize",
    }
    | {"Sigmoid", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)
"""Run in half where their first float input is half already."""

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` (weights inside, float32 or half with a Cast behind) in half precision.

    Inputs and outputs keep their types. Raises ValueError when a weight does not fit into half.
    """
    return _Halving(model).result()


class _Halving:
    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = onnx.shape_inference.infer_shapes(model)
        graph = self._model.graph
        self._constants = {t.name: t for t in graph.initializer}
        values = [*graph.value_info, *graph.input, *graph.output]
        self._types = {v.name: v.type.tensor_type.elem_type for v in values}
        self._types.update({t.name: t.data_type for t in graph.initializer})
        self._made: dict[tuple[str, int], str] = {}
        self._used: dict[str, TensorProto] = {}
        self._nodes: list[NodeProto] = []

    def result(self) -> onnx.ModelProto:
        graph = self._model.graph
        outputs = {o.name: o.type.tensor_type.elem_type for o in graph.output}
        for node in graph.node:
            if node.op_type == "Cast" and node.input[0] in self._constants:
                self._fold(node)
                continue
            self._typed(node)
        renamed = self._restored(outputs)
        result = helper.make_model(
            helper.make_graph(
                [*self._nodes, *renamed], graph.name, graph.input, graph.output, list(self._used.values())
            ),
            opset_imports=self._model.opset_import,
            ir_version=self._model.ir_version,
        )
        onnx.checker.check_model(result)
        return result

    def _fold(self, node: NodeProto) -> None:
        """A weight behind a Cast is that weight: its type is settled where it is used."""
        source, name = self._constants[node.input[0]], node.output[0]
        to = next(a.i for a in node.attribute if a.name == "to")
        values = numpy_helper.to_array(source).astype(helper.tensor_dtype_to_np_dtype(to))
        self._constants[name] = numpy_helper.from_array(values, name)
        self._types[name] = to

    def _typed(self, node: NodeProto) -> None:
        floats = [name for name in node.input if name and self._types.get(name) in _FLOATS]
        half = bool(floats) and self._in_half(node, floats)
        wanted = TensorProto.FLOAT16 if half else TensorProto.FLOAT
        copy = NodeProto()
        copy.CopyFrom(node)
        for i, name in enumerate(node.input):
            # The scales and region of a Resize stay float32 in any case.
            settled = name in floats and not (node.op_type == "Resize" and i > 0)
            copy.input[i] = self._as(name, wanted) if settled else self._kept(name)
        self._nodes.append(copy)
        if half:
            for name in node.output:
                if self._types.get(name) == TensorProto.FLOAT:
                    self._types[name] = TensorProto.FLOAT16

    def _in_half(self, node: NodeProto, floats: list[str]) -> bool:
        if node.op_type in _STARTS:
            return True
        computed = [name for name in floats if name not in self._constants]
        return node.op_type in _FOLLOWS and any(self._types[name] == TensorProto.FLOAT16 for name in computed)

    def _kept(self, name: str) -> str:
        if name in self._constants:
            self._used[name] = self._constants[name]
        return name

    def _as(self, name: str, wanted: int) -> str:
        """The name of `name` in type `wanted`: itself, a converted weight, or a Cast."""
        if self._types[name] == wanted:
            return self._kept(name)
        if (name, wanted) not in self._made:
            copy = f"{name}__{'half' if wanted == TensorProto.FLOAT16 else 'float'}"
            self._made[name, wanted] = copy
            if name in self._constants:
                self._used[copy] = _converted(self._constants[name], copy, wanted)
            else:
                self._nodes.append(helper.make_node("Cast", [name], [copy], to=wanted))
        return self._made[name, wanted]

    def _restored(self, outputs: dict[str, int]) -> list[NodeProto]:
        """Outputs that became half, cast back under their own name."""
        casts = []
        for name, kind in outputs.items():
            if self._types.get(name) == TensorProto.FLOAT16 and kind == TensorProto.FLOAT:
                inner = f"{name}__inner"
                for node in self._nodes:
                    node.input[:] = [inner if n == name else n for n in node.input]
                    node.output[:] = [inner if n == name else n for n in node.output]
                casts.append(helper.make_node("Cast", [inner], [name], to=kind))
        return casts


def _converted(tensor: TensorProto, name: str, wanted: int) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    if wanted == TensorProto.FLOAT16 and values.size and np.abs(values).max() > np.finfo(np.float16).max:
        raise ValueError(f"weight {tensor.name} does not fit into half precision")
    return numpy_helper.from_array(values.astype(helper.tensor_dtype_to_np_dtype(wanted)), name)

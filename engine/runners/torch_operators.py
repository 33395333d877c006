"""The ONNX operators (opset 18) that the graphs of a model package use, in torch.

Each function takes the node's inputs (None where one is left out) and its attributes, and gives a tensor or a
tuple of tensors. Shapes travel as int64 tensors in host memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Attributes = Mapping[str, Any]
Operator = Callable[..., Any]

# By ONNX's numbers of TensorProto.DataType.
DTYPES = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    16: torch.bfloat16,
}


def _together(*tensors: Tensor) -> list[Tensor]:
    """On one device: that of the first tensor which is not in host memory."""
    device = next((t.device for t in tensors if t.device.type != "cpu"), torch.device("cpu"))
    return [t.to(device) for t in tensors]


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    def operator(a: Attributes, x: Tensor, y: Tensor) -> Tensor:
        return function(*_together(x, y))

    return operator


def _unary(function: Callable[[Tensor], Tensor]) -> Operator:
    def operator(a: Attributes, x: Tensor) -> Tensor:
        return function(x)

    return operator


def _divide(x: Tensor, y: Tensor) -> Tensor:
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


def _axes(a: Attributes, axes: Tensor | None, rank: int) -> list[int]:
    if axes is not None:
        return [int(axis) for axis in axes.tolist()]
    return list(a.get("axes", range(rank)))


def _reduce(function: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    def operator(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
        return function(x, _axes(a, axes, x.ndim), bool(a.get("keepdims", 1)))

    return operator


def _pads(a: Attributes) -> tuple[int, int]:
    top, left, bottom, right = a.get("pads", [0, 0, 0, 0])
    if (top, left) != (bottom, right):
        raise NotImplementedError("uneven padding")
    return top, left


def _convolution(a: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    strides, dilations = tuple(a.get("strides", (1, 1))), tuple(a.get("dilations", (1, 1)))
    return functional.conv2d(x, weight, bias, strides, _pads(a), dilations, a.get("group", 1))


def _max_pool(a: Attributes, x: Tensor) -> Tensor:
    return functional.max_pool2d(
        x,
        a["kernel_shape"],
        a.get("strides", [1, 1]),
        _pads(a),
        a.get("dilations", [1, 1]),
        bool(a.get("ceil_mode", 0)),
    )


def _average_pool(a: Attributes, x: Tensor) -> Tensor:
    return functional.avg_pool2d(
        x,
        a["kernel_shape"],
        a.get("strides", [1, 1]),
        _pads(a),
        bool(a.get("ceil_mode", 0)),
        bool(a.get("count_include_pad", 0)),
    )


def _gemm(a: Attributes, x: Tensor, y: Tensor, bias: Tensor | None = None) -> Tensor:
    x, y = (x.T if a.get("transA") else x), (y.T if a.get("transB") else y)
    product = a.get("alpha", 1.0) * (x @ y)
    return product if bias is None else product + a.get("beta", 1.0) * bias  # type: ignore[no-any-return]


def _batch_normalisation(
    a: Attributes, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    return functional.batch_norm(x, mean, variance, scale, bias, eps=a.get("epsilon", 1e-5))


def _resize(
    a: Attributes, x: Tensor, roi: Tensor | None, scales: Tensor | None, sizes: Tensor | None = None
) -> Tensor:
    if sizes is None and scales is not None:
        target = [int(side * scale) for side, scale in zip(x.shape[2:], scales.tolist()[2:], strict=True)]
    elif sizes is not None:
        target = [int(side) for side in sizes.tolist()][-2:]
    else:
        raise NotImplementedError("Resize without sizes and scales")
    mode = a.get("mode", b"nearest").decode()
    if mode == "linear":
        if a.get("coordinate_transformation_mode", b"half_pixel") not in (
            b"half_pixel",
            b"pytorch_half_pixel",
        ):
            raise NotImplementedError(f"Resize {a['coordinate_transformation_mode'].decode()}")
        return functional.interpolate(x, target, mode="bilinear", align_corners=False)
    raise NotImplementedError(f"Resize mode {mode}")


def _reshape(a: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    wanted = [int(side) for side in shape.tolist()]
    kept = [x.shape[i] if side == 0 and not a.get("allowzero") else side for i, side in enumerate(wanted)]
    return x.reshape(kept)


def _expand(a: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, tuple(int(side) for side in shape.tolist())))  # type: ignore[no-untyped-call]


def _squeeze(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(int(axis) for axis in axes.tolist()))


def _unsqueeze(a: Attributes, x: Tensor, axes: Tensor) -> Tensor:
    rank = x.ndim + axes.numel()
    for axis in sorted(int(axis) % rank for axis in axes.reshape(-1).tolist()):
        x = x.unsqueeze(axis)
    return x


def _split(a: Attributes, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    axis = a.get("axis", 0)
    if sizes is None:
        return tuple(torch.tensor_split(x, a["num_outputs"], dim=axis))
    return torch.split(x, [int(size) for size in sizes.tolist()], dim=axis)


def _slice(
    a: Attributes,
    x: Tensor,
    starts: Tensor,
    ends: Tensor,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    at = range(starts.numel()) if axes is None else axes.tolist()
    by = [1] * starts.numel() if steps is None else steps.tolist()
    window = [slice(None)] * x.ndim
    for axis, first, end, step in zip(at, starts.tolist(), ends.tolist(), by, strict=True):
        window[axis] = slice(first, end, step)
    return x[tuple(window)]


def _gather(a: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    axis = a.get("axis", 0) % x.ndim
    flat = torch.index_select(x, axis, indices.reshape(-1).to(x.device) % x.shape[axis])
    return flat.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def _gather_nd(a: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    if a.get("batch_dims", 0):
        raise NotImplementedError("GatherND with batch_dims")
    return x[tuple(indices.to(x.device).unbind(-1))]


def _clip(a: Attributes, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    return torch.clamp(x, None if low is None else low.item(), None if high is None else high.item())


def _arg_max(a: Attributes, x: Tensor) -> Tensor:
    return torch.argmax(x, dim=a.get("axis", 0), keepdim=bool(a.get("keepdims", 1)))


def _range(a: Attributes, start: Tensor, limit: Tensor, step: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), step.item(), dtype=start.dtype)


def _where(a: Attributes, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    condition, x, y = _together(condition, x, y)
    return torch.where(condition, x, y)


def _largest(a: Attributes, *tensors: Tensor) -> Tensor:
    result, *others = _together(*tensors)
    for other in others:
        result = torch.maximum(result, other)
    return result


OPERATORS: dict[str, Operator] = {
    "Add": _binary(torch.add),
    "And": _binary(torch.logical_and),
    "ArgMax": _arg_max,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalisation,
    "Cast": lambda a, x: x.to(DTYPES[a["to"]]),
    "Clip": _clip,
    "Concat": lambda a, *tensors: torch.cat(_together(*tensors), dim=a["axis"]),
    "Conv": _convolution,
    "Div": _binary(_divide),
    "Equal": _binary(torch.eq),
    "Exp": _unary(torch.exp),
    "Expand": _expand,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Gemm": _gemm,
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": _binary(torch.ge),
    "Identity": _unary(lambda x: x),
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "MatMul": _binary(torch.matmul),
    "Max": _largest,
    "MaxPool": _max_pool,
    "Mod": _binary(torch.remainder),
    "Mul": _binary(torch.mul),
    "Neg": _unary(torch.neg),
    "Not": _unary(torch.logical_not),
    "Or": _binary(torch.logical_or),
    "Pow": _binary(torch.pow),
    "Range": _range,
    "ReduceMax": _reduce(lambda x, axes, keep: torch.amax(x, axes, keep)),
    "ReduceMean": _reduce(lambda x, axes, keep: torch.mean(x, axes, keep)),
    "ReduceMin": _reduce(lambda x, axes, keep: torch.amin(x, axes, keep)),
    "ReduceSum": _reduce(lambda x, axes, keep: torch.sum(x, axes, keep)),
    "Relu": _unary(torch.relu),
    "Reshape": _reshape,
    "Resize": _resize,
    "Round": _unary(torch.round),
    "Shape": lambda a, x: torch.tensor(x.shape[a.get("start", 0) : a.get("end", None)], dtype=torch.int64),
    "Sigmoid": _unary(torch.sigmoid),
    "Slice": _slice,
    "Softmax": lambda a, x: torch.softmax(x, dim=a.get("axis", -1)),
    "Split": _split,
    "Sqrt": _unary(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _binary(torch.sub),
    "Transpose": lambda a, x: x.permute(a.get("perm", tuple(range(x.ndim))[::-1])),
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}

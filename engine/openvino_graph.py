"""What OpenVINO's CPU plugin computes slowly, said in another way; results stay the same.

The plugin keeps images with the channels innermost. With one grey channel, as the graphs have between HU and the first
convolution and again after the last one, it then handles a pixel at a time: window, resize and normalisation take up to
a third of a graph. Here every channel is a plane [N, H, W] of its own until a convolution wants them together, and an
image is resized with the slices in place of its channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from engine.openvino_offline import opset13 as ops
from engine.openvino_offline import ov

Planes = tuple[Any, ...]
"""The channels of a tensor [N, C, H, W], each an ov.Output of [N, H, W]."""

_MOST_PLANES = 3

_BINARY: Mapping[str, Callable[[Any, Any], Any]] = {
    "Add": ops.add,
    "Subtract": ops.subtract,
    "Multiply": ops.multiply,
    "Divide": ops.divide,
    "Maximum": ops.maximum,
    "Minimum": ops.minimum,
}


def in_planes(model: ov.Model) -> ov.Model:
    """Rewrite `model`, in place: grey images in planes, and no resize to the size that an image has already."""
    _Rewriting().apply(model)
    model.validate_nodes_and_infer_types()
    return model


class _Rewriting:
    def __init__(self) -> None:
        self._planes: dict[str, Planes] = {}
        """By the unique name of the node that joins them."""

    def apply(self, model: ov.Model) -> None:
        for node in model.get_ordered_ops():
            kind = node.get_type_name()
            if kind == "Interpolate" and _keeps_size(node):
                _replace(node.output(0), node.input_value(0))
            elif (planes := self._rewritten(kind, node)) is not None:
                self._join(node, planes)

    def _rewritten(self, kind: str, node: Any) -> Planes | None:
        """The planes that `node` would give; None for a node that stays as it is."""
        if kind == "Interpolate":
            return self._resized(node)
        if kind in _BINARY:
            return self._combined(_BINARY[kind], node)
        if kind == "Sigmoid":
            known = self._known(node.input_value(0))
            return None if known is None else tuple(ops.sigmoid(plane).output(0) for plane in known)
        return self._stacked(node) if kind == "Concat" else None

    def _known(self, value: Any) -> Planes | None:
        return self._planes.get(value.get_node().get_name())

    def _resized(self, node: Any) -> Planes | None:
        image, given = node.input_value(0), node.get_attributes()
        if (
            not _is_grey(image)
            or given["mode"] != "linear_onnx"
            or given["shape_calculation_mode"] != "sizes"
        ):
            return None
        if node.get_input_size() != 2 or any((*given["pads_begin"], *given["pads_end"])):
            return None
        plane = (self._known(image) or (_without_channel(image),))[0]
        sizes = ops.gather(node.input_value(1), _whole([2, 3]), _whole(0))
        resized = ops.interpolate(
            ops.unsqueeze(plane, _whole([0])),
            sizes,
            "linear_onnx",
            "sizes",
            coordinate_transformation_mode=given["coordinate_transformation_mode"],
            axes=_whole([2, 3]),
        )
        return (ops.squeeze(resized, _whole([0])).output(0),)

    def _combined(self, operator: Callable[[Any, Any], Any], node: Any) -> Planes | None:
        """Of a tensor in planes and a constant that is one number for each channel."""
        first, second = node.input_values()
        swapped = self._known(first) is None
        known, constant = self._known(second if swapped else first), first if swapped else second
        numbers = None if known is None else _per_channel(constant)
        if known is None or numbers is None or (len(known) > 1 and len(numbers) not in (1, len(known))):
            return None
        count = max(len(known), len(numbers))
        pairs = (
            (known[k % len(known)], ops.constant(numbers[k % len(numbers)], np.float32)) for k in range(count)
        )
        return tuple(operator(*(pair[::-1] if swapped else pair)).output(0) for pair in pairs)

    def _stacked(self, node: Any) -> Planes | None:
        parts = [self._known(value) for value in node.input_values()]
        if node.get_attributes()["axis"] != 0 or any(part is None or len(part) != 1 for part in parts):
            return None
        return (ops.concat([part[0] for part in parts if part is not None], 0).output(0),)

    def _join(self, node: Any, planes: Planes) -> None:
        """Put planes in the place of what `node` gave."""
        images = [ops.unsqueeze(plane, _whole([1])) for plane in planes]
        joined = images[0] if len(images) == 1 else ops.concat(images, 1)
        self._planes[joined.get_name()] = planes
        _replace(node.output(0), joined.output(0))


def _replace(old: Any, new: Any) -> None:
    names = old.get_names()
    for target in old.get_target_inputs():
        target.replace_source_output(new)
    if any(target.get_node().get_type_name() == "Result" for target in new.get_target_inputs()):
        new.get_tensor().add_names(names)


def _keeps_size(node: Any) -> bool:
    """Whether a resize gives every image in the size that it has, and so as it is."""
    before, after = node.input_value(0).get_partial_shape(), node.get_output_partial_shape(0)
    sides = [(before[axis], after[axis]) for axis in (2, 3)] if before.rank.is_static else []
    return bool(sides) and all(a.is_static and b.is_static and a == b for a, b in sides)


def _is_grey(image: Any) -> bool:
    """Whether it is [N, 1, H, W] of float32."""
    shape = image.get_partial_shape()
    if shape.rank.is_dynamic or len(shape) != 4 or image.get_element_type() != ov.Type.f32:
        return False
    return bool(shape[1].is_static and shape[1].get_length() == 1)


def _without_channel(image: Any) -> Any:
    return ops.squeeze(image, _whole([1])).output(0)


def _per_channel(value: Any) -> list[float] | None:
    """The numbers of a constant that is a scalar, or of shape [C, 1, 1] or [1, C, 1, 1]; None for any other value."""
    node = value.get_node()
    if node.get_type_name() != "Constant" or value.get_element_type() != ov.Type.f32:
        return None
    shape = tuple(value.get_shape())
    whole = (1, 1, 1, 1)[len(shape) :] + shape
    if len(whole) != 4 or (whole[0], whole[2], whole[3]) != (1, 1, 1) or whole[1] > _MOST_PLANES:
        return None
    return [float(number) for number in np.asarray(node.get_data()).ravel()]


_whole = partial(ops.constant, dtype=np.int64)

"""A large first convolution of a grey image in three colours: two channels say the same as three.

Networks made for colour are shown a grey image three times, each time less another mean and over another deviation.
Each of these channels is a h + b of one of them, h, so a convolution of all is one of h with the kernels' weighted sum,
and one of b: of a plane of ones, which the padding ends just as it ends the channels. Two channels take the CPU plugin
two thirds to half the time of three. Sums are rounded in another order, no more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.openvino_offline import opset13 as ops
from engine.openvino_offline import ov

LEAST_KERNEL = 5
"""Rows and columns of the kernels that are worth it: a first convolution of 3x3 is little work, and took as long."""


def grey_once(model: ov.Model) -> ov.Model:
    """Rewrite `model`, in place, whose grey images are in planes (`engine.openvino_graph.in_planes`)."""
    pairs: dict[str, Any] = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Convolution":
            continue
        channels, kernel = _channels(node.input_value(0)), _constant(node.input_value(1))
        if channels is None or kernel is None or min(kernel.shape[2:]) < LEAST_KERNEL:
            continue
        joined = node.input_value(0).get_node().get_name()
        pairs[joined] = pairs.get(joined) or _with_ones(node.input_value(0).get_node())
        weights = np.stack([np.einsum("ochw,c->ohw", kernel, numbers) for numbers in channels], axis=1)
        node.input(0).replace_source_output(pairs[joined])
        node.input(1).replace_source_output(ops.constant(weights.astype(np.float32)).output(0))
    model.validate_nodes_and_infer_types()
    return model


def _channels(image: Any) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None:
    """a and b, each [C], by which channel c is a[c] h + b[c], h being the first; None where they are not so related."""
    join = image.get_node()
    if join.get_type_name() != "Concat" or join.get_attributes()["axis"] != 1 or join.get_input_size() < 3:
        return None
    planes = [value.get_node() for value in join.input_values()]
    if any(plane.get_type_name() != "Unsqueeze" for plane in planes):
        return None
    normalised = [_normalised(plane.input_value(0).get_node()) for plane in planes]
    known = [each for each in normalised if each is not None]
    if len(known) < len(planes) or len({source for source, _, _ in known}) > 1:
        return None
    means, deviations = (np.array(numbers) for numbers in list(zip(*known, strict=True))[1:])
    return deviations[0] / deviations, (means[0] - means) / deviations


def _normalised(node: Any) -> tuple[str, float, float] | None:
    """Of (x - mean) / deviation: the name of x, mean and deviation; None for anything else."""
    if node.get_type_name() != "Divide" or node.input_value(0).get_node().get_type_name() != "Subtract":
        return None
    difference = node.input_value(0).get_node()
    mean, deviation = (_constant(each.input_value(1)) for each in (difference, node))
    if mean is None or deviation is None or mean.size != 1 or deviation.size != 1:
        return None
    source = difference.input_value(0)
    return f"{source.get_node().get_name()}:{source.get_index()}", float(mean.item()), float(deviation.item())


def _constant(value: Any) -> npt.NDArray[np.float64] | None:
    """The numbers of a constant, one kept as half too; None for what is computed."""
    node = value.get_node()
    if node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return np.asarray(node.get_data(), np.float64) if node.get_type_name() == "Constant" else None


def _with_ones(join: Any) -> Any:
    """The first channel of a joined image, and one of ones."""
    first = join.input_value(0)
    ones = ops.broadcast(ops.constant(np.float32(1)), ops.shape_of(first))
    return ops.concat([first, ones], 1).output(0)

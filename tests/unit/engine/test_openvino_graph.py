"""Grey images in planes: the same numbers, and nothing left that the CPU plugin does a pixel at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from engine.openvino_graph import in_planes

MODELS = Path(__file__).parents[3] / "models"
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}


def whole(*values: int) -> Any:
    return ops.constant(np.array(values, dtype=np.int64))


def number(value: float) -> Any:
    return ops.constant(np.float32(value))


def per_channel(*values: float) -> Any:
    return ops.constant(np.array(values, dtype=np.float32).reshape(1, -1, 1, 1))


def resized(image: Any, rows: int, columns: int, channels: int = 1) -> Any:
    sizes = ops.concat(
        [ops.gather(ops.shape_of(image), whole(0), whole(0)), whole(channels, rows, columns)], 0
    )
    return ops.interpolate(image, sizes, "linear_onnx", "sizes", coordinate_transformation_mode="half_pixel")


def model_of(graph: Callable[[Any], Any]) -> ov.Model:
    """A model from int16 `hu` [N, H, W], made grey [N, 1, H, W], to `out`."""
    hu = ops.parameter([-1, -1, -1], np.int16, "hu")
    out = graph(ops.unsqueeze(ops.convert(hu, np.float32), whole(1)))
    out.output(0).get_tensor().set_names({"out"})
    return ov.Model([ops.result(out)], [hu], "grey")


def run(model: ov.Model, hu: np.ndarray) -> dict[str, np.ndarray]:
    request = ov.Core().compile_model(model, "CPU", EXACT).create_infer_request()
    request.infer([hu])
    return {name: np.array(request.get_tensor(p).data) for p in request.model_outputs for name in p.names}


def hounsfield(*shape: int) -> np.ndarray:
    return np.random.default_rng(4).integers(-1100, 300, shape).astype(np.int16)


def windows(grey: Any) -> Any:
    """Three windows stacked, then three channels of each."""
    small = resized(grey, 12, 10)
    stacked = ops.concat([ops.minimum(ops.maximum(number(0), small), number(c)) for c in (1, 40, 90)], 0)
    return ops.divide(ops.subtract(per_channel(0.4, 0.5, 0.6), stacked), per_channel(0.2, 0.3, 0.4))


GRAPHS = {
    "windows": windows,
    "to the end": lambda grey: ops.sigmoid(resized(ops.multiply(grey, number(0.01)), 31, 27)),
    "size kept": lambda grey: resized(resized(grey, 9, 8), 9, 8),
    "between two others": lambda grey: ops.add(
        ops.relu(resized(grey, 9, 8)), ops.multiply(resized(grey, 9, 8), number(2))
    ),
    "four channels": lambda grey: ops.multiply(
        resized(ops.concat([grey] * 4, 1), 9, 8, channels=4), per_channel(1, 2, 3, 4)
    ),
    "an image for a constant": lambda grey: ops.multiply(
        resized(grey, 2, 2), ops.constant(np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2))
    ),
}


@pytest.mark.parametrize("slices", [1, 5])
@pytest.mark.parametrize("graph", GRAPHS)
def test_the_numbers_stay(graph: str, slices: int) -> None:
    hu = hounsfield(slices, 24, 20)
    expected = run(model_of(GRAPHS[graph]), hu)
    found = run(in_planes(model_of(GRAPHS[graph])), hu)
    assert set(found) == {"out"}
    np.testing.assert_allclose(found["out"], expected["out"], rtol=1e-6, atol=1e-6)


def test_nothing_is_left_that_is_grey_and_has_its_channel_inside() -> None:
    model = in_planes(model_of(windows))
    kinds = [op.get_type_name() for op in model.get_ordered_ops() if _channels(op) in (1, 3)]
    assert set(kinds) <= {"Unsqueeze", "Concat", "Result"}


def test_a_resize_to_the_same_size_is_left_out() -> None:
    model = in_planes(model_of(GRAPHS["size kept"]))
    assert sum(op.get_type_name() == "Interpolate" for op in model.get_ordered_ops()) == 1


@pytest.mark.parametrize(
    "graph",
    ["jcs-compact/classify", "jcs-compact/segment", "m3lung-compact/slices", "m3lung-compact/patient"],
)
def test_the_packages_give_the_same_to_the_bit(graph: str) -> None:
    core, path = ov.Core(), MODELS / f"{graph}.onnx"
    width = core.read_model(path).input(0).get_partial_shape()[-1]
    values = hounsfield(2, 96, 112)
    if graph.endswith("patient"):
        values = np.abs(np.random.default_rng(2).normal(size=(7, width.get_length()))).astype(np.float32)
    expected, found = run(core.read_model(path), values), run(in_planes(core.read_model(path)), values)
    assert set(expected) == set(found)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def _channels(op: Any) -> int | None:
    shape = op.get_output_partial_shape(0) if op.get_output_size() else None
    if shape is None or shape.rank.is_dynamic or len(shape) != 4 or shape[0].is_static:
        return None
    return int(shape[1].get_length()) if shape[1].is_static else None

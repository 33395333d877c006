"""The first convolution of a grey image in three colours gives the same from two channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from engine.openvino_graph import in_planes
from engine.openvino_stem import grey_once

MODELS = Path(__file__).parents[3] / "models"
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
MEANS, DEVIATIONS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def per_channel(*values: float) -> Any:
    return ops.constant(np.array(values, dtype=np.float32).reshape(1, -1, 1, 1))


def model(change: Any = None) -> ov.Model:
    """int16 `hu` [N, H, W], normalised to three channels and, but for `change`, convolved by 7x7, 5x5 and 3x3."""
    hu = ops.parameter([-1, -1, -1], np.int16, "hu")
    grey = ops.unsqueeze(ops.convert(hu, np.float32), ops.constant(np.array([1])))
    sizes = ops.constant(np.array([1, 1, 21, 18]))
    grey = ops.interpolate(grey, sizes, "linear_onnx", "sizes", coordinate_transformation_mode="half_pixel")
    grey = ops.divide(grey, per_channel(1000))
    colours = ops.divide(ops.subtract(grey, per_channel(*MEANS)), per_channel(*DEVIATIONS))
    if change is not None:
        colours = change(colours)
    rng = np.random.default_rng(3)
    kernels = [ops.constant(rng.normal(size=(5, 3, k, k)).astype(np.float16)) for k in (7, 5, 3)]
    outs = [
        ops.convolution(colours, ops.convert(kernel, np.float32), [s, s], [p, p], [p, p], [1, 1])
        for kernel, s, p in zip(kernels, (2, 1, 1), (3, 2, 1), strict=True)
    ]
    for k, out in enumerate(outs):
        out.output(0).get_tensor().set_names({f"out{k}"})
    return ov.Model([ops.result(out) for out in outs], [hu], "stem")


def run(graph: ov.Model, hu: np.ndarray) -> dict[str, np.ndarray]:
    request = ov.Core().compile_model(graph, "CPU", EXACT).create_infer_request()
    request.infer([hu])
    return {name: np.array(request.get_tensor(p).data) for p in request.model_outputs for name in p.names}


def read_channels(graph: ov.Model) -> list[int]:
    """Channels that each convolution reads."""
    convolutions = [op for op in graph.get_ordered_ops() if op.get_type_name() == "Convolution"]
    return [op.get_input_partial_shape(0)[1].get_length() for op in convolutions]


def test_large_first_convolutions_read_two_channels_and_the_numbers_stay_also_at_the_rim() -> None:
    hu = np.random.default_rng(4).integers(-1100, 300, (1, 30, 26)).astype(np.int16)
    expected, graph = run(model(), hu), grey_once(in_planes(model()))
    assert sorted(read_channels(graph)) == [2, 2, 3]
    found = run(graph, hu)
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-5 * np.abs(values).max())


def test_channels_that_are_not_one_image_are_left_alone() -> None:
    def stained(colours: Any) -> Any:
        return ops.multiply(colours, ops.relu(colours))

    graph = grey_once(in_planes(model(stained)))
    assert read_channels(graph) == [3, 3, 3]


def test_the_slice_network_gives_the_same() -> None:
    core, path = ov.Core(), MODELS / "m3lung-compact/slices.onnx"
    hu = np.random.default_rng(4).integers(-1100, 300, (2, 96, 112)).astype(np.int16)
    rewritten = grey_once(in_planes(core.read_model(path)))
    assert read_channels(rewritten)[0] == 2
    expected, found = run(in_planes(core.read_model(path)), hu), run(rewritten, hu)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-5)

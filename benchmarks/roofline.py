"""What networks ask of a processor, and what it gives at most: multiply-adds, and the speed of a plain convolution."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

from engine.openvino_offline import opset13 as ops
from engine.openvino_offline import ov
from engine.packages import ModelPackage
from engine.runners.openvino_runner import OpenVINOBackend

CHANNELS, SIDE = 256, 128
"""Of the plain convolution, 3x3, from and to as many channels: 9.7 billion multiply-adds, its weights in the cache."""

_ROUNDS = 9


def multiply_adds(package: ModelPackage, graph: str, shape: tuple[int, ...]) -> float:
    """Of the convolutions and matrix products of one call on an input of `shape`, in billions."""
    model = ov.Core().read_model(package.graph_path(graph))
    model.reshape(list(shape))
    return sum(_products(node) for node in model.get_ordered_ops()) / 1e9


def _products(node: Any) -> int:
    """Multiply-adds of an operation of known shapes; 0 for one that is neither convolution nor matrix product."""
    kind = node.get_type_name()
    if kind not in ("Convolution", "GroupConvolution", "MatMul"):
        return 0
    results = int(np.prod(node.get_output_shape(0), dtype=np.int64))
    if kind == "MatMul":
        inner = node.get_input_shape(0)[-2 if node.get_attributes()["transpose_a"] else -1]
        return results * int(inner)
    kernel = node.get_input_shape(1)
    return results * int(np.prod(kernel[1 if kind == "Convolution" else 2 :], dtype=np.int64))


def attainable(cores: int) -> tuple[str, float]:
    """The precision that the runners take here, and billions of multiply-adds a second of a plain convolution in it.

    The runners have a call on each core: it is measured on one, in processor time, which a busy machine changes little,
    and taken times `cores`.
    """
    core = ov.Core()
    precision = "bf16" if OpenVINOBackend().offers("bf16") else "f32"
    image = ops.parameter([1, CHANNELS, SIDE, SIDE], np.float32)
    kernel = np.random.default_rng(0).normal(size=(CHANNELS, CHANNELS, 3, 3)).astype(np.float32)
    plain = ops.convolution(image, ops.constant(kernel), [1, 1], [1, 1], [1, 1], [1, 1])
    settings = {"INFERENCE_PRECISION_HINT": precision, "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1}
    model = ov.Model([ops.relu(plain)], [image], "plain")
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    values = np.random.default_rng(1).normal(size=(1, CHANNELS, SIDE, SIDE)).astype(np.float32)
    request.infer([values])
    seconds = []
    for _ in range(_ROUNDS):
        start = time.process_time()
        request.infer([values])
        seconds.append(time.process_time() - start)
    done = CHANNELS * CHANNELS * 9 * SIDE * SIDE / 1e9
    return precision, done / statistics.median(seconds) * cores

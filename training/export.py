"""Serving graphs to ONNX; weights lie once, as external data, in one file for all graphs of a package."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper

from training.half_weights import in_both_halves
from training.serving import ServingGraph

WEIGHTS_FILE = "weights.bin"

OPSET = 18

EXTERNAL_FROM_BYTES = 1024
"""Smaller tensors stay inside the graph: shapes and scalars must be readable without the weights."""

ALIGNMENT = 64
"""Bytes that a tensor in the weights file is aligned to, a cache line."""


def to_onnx(graph: ServingGraph) -> onnx.ModelProto:
    """The ONNX model of a serving graph, in evaluation mode, weights inside.

    Batch normalisations right behind a convolution are part of its kernels (torch's exporter folds them). The graph's
    one input has the dynamic axes it declares. The module's mode is restored.
    """
    example = graph.example()
    axes = {i: torch.export.Dim(name, min=1) for i, name in enumerate(graph.dynamic_axes)}
    training = graph.training
    graph.eval()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            program = torch.onnx.export(
                graph,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[graph.input_name],
                output_names=list(graph.output_names),
                dynamic_shapes=(axes,),
                verbose=False,
            )
    finally:
        graph.train(training)
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    model: onnx.ModelProto = program.model_proto
    return model


def store_graphs(directory: Path, models: Mapping[str, onnx.ModelProto], half: bool) -> dict[str, Path]:
    """Write `NAME.onnx` for every model and one `weights.bin` with every distinct tensor stored once.

    Args:
        directory: existing directory.
        models: models with weights inside; they are changed in place.
        half: round float32 matrices and kernels to what bfloat16 and float16 both hold and store them as float16, with
            a Cast to float32 in front of their use. Vectors (biases, statistics of normalisations) stay as they are.

    Returns:
        The graph files by name.

    Raises:
        ValueError: a weight does not fit into half precision.
    """
    weights = _WeightsFile()
    paths: dict[str, Path] = {}
    for name, model in models.items():
        if half:
            _halve(model)
        for tensor in model.graph.initializer:
            weights.move_out(tensor)
        _forget_provenance(model)
        paths[name] = directory / f"{name}.onnx"
        paths[name].write_bytes(model.SerializeToString(deterministic=True))
    (directory / WEIGHTS_FILE).write_bytes(bytes(weights.content))
    return paths


class _WeightsFile:
    """Grows by every tensor content not seen before."""

    def __init__(self) -> None:
        self.content = bytearray()
        self._offsets: dict[bytes, int] = {}

    def move_out(self, tensor: TensorProto) -> None:
        raw = numpy_helper.to_array(tensor).tobytes()
        if len(raw) < EXTERNAL_FROM_BYTES:
            return
        digest = hashlib.sha256(raw).digest()
        if digest not in self._offsets:
            self.content.extend(bytes(-len(self.content) % ALIGNMENT))
            self._offsets[digest] = len(self.content)
            self.content.extend(raw)
        tensor.raw_data = raw
        onnx.external_data_helper.set_external_data(
            tensor, WEIGHTS_FILE, offset=self._offsets[digest], length=len(raw)
        )
        tensor.ClearField("raw_data")
        tensor.ClearField("float_data")


def _halve(model: onnx.ModelProto) -> None:
    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.ndim < 2:
            continue
        name = tensor.name
        try:
            halves = in_both_halves(values)
        except ValueError as error:
            raise ValueError(f"weight {name}: {error}; package with half=False") from error
        if values.nbytes < EXTERNAL_FROM_BYTES:  # not worth a Cast, but computed with all the same
            tensor.CopyFrom(numpy_helper.from_array(halves.astype(np.float32), name))
            continue
        tensor.CopyFrom(numpy_helper.from_array(halves, name + "_half"))
        casts.append(onnx.helper.make_node("Cast", [name + "_half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _forget_provenance(model: onnx.ModelProto) -> None:
    """Drop tracing notes: they hold paths of this machine, so the same weights would hash differently."""
    del model.metadata_props[:]
    model.doc_string = ""
    del model.graph.metadata_props[:]
    for function in model.functions:
        del function.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        del value.metadata_props[:]
        value.doc_string = ""
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
        tensor.doc_string = ""

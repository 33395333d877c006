"""Own models whose networks are plain rules on their input, as a department would package an exported network."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

F = TensorProto.FLOAT
DENSE = {"value": "95436008", "scheme": "SCT", "meaning": "Pulmonary consolidation"}
AIR = {"value": "AIR", "scheme": "99WARD", "meaning": "Aerated lung"}


def network(
    nodes: list[Any],
    constants: dict[str, Any],
    shape: list[Any],
    result: list[Any],
    *,
    kind: int = F,
    names: tuple[str, str] = ("image", "pred"),
) -> bytes:
    """An ONNX graph from one input to one output."""
    initializers = [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    inputs = [helper.make_tensor_value_info(names[0], kind, shape)]
    outputs = [helper.make_tensor_value_info(names[1], F, result)]
    graph = helper.make_graph(nodes, "own", inputs, outputs, initializers)
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()


def identity(*shape: Any) -> bytes:
    """Gives its input, a score in [0, 1] by the window, as its only channel."""
    return network([helper.make_node("Identity", ["image"], ["pred"])], {}, list(shape), list(shape))


def two_channels(*shape: Any) -> bytes:
    """Logits of two channels, (0.5 - x) and (x - 0.5), tenfold: background and foreground."""
    nodes = [
        helper.make_node("Sub", ["image", "half"], ["over"]),
        helper.make_node("Neg", ["over"], ["under"]),
        helper.make_node("Concat", ["under", "over"], ["both"], axis=1),
        helper.make_node("Mul", ["both", "ten"], ["pred"]),
    ]
    constants = {"half": np.float32(0.5), "ten": np.float32(10)}
    return network(nodes, constants, list(shape), [shape[0], 2, *shape[2:]])


def mean_score(*shape: Any) -> bytes:
    """The mean of each item [N, 1, ...] as its score [N, 1]."""
    axes = np.arange(2, len(shape), dtype=np.int64)
    nodes = [helper.make_node("ReduceMean", ["image", "axes"], ["pred"], keepdims=0)]
    return network(nodes, {"axes": axes}, list(shape), [shape[0], 1])


def data_format(sides: list[Any], form: str, *, channels: int = 1, **of_input: Any) -> dict[str, Any]:
    """`network_data_format` as a MONAI bundle has it."""
    image = {
        "type": "image", "format": "hounsfield", "modality": "CT", "num_channels": 1, "spatial_shape": sides,
        "dtype": "float32", "value_range": [0, 1], "is_patch_data": False, "channel_def": {"0": "image"},
    }  # fmt: skip
    pred = {
        "type": "image",
        "format": form,
        "num_channels": channels,
        "spatial_shape": sides,
        "dtype": "float32",
    }
    return {"inputs": {"image": image | of_input}, "outputs": {"pred": pred}}


def dense_lung(**changes: Any) -> dict[str, Any]:
    """Metadata of a slice segmenter of what is denser than -650 HU within the lungs' box; goes with `identity`."""
    return {
        "name": "dense-lung",
        "version": "0.1.0",
        "title": "Dense lung",
        "network_data_format": data_format(["*", "*"], "segmentation"),
        "preprocessing": {"crop": "lungs", "hu_windows": [[-900, -400]]},
        "classes": [{"channel": 0, "key": "dense", "code": DENSE, "threshold": 0.5}],
        **changes,
    }


def write_own_package(folder: Path, graph: bytes, **metadata: Any) -> Path:
    """A package of type onnx with that graph."""
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(graph)
    described = {
        "schema": "lungnode-package/1",
        "system": "onnx",
        "graphs": {"model": {"file": "model.onnx"}},
        "files": {"model.onnx": hashlib.sha256(graph).hexdigest()},
        **(metadata or dense_lung()),
    }
    (folder / "metadata.json").write_text(json.dumps(described))
    return folder

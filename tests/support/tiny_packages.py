"""Model packages whose networks are plain rules on HU: they keep the contract, and load in no time."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper


def _model(
    nodes: list[Any], outputs: list[Any], constants: dict[str, Any], inputs: list[Any]
) -> onnx.ModelProto:
    initializers = [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _info(name: str, kind: int, shape: list[Any]) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


ENGINE_CACHE = Path(__file__).parents[2] / "trt_engines" / "cache"
"""Where nodes under test keep their engines: the first one builds them, for those of later runs too."""

F, HU = TensorProto.FLOAT, [_info("hu", TensorProto.INT16, ["N", "H", "W"])]
RANGE = {"low": np.float32(-700), "high": np.float32(-200), "zero": np.float32(0), "one": np.float32(1)}


def _ill_pixels() -> list[Any]:
    """`ill` float [N, H, W]: 1 where the HU lie between -700 and -200, and its mean `f` [N] times 60, at most 1."""
    return [
        helper.make_node("Cast", ["hu"], ["x"], to=F),
        helper.make_node("Greater", ["x", "low"], ["above"]),
        helper.make_node("Less", ["x", "high"], ["below"]),
        helper.make_node("And", ["above", "below"], ["between"]),
        helper.make_node("Cast", ["between"], ["ill"], to=F),
        helper.make_node("ReduceMean", ["ill", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "gain"], ["raised"]),
        helper.make_node("Clip", ["raised", "zero", "one"], ["f"]),
        helper.make_node("Unsqueeze", ["ill", "axis1"], ["ill4"]),
        helper.make_node("AveragePool", ["ill4"], ["pooled4"], kernel_shape=[12, 12], strides=[12, 12]),
        helper.make_node("Squeeze", ["pooled4", "axis1"], ["pooled"]),
    ]


CONSTANTS = {**RANGE, "axes": np.array([1, 2]), "axis1": np.array([1]), "gain": np.float32(60)}


def _classify() -> onnx.ModelProto:
    nodes = [
        *_ill_pixels(),
        helper.make_node("Identity", ["f"], ["probability"]),
        helper.make_node("Identity", ["pooled"], ["activation_map"]),
    ]
    outputs = [_info("probability", F, ["N"]), _info("activation_map", F, ["N", "h", "w"])]
    return _model(nodes, outputs, CONSTANTS, HU)


def _segment() -> onnx.ModelProto:
    nodes = [
        *_ill_pixels()[:5],
        helper.make_node("Mul", ["ill", "full"], ["scaled"]),
        helper.make_node("Cast", ["scaled"], ["lesion_probability"], to=TensorProto.UINT8),
    ]
    outputs = [_info("lesion_probability", TensorProto.UINT8, ["N", "H", "W"])]
    return _model(nodes, outputs, {**RANGE, "full": np.float32(255)}, HU)


def _slices() -> onnx.ModelProto:
    nodes = [
        *_ill_pixels(),
        helper.make_node("Sub", ["one", "f"], ["g"]),
        helper.make_node("Unsqueeze", ["f", "axis1"], ["f1"]),
        helper.make_node("Unsqueeze", ["g", "axis1"], ["g1"]),
        helper.make_node("Mul", ["f1", "zero"], ["z1"]),
        helper.make_node("Concat", ["g1", "f1"], ["lesion_probability"], axis=1),
        helper.make_node("Concat", ["g1", "f1", "z1", "z1"], ["class_probability"], axis=1),
        helper.make_node("Identity", ["pooled"], ["location_map"]),
        helper.make_node("Unsqueeze", ["class_probability", "axis0"], ["once"]),
        helper.make_node("Concat", ["once", "once", "once"], ["features"], axis=0),
    ]
    outputs = [
        _info("lesion_probability", F, ["N", 2]),
        _info("class_probability", F, ["N", 4]),
        _info("location_map", F, ["N", "h", "w"]),
        _info("features", F, [3, "N", 4]),
    ]
    return _model(nodes, outputs, {**CONSTANTS, "axis0": np.array([0])}, HU)


def _patient() -> onnx.ModelProto:
    nodes = [
        helper.make_node("ReduceMax", ["features", "first"], ["strongest"], keepdims=0),
        helper.make_node("Mul", ["strongest", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probability"], axis=0),
    ]
    constants = {"first": np.array([0]), "weights": np.array([1, 4, 1, 1], dtype=np.float32)}
    return _model(nodes, [_info("probability", F, [4])], constants, [_info("features", F, ["n", 4])])


SYSTEMS: dict[str, dict[str, Any]] = {
    "jcs": {
        "graphs": {"classify": _classify, "segment": _segment},
        "preprocessing": {"crop": "centre", "crop_fraction": 0.875},
        "classes": ["not_infected", "covid19"],
        "thresholds": {"slice": 0.5, "patient_count": 25, "patient_mode": "auto", "lesion": 0.5},
    },
    "m3lung": {
        "graphs": {"slices": _slices, "patient": _patient},
        "preprocessing": {"crop": "lungs", "crop_scope": "volume", "crop_margin": 10},
        "classes": ["healthy", "covid19", "h1n1", "cap"],
        "thresholds": {"patient_rule": "network", "nonparametric": 0.99},
    },
}


def write_package(folder: Path, system: str, **changes: Any) -> Path:
    """A package whose networks are rules on HU: pixels between -700 and -200 are lesion, about 1/60 is a case."""
    folder.mkdir(parents=True)
    described = dict(SYSTEMS[system])
    graphs = described.pop("graphs")
    for name, build in graphs.items():
        (folder / f"{name}.onnx").write_bytes(build().SerializeToString())
    files = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}
    metadata = {
        "schema": "lungnode-package/1",
        "name": f"{system}-tiny",
        "version": "1.0.0",
        "system": system,
        "variant": "tiny",
        "graphs": {name: {"file": f"{name}.onnx"} for name in graphs},
        "files": files,
        **described,
        **changes,
    }
    (folder / "metadata.json").write_text(json.dumps(metadata))
    return folder

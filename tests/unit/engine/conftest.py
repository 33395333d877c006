"""Small made-up series, a lung phantom and tiny model packages that keep the contract."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pydicom
import pytest
from onnx import TensorProto, helper
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from engine.volume import Geometry, SourceSlice, Volume

STUDY, SERIES, FRAME = "1.2.3", "1.2.3.4", "1.2.3.5"

WriteSlice = Callable[..., Path]


@pytest.fixture
def write_slice(tmp_path: Path) -> WriteSlice:
    """Writes one CT file: write_slice(instance, position, stored=..., **attributes)."""

    def write(instance: int, position: tuple[float, ...], stored: Any = None, **attributes: Any) -> Path:
        pixels = np.full((8, 8), 1024 + instance, dtype=np.uint16) if stored is None else stored
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CTImageStorage
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = f"1.2.3.6.{instance}"
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = STUDY, SERIES, FRAME
        ds.Modality, ds.ImageType, ds.InstanceNumber = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"], instance
        ds.ImagePositionPatient = [f"{v:.6f}"[:16] for v in position]
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, ds.SliceThickness = [0.8, 0.8], 2
        ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
        ds.Rows, ds.Columns = pixels.shape
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
        ds.PixelRepresentation = int(np.issubdtype(pixels.dtype, np.signedinteger))
        ds.PixelData = pixels.tobytes()
        for keyword, value in attributes.items():
            if value is None:
                del ds[keyword]
            else:
                setattr(ds, keyword, value)
        path = tmp_path / f"{len(list(tmp_path.iterdir())):04d}.dcm"
        pydicom.dcmwrite(path, ds, enforce_file_format=True)
        return path

    return write


def make_volume(hu: np.ndarray, spacing: float = 5.0, pixel: float = 1.5) -> Volume:
    """A volume of straight axial slices `spacing` mm apart."""
    positions = np.array([[-100.0, -100.0, spacing * z] for z in range(len(hu))])
    geometry = Geometry(positions, np.array([1.0, 0, 0]), np.array([0.0, 1, 0]), (pixel, pixel), spacing)
    sources = tuple(SourceSlice(CTImageStorage, f"1.2.3.6.{z}", None, z) for z in range(len(hu)))
    return Volume(hu.astype(np.int16), geometry, sources, STUDY, SERIES, FRAME)


def make_chest(slices: int = 40, size: int = 192, lesion: bool = False) -> np.ndarray:
    """HU int16 of two lungs in a body, with a table below; a lesion of -450 HU in the right lung if wanted."""
    z, y, x = np.ogrid[:slices, :size, :size]
    body = ((y - size / 2) / (0.36 * size)) ** 2 + ((x - size / 2) / (0.45 * size)) ** 2 < 1
    hu = np.where(body, 40, -1000) + 0 * z
    height = np.sqrt(np.clip(1 - ((z - slices / 2) / (0.46 * slices)) ** 2, 0, None)) + 1e-6
    for centre in (0.3, 0.7):
        r = ((y - size / 2) / (0.24 * size)) ** 2 + ((x - centre * size) / (0.14 * size)) ** 2
        hu[r < height**2] = -850
    hu[:, int(0.9 * size) : int(0.93 * size), 5:-5] = 100
    if lesion:
        r = (z - slices / 2) ** 2 + ((y - size / 2) / 3) ** 2 + ((x - 0.3 * size) / 3) ** 2
        hu[r < (0.012 * size * slices / 10) ** 2] = -450
    rng = np.random.default_rng(7)
    return (hu + rng.normal(0, 12, hu.shape)).astype(np.int16)


@pytest.fixture
def volume_of() -> Callable[..., Volume]:
    return make_volume


@pytest.fixture
def chest_of() -> Callable[..., np.ndarray]:
    return make_chest


def _model(
    nodes: list[Any], outputs: list[Any], constants: dict[str, Any], inputs: list[Any]
) -> onnx.ModelProto:
    initializers = [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _info(name: str, kind: int, shape: list[Any]) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


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


@pytest.fixture
def make_package() -> Callable[..., Path]:
    return write_package


@pytest.fixture
def package_paths(tmp_path: Path) -> list[Path]:
    """A tiny package of each system."""
    return [write_package(tmp_path / "packages" / system, system) for system in SYSTEMS]

"""What a description may say, and that each mistake is one line which names it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_own_models import DENSE, data_format, dense_lung, identity, mean_score, write_own_package

from engine.errors import PackageInvalid, RunnerFailed
from engine.own_model.codes import is_snomed_identifier
from engine.own_model.contract import OwnModelMetadata
from engine.packages import read_package
from engine.volume import Volume

SLICES = ["*", "*"]

SPLEEN = {
    "version": "0.6.1",
    "changelog": {"0.6.1": "fix download link"},
    "monai_version": "1.4.0",
    "task": "Pleural effusion CT segmentation",
    "description": "A pre-trained model for volumetric (3D) segmentation",
    "network_data_format": {
        "inputs": {
            "image": {
                "type": "image",
                "format": "hounsfield",
                "modality": "CT",
                "num_channels": 1,
                "spatial_shape": [96, 96, 96],
                "dtype": "float32",
                "value_range": [0, 1],
                "is_patch_data": True,
                "channel_def": {"0": "image"},
            }
        },
        "outputs": {
            "pred": {
                "type": "image",
                "format": "segmentation",
                "num_channels": 2,
                "spatial_shape": [96, 96, 96],
                "dtype": "float32",
                "value_range": [0, 1],
                "is_patch_data": True,
                "channel_def": {"0": "background", "1": "effusion"},
            }
        },
    },
}
"""metadata.json as MONAI's bundles have it (keys of the spleen bundle)."""


def read(folder: Path, **changes: Any) -> OwnModelMetadata:
    package = read_package(write_own_package(folder, identity("N", 1, "H", "W"), **dense_lung(**changes)))
    assert isinstance(package.metadata, OwnModelMetadata)
    return package.metadata


def test_metadata_of_a_monai_bundle_need_only_what_monai_leaves_open(tmp_path: Path) -> None:
    metadata = read(
        tmp_path / "own",
        **SPLEEN,
        preprocessing={
            "hu_windows": [[-57, 164]],
            "spacing_mm": [2.0, 1.5, 1.5],
            "orientation": "RAS",
        },
        postprocessing={"activation": "softmax"},
        classes=[{"channel": 1, "key": "effusion", "code": DENSE | {"value": "60046008"}}],
    )
    assert metadata.is_volume
    assert metadata.task == "segmentation"
    assert metadata.input.is_patch_data
    assert metadata.channels == 2
    assert metadata.postprocessing.takes_highest
    assert metadata.model_classes[0].color == (230, 90, 60)
    assert (metadata.input_layout, metadata.input_name, metadata.output_name) == ("NCDHW", "image", "pred")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"classes": []}, "classes"),
        ({"classes": [{"channel": 1, "key": "dense", "code": DENSE}]}, "channel 1, and the output has 1"),
        ({"classes": [{"channel": 0, "key": "dense", "code": DENSE | {"value": "95436009"}}]}, "check digit"),
        ({"classes": [{"channel": 0, "key": "dense", "code": DENSE | {"scheme": "SNOMED"}}]}, "coding scheme"),
        ({"classes": [{"channel": 0, "key": "d", "code": DENSE | {"scheme": "DCM", "value": "1"}}]}, "DICOM"),
        ({"classes": [{"channel": 0, "key": "dense", "code": DENSE | {"meaning": "x" * 65}}]}, "meaning"),
        ({"classes": [{"channel": 0, "key": "a b", "code": DENSE}]}, "key"),
        ({"classes": [{"channel": 0, "key": "dense", "code": DENSE, "color": [1, 2]}]}, "color"),
        ({"network_data_format": data_format(["*"], "segmentation")}, "2 sides"),
        ({"network_data_format": data_format(["x", "*"], "segmentation")}, "'x' is no side"),
        ({"network_data_format": data_format([0, "*"], "segmentation")}, "0 is no side"),
        ({"network_data_format": data_format(SLICES, "points")}, "format"),
        ({"network_data_format": data_format(SLICES, "segmentation", modality="MR")}, "only CT"),
        ({"network_data_format": data_format(SLICES, "segmentation", layout="NCHH")}, "layout NCHH"),
        ({"network_data_format": data_format(SLICES, "segmentation", layout="NCDHW")}, "layout NCDHW"),
        ({"network_data_format": data_format(SLICES, "segmentation", value_range=[1, 0])}, "value_range"),
        ({"network_data_format": data_format([8, 8], "segmentation", is_patch_data=True)}, "only volumes"),
        ({"network_data_format": {"inputs": {}, "outputs": {}}}, "inputs"),
        ({"preprocessing": {"spacing_mm": [1, 1, 1]}}, "spacing_mm has 2 numbers"),
        ({"preprocessing": {"spacing_mm": [0, 1]}}, "spacing_mm"),
        ({"preprocessing": {"hu_windows": [[100, -100]]}}, "hu_windows"),
        ({"preprocessing": {"hu_windows": [[0, 1], [0, 1]]}}, "hu_windows has one item"),
        ({"preprocessing": {"orientation": "XYZ"}}, "orientation"),
        ({"preprocessing": {"channels": "neighbours"}, "network_data_format":
            data_format(SLICES, "segmentation", num_channels=2)}, "odd number"),
        ({"postprocessing": {"activation": "relu"}}, "activation"),
        ({"title": "Lunge: Größe"}, "title"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(PackageInvalid, match=reason) as caught:
        read(tmp_path / "own", **changes)
    assert "\n" not in str(caught.value)


def test_one_graph_by_its_name(tmp_path: Path) -> None:
    from engine.runners.interface import RunnerOptions
    from engine.screening import open_systems

    package = write_own_package(tmp_path / "own", identity("N", 1, "H", "W"))
    content = json.loads((package / "metadata.json").read_text())
    content["graphs"] = {"net": {"file": "model.onnx"}}
    (package / "metadata.json").write_text(json.dumps(content))
    with pytest.raises(PackageInvalid, match="graph model is missing"):
        open_systems([package], RunnerOptions(precision="f32"))


@pytest.mark.parametrize(
    ("identifier", "valid"),
    [("840539006", True), ("840539007", False), ("084053900", False), ("12345", False), ("8405390O6", False)],
)
def test_check_digits_of_snomed(identifier: str, valid: bool) -> None:
    assert is_snomed_identifier(identifier) is valid


@pytest.mark.parametrize(
    ("graph", "changes", "reason"),
    [
        (identity("N", 1, "D", "H", "W"), {}, "own.*failed|dense-lung.*failed"),
        (identity("N", 3, "H", "W"), {}, "dense-lung"),
        (mean_score("N", 1, "H", "W"), {}, r"output pred is \(.*\), not"),
        (identity("N", 1, "H", "W"), {"network_data_format": data_format(SLICES, "classification")}, "not"),
        (identity("N", 1, "H", "W"), {"preprocessing": {}}, "no probability; postprocessing.activation"),
        (
            identity("N", 1, "H", "W"),
            {"network_data_format": data_format(SLICES, "segmentation", onnx_name="x")},
            "dense-lung",
        ),
        (
            identity("N", 1, 4096, 4096),
            {
                "network_data_format": data_format(["4096*n", "*", "*"], "segmentation"),
                "preprocessing": {"spacing_mm": [0.1, 0.1, 0.1]},
            },
            "0.1.* mm makes 4096 x 720 x 600 samples",
        ),
    ],
)
def test_a_network_that_does_something_else_is_one_line(
    block: Volume, say, graph: bytes, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(RunnerFailed, match=reason) as caught:
        say(block, graph, **changes)
    assert "\n" not in str(caught.value)


def test_an_output_that_is_not_finite(block: Volume, say) -> None:
    import numpy as np
    from onnx import helper
    from tiny_own_models import network

    nodes = [
        helper.make_node("Sub", ["image", "image"], ["zero"]),
        helper.make_node("Div", ["zero", "nil"], ["pred"]),
    ]
    shape = ["N", 1, "H", "W"]
    with pytest.raises(RunnerFailed, match=r"dense-lung.*output pred is not finite"):
        say(block, network(nodes, {"nil": np.float32(0)}, shape, shape))


def test_a_series_that_is_not_axial_is_not_turned(volume_like, say) -> None:
    import numpy as np

    coronal = volume_like(np.zeros((4, 8, 8), dtype=np.int16), (1, 0, 0), (0, 0, -1))
    with pytest.raises(RunnerFailed, match="wants orientation RAS, and the series is not axial"):
        say(coronal, identity("N", 1, "H", "W"), preprocessing={"orientation": "RAS"})

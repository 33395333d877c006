"""Segmenters of slices and volumes: the mask lies where the network saw it, whatever the way there and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper
from tiny_own_models import AIR, DENSE, data_format, identity, network, two_channels

from engine.own_model.deciding import classes_of, labels_of
from engine.volume import Volume

WINDOW = {"hu_windows": [[-900, -400]]}
BLOCK_ML = 12 * 16 * 16 * 3 * 1.5 * 1.5 / 1000


def dice(found: np.ndarray, volume: Volume) -> float:
    truth = volume.hu > -650
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


def test_whole_slices_as_they_are_give_the_mask_to_the_voxel(block: Volume, say) -> None:
    findings = say(block, identity("N", 1, "H", "W"))
    assert np.array_equal(findings.labels, block.hu > -650)
    (dense,) = findings.classes
    assert dense.found
    assert dense.volume_ml == pytest.approx(BLOCK_ML)
    assert dense.mean_hu == 0
    assert dense.lung_percent == pytest.approx(100 * (block.hu > -650).mean())
    assert set(findings.key_slices) <= set(range(6, 18))
    assert findings.rule == "segmented volume above 0 ml"


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_the_batch_changes_nothing(block: Volume, say, batch: int) -> None:
    assert np.array_equal(say(block, identity("N", 1, "H", "W"), batch).labels, block.hu > -650)


@pytest.mark.parametrize(
    ("sides", "preprocessing", "least"),
    [
        ([96, 96], {}, 0.95),
        ([30, 30], {}, 0.9),
        ([64, 64], {"spacing_mm": [1.5, 1.5]}, 1.0),
        ([64, 64], {"spacing_mm": [1.0, 1.0]}, 0.95),
        (["16*n", "32*n"], {}, 1.0),
        (["*", "*"], {"orientation": "RAS"}, 1.0),
        ([72, 56], {"orientation": "RPI"}, 0.9),
        (["*", "*"], {"crop": "lungs"}, 1.0),
    ],
)
def test_slices_in_every_form_come_back_to_their_place(
    block: Volume, say, sides: list[Any], preprocessing: dict[str, Any], least: float
) -> None:
    graph = identity("N", 1, *(side if isinstance(side, int) else f"side{k}" for k, side in enumerate(sides)))
    findings = say(
        block,
        graph,
        network_data_format=data_format(sides, "segmentation"),
        preprocessing=WINDOW | preprocessing,
    )
    assert dice(findings.labels == 1, block) >= least


@pytest.mark.parametrize(
    ("sides", "preprocessing", "more", "least"),
    [
        (["*", "*", "*"], {}, {}, 1.0),
        ([32, 64, 64], {}, {}, 0.9),
        (["8*n", "16*n", "16*n"], {"spacing_mm": [3, 1.5, 1.5], "orientation": "RAS"}, {}, 1.0),
        ([16, 24, 24], {}, {"is_patch_data": True}, 1.0),
        ([16, 24, 24], {"patch_overlap": 0.5, "orientation": "RAI"}, {"is_patch_data": True}, 1.0),
        ([16, 24, 24], {"spacing_mm": [2, 2, 2]}, {"is_patch_data": True}, 0.85),
        ([40, 64, 64], {}, {"is_patch_data": True}, 1.0),
    ],
)
def test_volumes_in_every_form_come_back_to_their_place(
    block: Volume, say, sides: list[Any], preprocessing: dict[str, Any], more: dict[str, Any], least: float
) -> None:
    shape = [side if isinstance(side, int) else f"side{k}" for k, side in enumerate(sides)]
    findings = say(
        block,
        two_channels("N", 1, *shape),
        network_data_format=data_format(sides, "segmentation", channels=2, **more),
        preprocessing=WINDOW | preprocessing,
        postprocessing={"activation": "softmax"},
        classes=[{"channel": 1, "key": "dense", "code": DENSE}],
    )
    assert dice(findings.labels == 1, block) >= least
    assert findings.classes[0].volume_ml == pytest.approx(BLOCK_ML, rel=2 * (1 - least) + 1e-6)
    assert findings.slice_scores is None


def test_uneven_gaps_are_resampled_by_their_places(volume_like, say) -> None:
    """Two slices 12 mm apart stand for more than others; a network on an even grid still gives the same block."""
    hu = np.full((20, 32, 32), -900, dtype=np.int16)
    hu[8:14, 8:20, 8:20] = 0
    volume = volume_like(hu)
    positions = volume.geometry.positions.copy()
    positions[10:] += (0, 0, 9)
    geometry = type(volume.geometry)(
        positions, volume.geometry.row_direction, volume.geometry.column_direction, (1.5, 1.5), 3.0
    )
    uneven = Volume(hu, geometry, volume.sources, "1.2", "1.2.3", "1.2.4")
    findings = say(
        uneven,
        identity("N", 1, "D", "H", "W"),
        network_data_format=data_format(["*", "*", "*"], "segmentation"),
        preprocessing=WINDOW | {"spacing_mm": [1.5, 1.5, 1.5]},
    )
    assert dice(findings.labels == 1, uneven) > 0.98
    uneven.hu[9, 8:20, 8:20] = 100
    (dense,) = say(uneven, identity("N", 1, "H", "W")).classes
    # Slices 9 and 10 stand for 7.5 mm each, the other four for 3 mm.
    assert dense.mean_hu == pytest.approx(100 * 7.5 / (4 * 3 + 2 * 7.5))


@pytest.mark.parametrize(
    ("row", "column"), [((1, 0, 0), (0, 1, 0)), ((-1, 0, 0), (0, -1, 0)), ((-1, 0, 0), (0, 1, 0))]
)
def test_orientation_turns_prone_and_feet_first_series(volume_like, say, row: Any, column: Any) -> None:
    """The network sees the patient's left on the side that its metadata say, however the patient lay."""
    nodes = [helper.make_node("Mul", ["image", "ramp"], ["pred"])]
    ramp = (np.arange(32) >= 16).astype(np.float32)
    volume = volume_like(np.zeros((6, 32, 32), dtype=np.int16), row, column)
    findings = say(
        volume,
        network(nodes, {"ramp": ramp}, ["N", 1, "H", 32], ["N", 1, "H", 32]),
        network_data_format=data_format(["*", 32], "segmentation"),
        preprocessing=WINDOW | {"orientation": "LPS"},
    )
    voxels = np.argwhere(findings.labels == 1).astype(float)
    others = np.argwhere(findings.labels == 0).astype(float)
    assert volume.geometry.to_patient(voxels)[:, 0].min() > volume.geometry.to_patient(others)[:, 0].max()


def test_sides_are_in_the_order_of_the_layout(block: Volume, say) -> None:
    """A patch of 24 columns, 32 rows and 16 slices, as MONAI names it."""
    findings = say(
        block,
        two_channels("N", 1, 24, 32, 16),
        network_data_format=data_format(
            [24, 32, 16], "segmentation", channels=2, is_patch_data=True, layout="NCWHD"
        ),
        preprocessing=WINDOW | {"orientation": "RAS"},
        postprocessing={"activation": "softmax"},
        classes=[{"channel": 1, "key": "dense", "code": DENSE}],
    )
    assert np.array_equal(findings.labels, block.hu > -650)


def test_where_the_highest_counts_one_of_equals_is_taken(opened) -> None:
    """The first, as argmax has it: background before a class, and never two classes at once."""
    metadata = opened(
        two_channels("N", 1, "H", "W"),
        network_data_format=data_format(["*", "*"], "segmentation", channels=3),
        postprocessing={"activation": "softmax"},
        classes=[{"channel": 2, "key": "dense", "code": DENSE}, {"channel": 1, "key": "air", "code": AIR}],
    ).metadata
    scores = np.array([[0.4, 0.4, 0.2], [0.2, 0.4, 0.4], [0.3, 0.3, 0.4]], dtype=np.float32)
    assert labels_of(scores.T, metadata).tolist() == [0, 2, 1]
    assert classes_of(scores, metadata).tolist() == [[False, False], [False, True], [True, False]]


def test_layouts_of_other_tools(block: Volume, say) -> None:
    """Columns first, as MONAI's readers have it; without batch or channel; channels last."""
    for layout, shape in (("NCWH", ["N", 1, "W", "H"]), ("HW", ["H", "W"]), ("NHWC", ["N", "H", "W", 1])):
        findings = say(
            block,
            identity(*shape),
            network_data_format=data_format(["*", "*"], "segmentation", layout=layout),
        )
        assert np.array_equal(findings.labels, block.hu > -650), layout


def test_classes_that_exclude_each_other_and_those_that_do_not(block: Volume, say) -> None:
    nodes = [
        helper.make_node("Sub", ["one", "image"], ["rest"]),
        helper.make_node("Concat", ["rest", "image"], ["pred"], axis=1),
    ]
    graph = network(nodes, {"one": np.float32(1)}, ["N", 1, "H", "W"], ["N", 2, "H", "W"])
    classes = [
        {"channel": 0, "key": "air", "code": AIR, "threshold": 0.2},
        {"channel": 1, "key": "dense", "code": DENSE, "threshold": 0.9},
    ]
    form = data_format(["*", "*"], "segmentation", channels=2)
    block.hu[0] = -500
    by_threshold = say(block, graph, network_data_format=form, classes=classes).labels
    assert not by_threshold[0].any(), "0.2 of air is not above its threshold, 0.8 is not above that of dense"
    highest = say(
        block, graph, network_data_format=form, classes=classes, postprocessing={"decision": "highest"}
    ).labels
    assert (highest[0] == 2).all()
    assert np.array_equal(highest[1:] == 2, block.hu[1:] > -650)


def test_labels_instead_of_scores(block: Volume, say) -> None:
    nodes = [
        helper.make_node("Greater", ["image", "half"], ["over"]),
        helper.make_node("Cast", ["over"], ["pred"], to=1),
    ]
    shape = ["N", 1, "H", "W"]
    findings = say(
        block,
        network(nodes, {"half": np.float32(0.5)}, shape, shape),
        network_data_format=data_format(["*", "*"], "labels", channels=2),
        postprocessing={"activation": "labels"},
        classes=[{"channel": 1, "key": "dense", "code": DENSE}],
    )
    assert np.array_equal(findings.labels, block.hu > -650)


def test_what_lies_outside_of_the_lungs_may_be_dropped_and_small_findings_too(block: Volume, opened) -> None:
    from engine.label_volume import LabelVolume
    from engine.own_model.screening import screen_with

    lungs = np.zeros(block.shape, dtype=bool)
    lungs[4:12] = True
    system = opened(identity("N", 1, "H", "W"), postprocessing={"within": "lungs", "minimum_ml": BLOCK_ML})
    findings = screen_with(system, block, LabelVolume.of(lungs), lungs.any(axis=(1, 2)))
    assert np.array_equal(findings.labels == 1, (block.hu > -650) & lungs)
    assert findings.classes[0].volume_ml == pytest.approx(BLOCK_ML / 2)
    assert not findings.classes[0].found
    assert findings.found == ()

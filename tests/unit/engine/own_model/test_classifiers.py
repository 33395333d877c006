"""Classifiers of slices and volumes: what the network is given, and how slices make a patient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper
from tiny_own_models import AIR, DENSE, data_format, mean_score, network

from engine.volume import Volume

FORM = data_format(["*", "*"], "classification")


@pytest.fixture
def brightening(volume_like) -> Volume:
    """Ten slices of -900, -850, ... -450 HU: scores of 0, 0.1 ... 0.9 in a window from -900 to -400."""
    hu = np.repeat(np.arange(-900, -400, 50, dtype=np.int16), 16).reshape(10, 4, 4)
    return volume_like(hu)


@pytest.mark.parametrize(
    ("patient", "threshold", "score", "found"),
    [
        ({"rule": "max"}, 0.85, 0.9, True),
        ({"rule": "max"}, 0.95, 0.9, False),
        ({"rule": "mean"}, 0.4, 0.45, True),
        ({"rule": "mean"}, 0.5, 0.45, False),
    ],
)
def test_the_patient_by_the_largest_or_mean_score(
    brightening: Volume, say, patient: dict[str, Any], threshold: float, score: float, found: bool
) -> None:
    findings = say(
        brightening,
        mean_score("N", 1, "H", "W"),
        network_data_format=FORM,
        postprocessing={"patient": patient},
        classes=[{"channel": 0, "key": "dense", "code": DENSE, "threshold": threshold}],
    )
    assert findings.labels is None
    assert findings.slice_scores[:, 0] == pytest.approx(np.arange(10) / 10, abs=1e-6)
    assert findings.classes[0].score == pytest.approx(score)
    assert findings.classes[0].found is found
    assert 9 in findings.key_slices


@pytest.mark.parametrize(("count", "found"), [(3, True), (4, False)])
def test_the_patient_by_counting_slices(brightening: Volume, say, count: int, found: bool) -> None:
    findings = say(
        brightening,
        mean_score("N", 1, "H", "W"),
        network_data_format=FORM,
        postprocessing={"patient": {"rule": "count", "count": count}},
        classes=[{"channel": 0, "key": "dense", "code": DENSE, "threshold": 0.55}],
    )
    (dense,) = findings.classes
    assert (dense.positive_slices, dense.slice_limit, dense.found, dense.score) == (4, count, found, None)
    assert findings.rule == f"more than {count} positive slices"


def test_softmax_takes_the_class_with_the_highest_score(brightening: Volume, say) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], ["mean"], keepdims=0),
        helper.make_node("Sub", ["half", "mean"], ["air"]),
        helper.make_node("Concat", ["air", "mean"], ["pred"], axis=1),
    ]
    constants = {"axes": np.array([2, 3]), "half": np.float32(0.75)}
    findings = say(
        brightening,
        network(nodes, constants, ["N", 1, "H", "W"], ["N", 2]),
        network_data_format=data_format(["*", "*"], "classification", channels=2),
        postprocessing={"activation": "softmax", "patient": {"rule": "mean"}},
        classes=[{"channel": 0, "key": "air", "code": AIR}, {"channel": 1, "key": "dense", "code": DENSE}],
    )
    air, dense = findings.classes
    assert (air.found, dense.found) == (False, True)
    assert air.score + dense.score == pytest.approx(1, abs=1e-6)


def test_a_classifier_of_volumes(brightening: Volume, say) -> None:
    findings = say(
        brightening,
        mean_score("N", 1, 8, 8, 8),
        network_data_format=data_format([8, 8, 8], "probabilities"),
    )
    assert findings.classes[0].score == pytest.approx(0.45, abs=0.01)
    assert findings.slice_scores is None
    assert findings.rule == "score of the volume above 0.5"


def test_windows_per_channel_normalisation_and_neighbours(brightening: Volume, say) -> None:
    """Channel k of slice 5 is slice 5 + k - 1 in window k; sums tell whether each came where it belongs."""
    nodes = [
        helper.make_node("Mul", ["image", "weights"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "axes"], ["pred"], keepdims=0),
    ]
    constants = {
        "weights": np.array([1, 10, 100], dtype=np.float32).reshape(1, 3, 1, 1) / 16 / 1000,
        "axes": np.array([1, 2, 3]),
    }
    findings = say(
        brightening,
        network(nodes, constants, ["N", 3, "H", "W"], ["N"]),
        network_data_format=data_format(["*", "*"], "classes", num_channels=3, value_range=[0, 10]),
        preprocessing={
            "channels": "neighbours",
            "hu_windows": [[-900, -400], [-1000, -500], [-900, -400]],
            "mean": [1.0],
            "std": [2.0, 1.0, 1.0],
        },
    )
    before, own, after = (4 - 1) / 2, 10 * 350 / 500 - 1, 6 - 1
    assert findings.slice_scores[5, 0] == pytest.approx((before + 10 * own + 100 * after) / 1000, abs=1e-5)


def test_hounsfield_units_as_whole_numbers(brightening: Volume, say) -> None:
    nodes = [
        helper.make_node("Cast", ["image"], ["hu"], to=1),
        helper.make_node("ReduceMean", ["hu", "axes"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "thousand"], ["pred"]),
    ]
    constants = {"axes": np.array([1, 2]), "thousand": np.float32(-1000)}
    findings = say(
        brightening,
        network(nodes, constants, ["N", "H", "W"], ["N"], kind=5),
        network_data_format=data_format(["*", "*"], "classification", layout="NHW", dtype="int16"),
        preprocessing={"slices": "all"},
    )
    assert findings.slice_scores[:, 0] == pytest.approx(np.arange(0.9, 0.4, -0.05), abs=1e-6)


def test_slices_without_lung_are_not_given_to_the_network(brightening: Volume, opened) -> None:
    from engine.label_volume import LabelVolume
    from engine.own_model.screening import screen_with

    lungs = np.zeros(brightening.shape, dtype=bool)
    lungs[2:5] = True
    system = opened(mean_score("N", 1, "H", "W"), network_data_format=FORM)
    findings = screen_with(system, brightening, LabelVolume.of(lungs), lungs.any(axis=(1, 2)))
    assert findings.slice_scores[:, 0] == pytest.approx([0, 0, 0.2, 0.3, 0.4, 0, 0, 0, 0, 0], abs=1e-6)
    assert findings.classes[0].score == pytest.approx(0.4)


def test_a_batch_of_fixed_size(brightening: Volume, say) -> None:
    """Ten slices in threes: the last batch is filled up, and what fills it is not counted."""
    findings = say(
        brightening,
        mean_score(3, 1, 4, 4),
        network_data_format=data_format([4, 4], "classification"),
        preprocessing={"hu_windows": [[-900, -400]], "batch": 3},
    )
    assert findings.slice_scores[:, 0] == pytest.approx(np.arange(10) / 10, abs=1e-6)

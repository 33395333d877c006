"""Labels as runs: what an array would hold, and nothing made whole by screening or reporting."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from engine.findings import Findings
from engine.label_volume import LabelVolume
from engine.lungs import volume_box
from engine.screening import open_systems, screen

SHAPES = st.tuples(st.integers(0, 4), st.integers(1, 7), st.integers(1, 9))


@st.composite
def voxels(draw: st.DrawFn) -> np.ndarray:
    """Labels of any of the three types, mostly none or in runs."""
    dtype = draw(st.sampled_from([np.bool_, np.uint8, np.uint16]))
    label = st.booleans() if dtype is np.bool_ else st.sampled_from([0, 0, 0, 1, 2, np.iinfo(dtype).max])
    return draw(arrays.arrays(dtype, SHAPES, elements=label))


@settings(max_examples=120, deadline=None)
@given(voxels())
def test_it_holds_what_the_array_holds(array: np.ndarray) -> None:
    labels = LabelVolume.of(array)
    assert (labels.shape, labels.dtype, len(labels), labels.ndim) == (array.shape, array.dtype, len(array), 3)
    for plane, expected in zip(labels, array, strict=True):
        np.testing.assert_array_equal(plane, expected, strict=True)
    np.testing.assert_array_equal(np.asarray(labels), array, strict=True)
    np.testing.assert_array_equal(labels.areas(), np.count_nonzero(array, axis=(1, 2)))
    np.testing.assert_array_equal(labels.occupied(), np.flatnonzero(array.any(axis=(1, 2))))
    np.testing.assert_array_equal(labels.shadow(), array.any(axis=0), strict=True)
    assert labels.any() == array.any()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(labels)), array, strict=True)
    np.testing.assert_array_equal(copy.deepcopy(labels), array, strict=True)


@settings(max_examples=60, deadline=None)
@given(voxels(), st.integers(0, 10**6))
def test_other_labels_are_those_of_the_table(array: np.ndarray, seed: int) -> None:
    table = np.random.default_rng(seed).integers(0, 3, 2**16).astype(np.uint8)
    table[0] = 0
    found = LabelVolume.of(array).relabelled(table)
    np.testing.assert_array_equal(found, table[array.astype(int)], strict=True)
    np.testing.assert_array_equal(found.occupied(), np.flatnonzero(table[array.astype(int)].any(axis=(1, 2))))


def test_it_is_written_slice_by_slice() -> None:
    labels = LabelVolume((5, 2, 3), np.uint8)
    assert not labels.any()
    plane = np.array([[0, 2, 2], [2, 0, 1]], dtype=np.uint8)
    labels[np.intp(1)] = plane
    labels[3:] = plane
    plane[:] = 0
    labels[1][:] = 0
    np.testing.assert_array_equal(labels.areas(), [0, 4, 0, 4, 4])
    labels[-1] = plane
    np.testing.assert_array_equal(labels.occupied(), [1, 3])
    for wrong in (np.zeros((3, 2), dtype=np.uint8), np.zeros((2, 3), dtype=np.uint16)):
        with pytest.raises(ValueError, match=r"a plane is uint8 \(2, 3\)"):
            labels[0] = wrong
    with pytest.raises(IndexError):
        labels[5]


def test_it_stands_where_an_array_does() -> None:
    array = np.random.default_rng(1).integers(0, 3, (4, 5, 6)).astype(np.uint16)
    labels = LabelVolume.of(array)
    np.testing.assert_array_equal(labels > 1, array > 1)
    np.testing.assert_array_equal(array & labels, array)
    np.testing.assert_array_equal(labels[:, 2], array[:, 2])
    np.testing.assert_array_equal(labels[[3, 1]], array[[3, 1]])
    np.testing.assert_array_equal(np.any(labels, axis=(0, 2)), array.any(axis=(0, 2)))
    assert labels.sum() == np.sum(labels) == array.sum()
    assert np.asarray(labels, dtype=np.float32).dtype == np.float32
    with pytest.raises(ValueError, match="always a copy"):
        np.asarray(labels, copy=False)


def test_smooth_masks_are_small() -> None:
    y, x = np.ogrid[:512, :512]
    disc = (y - 256) ** 2 + (x - 200) ** 2 < 120**2
    labels = LabelVolume((20, 512, 512), np.bool_)
    labels[:] = disc
    for z in range(20):
        labels[z] = np.roll(disc, z)
    assert len(pickle.dumps(labels)) < 20 * disc.nbytes / 50


def test_screening_and_reporting_never_make_the_whole_array(
    chest_of: Callable[..., np.ndarray],
    volume_of: Callable[..., object],
    package_paths: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(self: LabelVolume) -> np.ndarray:
        raise AssertionError("the whole array was asked for")

    monkeypatch.setattr(LabelVolume, "whole", refuse)
    with open_systems(package_paths) as systems:
        findings = screen(volume_of(chest_of(lesion=True)), systems)
    assert isinstance(findings, Findings)
    assert findings.lesion_labels.any()
    assert volume_box(findings.lung_mask) is not None

"""Lesions of a mask, heatmaps in their grid, key slices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.findings import MAP_GRID
from engine.heatmaps import normalised, placed
from engine.jcs import centre_crop
from engine.label_volume import LabelVolume
from engine.lesions import key_slices, label_lesions


def test_lesions_are_numbered_by_volume_and_measured(volume_of) -> None:
    mask = np.zeros((10, 40, 40), dtype=bool)
    mask[2:4, 5:10, 5:10] = True  # 50 voxels
    mask[5:9, 20:30, 20:25] = True  # 200 voxels
    mask[9, 30, 25] = True  # touches by a corner: the same lesion
    mask[0, 0, 0:2] = True  # 2 voxels of 1.5 x 1.5 x 5 = 22.5 mm3: too small
    hu = np.full(mask.shape, -800)
    hu[5:10, 20:31, 20:26] = -300
    labels, lesions = label_lesions(LabelVolume.of(mask), volume_of(hu))
    assert [lesion.label for lesion in lesions] == [1, 2]
    assert (labels == 1).sum() == 201
    assert labels[9, 30, 25] == 1
    assert labels[0].sum() == 0
    voxel = 1.5 * 1.5 * 5 / 1000
    assert [lesion.volume_ml for lesion in lesions] == pytest.approx([201 * voxel, 50 * voxel])
    assert lesions[1].centroid == pytest.approx((-100 + 7 * 1.5, -100 + 7 * 1.5, 2.5 * 5))
    assert lesions[0].slices == (5, 9)
    assert lesions[0].largest_slice == 5
    assert lesions[0].mean_hu == pytest.approx(-300)


def test_volumes_follow_uneven_gaps(volume_of) -> None:
    volume = volume_of(np.zeros((4, 20, 20)))
    positions = volume.geometry.positions.copy()
    positions[:, 2] = [0, 2, 4, 14]
    volume = replace(volume, geometry=replace(volume.geometry, positions=positions))
    mask = np.zeros((4, 20, 20), dtype=bool)
    mask[2:4, 0:10, 0:10] = True
    _, lesions = label_lesions(LabelVolume.of(mask), volume)
    assert lesions[0].volume_ml == pytest.approx(100 * 2.25 * (6 + 10) / 1000)
    assert lesions[0].centroid[2] == pytest.approx((4 * 6 + 14 * 10) / 16)


def test_no_mask_no_lesions(volume_of) -> None:
    labels, lesions = label_lesions(LabelVolume((3, 8, 8), np.bool_), volume_of(np.zeros((3, 8, 8))))
    assert lesions == ()
    assert labels.dtype == np.uint16


def test_key_slices_take_the_first_score_that_says_anything() -> None:
    nothing, areas = np.zeros(60), np.zeros(60)
    areas[[10, 11, 30, 50]] = [5, 9, 7, 1]
    assert key_slices(nothing, areas) == (11, 30, 50)
    assert key_slices(nothing, nothing) == (30,)
    assert key_slices(np.ones(60)) == (0, 5, 10, 15, 20)
    assert key_slices(np.ones(1)) == (0,)


def test_normalisation_is_min_max_and_keeps_constants_at_zero() -> None:
    maps = np.array([[[1.0, 3.0], [2.0, 1.0]], [[4.0, 4.0], [4.0, 4.0]]])
    np.testing.assert_allclose(normalised(maps), [[[0, 1], [0.5, 0]], [[0, 0], [0, 0]]], atol=1e-6)


def test_a_map_of_the_whole_slice_on_the_grid_is_itself() -> None:
    maps = np.random.default_rng(0).random((2, *MAP_GRID), dtype=np.float32)
    np.testing.assert_allclose(placed(maps, (0, 0, 512, 512), (512, 512)), maps, atol=1e-6)


@given(
    st.integers(0, 200), st.integers(0, 200), st.integers(40, 300), st.integers(40, 300), st.integers(1, 20)
)
def test_a_constant_map_fills_its_box_and_nothing_else(top, left, height, width, size) -> None:
    box = (top, left, top + height, left + width)
    grid = placed(np.ones((1, size, size), dtype=np.float32), box, (512, 600))[0]
    rows, columns = (np.arange(64) + 0.5) * 8, (np.arange(64) + 0.5) * 600 / 64
    inside = ((rows >= top) & (rows < box[2]))[:, None] & ((columns >= left) & (columns < box[3]))
    np.testing.assert_allclose(grid, inside, atol=1e-6)


def test_a_peak_stays_where_it_is() -> None:
    maps = np.zeros((1, 8, 8), dtype=np.float32)
    maps[0, 2, 6] = 1
    grid = placed(maps, (128, 64, 384, 320), (512, 512))[0]
    row, column = np.unravel_index(np.argmax(grid), grid.shape)
    assert (row + 0.5) * 8 == pytest.approx(128 + 2.5 * 32, abs=8)
    assert (column + 0.5) * 8 == pytest.approx(64 + 6.5 * 32, abs=8)


@pytest.mark.parametrize(
    ("shape", "box"),
    [((512, 512), (32, 32, 480, 480)), ((256, 256), (16, 16, 240, 240)), ((100, 200), (6, 56, 94, 144))],
)
def test_centre_crop_is_a_centred_square(shape, box) -> None:
    assert centre_crop(shape, 0.875) == box

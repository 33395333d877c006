"""Window, crop and lungs on drawn slices, a phantom and real series."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from engine.loading import load_series
from engine.lungs import (
    crop_box,
    find_lungs,
    in_pixels,
    slices_with_lung,
    volume_box,
    volume_ml,
    window,
)


def chest_slice() -> np.ndarray:
    """512 x 512: a body with two lungs (rows 150..299) and a hollow table of 4 px walls below."""
    y, x = np.ogrid[:512, :512]
    hu = np.full((512, 512), -1000, dtype=np.int16)
    hu[((y - 225) / 150) ** 2 + ((x - 256) / 220) ** 2 < 1] = 40
    hu[150:300, 120:220] = -850
    hu[150:300, 290:390] = -850
    hu[400:440, 60:450] = 200
    hu[404:436, 64:446] = -990
    return hu


def test_window_has_the_printed_ends() -> None:
    np.testing.assert_allclose(window(np.array([-1350, -600, 150, 900]), -600, 1500), [0, 0.5, 1, 1])
    np.testing.assert_allclose(window(np.array([-1300, -100, -2000]), -700, 1200), [0, 1, 0], atol=1e-7)
    assert window(np.array([0], dtype=np.int16), -600, 1500).dtype == np.float32
    with pytest.raises(ValueError, match="width"):
        window(np.array([0]), 0, 0)


def test_crop_box_has_the_lungs_and_the_margin_and_not_the_table() -> None:
    # The element of 8 x 1 may take a few rows off the rounded corners; these lungs have none.
    assert crop_box(chest_slice()) == (140, 110, 310, 400)
    assert crop_box(chest_slice(), margin=0) == (150, 120, 300, 390)


def test_crop_box_is_clipped_at_the_image() -> None:
    assert crop_box(chest_slice(), margin=300) == (0, 0, 512, 512)


def test_padding_below_air_counts_as_air() -> None:
    hu = chest_slice()
    hu[hu == -1000] = -2000
    assert crop_box(hu) == (140, 110, 310, 400)


@pytest.mark.parametrize("hu", [-1000, 40])
def test_no_lung_gives_no_box(hu: int) -> None:
    assert crop_box(np.full((64, 64), hu, dtype=np.int16)) is None
    assert crop_box(np.full((5, 64), hu, dtype=np.int16)) is None


def test_parts_thinner_than_the_element_do_not_count() -> None:
    hu = np.full((64, 64), 40, dtype=np.int16)
    hu[20:27, 10:50] = -900  # 7 rows
    assert crop_box(hu) is None
    hu[20:28, 30:35] = -900  # 8 rows
    assert crop_box(hu, margin=0) == (20, 30, 28, 35)


@pytest.mark.slow
def test_crop_of_a_large_volume_takes_less_than_a_second() -> None:
    volume = np.repeat(chest_slice()[None], 300, axis=0)
    start = time.process_time()
    for hu_slice in volume:
        crop_box(hu_slice)
    assert time.process_time() - start < 1.0


def test_lungs_of_a_phantom(chest_of, volume_of) -> None:
    volume = volume_of(chest_of())
    lungs = find_lungs(volume.hu, volume.geometry)
    truth = (volume.hu > -920) & (volume.hu < -780)
    assert lungs is not None
    assert 2 * (lungs & truth).sum() / (lungs.sum() + truth.sum()) > 0.95
    assert volume_ml(lungs.areas(), volume.geometry) == pytest.approx(
        truth.sum() * 1.5 * 1.5 * 5 / 1000, rel=0.08
    )
    top, left, bottom, right = volume_box(lungs, margin=0)  # type: ignore[misc]
    assert (top, bottom) == pytest.approx((96 - 46, 96 + 46), abs=3)
    assert (left, right) == pytest.approx((0.3 * 192 - 27, 0.7 * 192 + 27), abs=3)
    assert 30 <= slices_with_lung(lungs, volume.geometry).sum() < 40


def test_a_dense_lesion_at_the_pleura_belongs_to_the_lungs(chest_of, volume_of) -> None:
    hu = chest_of()
    edge = int(0.3 * 192 - 0.14 * 192)
    lesion = np.zeros(hu.shape, dtype=bool)
    lesion[15:25, 90:102, edge : edge + 12] = True
    lesion &= hu < -700
    hu[lesion] = 20
    volume = volume_of(hu)
    lungs = find_lungs(volume.hu, volume.geometry)
    assert lungs is not None
    assert (lungs & lesion).sum() > 0.8 * lesion.sum()


def test_bowel_gas_is_no_lung(chest_of, volume_of) -> None:
    hu = chest_of()
    gas = np.zeros(hu.shape, dtype=bool)
    gas[:, 140:156, 84:108] = True
    hu[gas] = -990
    volume = volume_of(hu)
    lungs = find_lungs(volume.hu, volume.geometry)
    assert lungs is not None
    assert (lungs & gas).sum() < 0.05 * gas.sum()


@pytest.mark.parametrize("hu", [-1000, -300, 40])
def test_no_lungs_in_uniform_matter(hu: int, volume_of) -> None:
    volume = volume_of(np.full((30, 64, 64), hu))
    assert find_lungs(volume.hu, volume.geometry) is None


def test_a_length_in_pixels(volume_of) -> None:
    geometry = volume_of(np.zeros((3, 21, 21)), pixel=2.0).geometry
    assert in_pixels(6.0, geometry) == (3, 3)
    assert in_pixels(0.5, geometry) == (0, 0)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("case", "litres"),
    [("covid-1", (6, 7)), ("cap-1", (5.5, 6.8)), ("normal-1", (3.3, 4)), ("nlst-1", (0.9, 1.2))],
)
def test_lungs_of_real_series(real_data: Path, case: str, litres: tuple[float, float]) -> None:
    volume = load_series((real_data / "ct" / case).iterdir())
    lungs = find_lungs(volume.hu, volume.geometry)
    assert lungs is not None
    assert litres[0] < volume_ml(lungs.areas(), volume.geometry) / 1000 < litres[1]
    assert np.median(volume.hu[lungs]) < -700
    first, last = np.flatnonzero(slices_with_lung(lungs, volume.geometry))[[0, -1]]
    assert slices_with_lung(lungs, volume.geometry)[first : last + 1].all()

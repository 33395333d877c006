from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from engine.findings import PneumoniaClass
from training.simulation import Anatomy, Rates, describe, insert_lesions, sample_lesions, simulate_case
from training.simulation.lesions import Ellipsoid, Filling, Lesion, Lobe, Wedge, render

SPACING = (5.0, 2.5, 2.5)


QUIET = Rates(expiration=0, dependent_haze=0, emphysema=0, scars=0, granuloma=0)
ILL = (PneumoniaClass.COVID19, PneumoniaClass.H1N1, PneumoniaClass.CAP)


@dataclass(frozen=True, eq=False)
class Chest:
    """Two ellipsoid lungs in a body of soft tissue.

    hu int16 [16, 96, 128] with noise, lungs bool of the same shape, and its anatomy.
    """

    hu: npt.NDArray[np.int16]
    lungs: npt.NDArray[np.bool_]
    anatomy: Anatomy


@pytest.fixture(scope="session")
def chest() -> Chest:
    z, y, x = np.mgrid[0:16, 0:96, 0:128]
    lungs = np.zeros(z.shape, dtype=np.bool_)
    for middle in (38, 90):
        lungs |= ((z - 8) / 8.5) ** 2 + ((y - 48) / 32) ** 2 + ((x - middle) / 20) ** 2 < 1
    noise = np.random.default_rng(0).normal(0, 15, z.shape)
    hu = np.where(lungs, -850, 40) + noise
    return Chest(hu.astype(np.int16), lungs, describe(lungs, SPACING, np.random.default_rng(0)))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("disease", ILL)
@pytest.mark.parametrize("seed", range(4))
def test_mask_is_inside_the_lungs_and_on_raised_voxels(
    chest: Chest, disease: PneumoniaClass, seed: int
) -> None:
    case = simulate_case(chest.hu, chest.anatomy, disease, rng(seed), QUIET)
    rise = case.hu.astype(int) - chest.hu
    assert case.hu.dtype == np.int16
    assert case.mask.any()
    assert not case.mask[~chest.lungs].any()
    assert (rise[case.mask] >= 60).all()
    assert (rise >= 0).all()
    assert (rise[~chest.anatomy.rim] == 0).all()


def test_seed_decides_everything(chest: Chest) -> None:
    one, same, other = (
        simulate_case(chest.hu, chest.anatomy, PneumoniaClass.COVID19, rng(seed)) for seed in (5, 5, 6)
    )
    assert np.array_equal(one.hu, same.hu)
    assert np.array_equal(one.mask, same.mask)
    assert not np.array_equal(one.hu, other.hu)


def test_background_is_left_untouched(chest: Chest) -> None:
    before = chest.hu.copy()
    simulate_case(chest.hu, chest.anatomy, PneumoniaClass.CAP, rng(1))
    assert np.array_equal(chest.hu, before)


def test_healthy_case_has_look_alikes_but_no_lesion(chest: Chest) -> None:
    always = Rates(expiration=1, dependent_haze=1, emphysema=1, scars=1, granuloma=1)
    case = simulate_case(chest.hu, chest.anatomy, PneumoniaClass.HEALTHY, rng(3), always)
    assert not case.mask.any()
    assert not np.array_equal(case.hu, chest.hu)
    assert np.array_equal(case.hu[~chest.lungs], chest.hu[~chest.lungs])


def test_covid_is_more_peripheral_and_more_often_bilateral_than_cap(chest: Chest) -> None:
    def traits(disease: PneumoniaClass) -> tuple[float, float]:
        depths, both = [], 0
        for seed in range(20):
            mask = simulate_case(chest.hu, chest.anatomy, disease, rng(seed), QUIET).mask
            depths.append(float(chest.anatomy.depth[mask].mean()) if mask.any() else np.nan)
            both += mask[:, :, :64].sum() > 20 and mask[:, :, 64:].sum() > 20
        return float(np.nanmean(depths)), both / 20

    covid, cap = traits(PneumoniaClass.COVID19), traits(PneumoniaClass.CAP)
    assert covid[0] < cap[0]
    assert covid[1] > cap[1]


def test_cap_is_denser_than_covid(chest: Chest) -> None:
    def density(disease: PneumoniaClass) -> float:
        cases = [simulate_case(chest.hu, chest.anatomy, disease, rng(seed), QUIET) for seed in range(20)]
        return float(np.mean([case.hu[case.mask].mean() for case in cases if case.mask.any()]))

    assert density(PneumoniaClass.CAP) > density(PneumoniaClass.COVID19) + 100


def test_opaque_ellipsoid_takes_its_filling_and_its_place(chest: Chest) -> None:
    lesion = Lesion(Ellipsoid((8, 48, 38), (20, 20, 20)), Filling(hu=-100, contrast=0, opacity=1), warp=0)
    case = insert_lesions(chest.hu, chest.anatomy, PneumoniaClass.CAP, [lesion], rng())
    assert case.mask[8, 48, 38]
    assert not case.mask[8, 48, 90]
    assert abs(case.hu[8, 48, 38] + 100) < 40
    covered_ml = case.mask.sum() * np.prod(SPACING) / 1000
    assert 20 < covered_ml < 4 / 3 * np.pi * 2**3 * 1.1


def test_plane_cuts_a_lobe_and_a_wedge_widens_away_from_its_apex(chest: Chest) -> None:
    lobe = render(
        Lesion(Lobe((8, 48, 38), 30, (0, 1, 0)), Filling(0, 0, 1), 0.1, warp=0), chest.anatomy, rng()
    )
    assert lobe is not None
    first = lobe.window[1].start
    assert lobe.opacity[:, : 48 - first].max() == 0
    assert lobe.opacity[:, 52 - first :].max() > 0.9
    wedge = Lesion(Wedge((8, 60, 38), (0, -60, 0), 0.5, 50), Filling(0, 0, 1), 0.1, warp=0)
    patch = render(wedge, chest.anatomy, rng())
    assert patch is not None
    widths = (patch.opacity > 0.5).sum(axis=(0, 2))
    near, far = 45 - patch.window[1].start, 62 - patch.window[1].start
    assert 0 < widths[near] < widths[far]


def test_lesion_outside_of_the_volume_is_none(chest: Chest) -> None:
    away = Lesion(Ellipsoid((8, 900, 38), (10, 10, 10)), Filling(0))
    assert render(away, chest.anatomy, rng()) is None


def test_healthy_has_no_lesions(chest: Chest) -> None:
    assert sample_lesions(PneumoniaClass.HEALTHY, chest.anatomy, rng()) == []


def test_no_lungs_is_an_error() -> None:
    with pytest.raises(ValueError, match="no lung"):
        describe(np.zeros((2, 8, 8), dtype=np.bool_), SPACING, rng())


def test_single_slice_can_be_simulated(chest: Chest) -> None:
    hu, lungs = chest.hu[8:9], chest.lungs[8:9]
    case = simulate_case(hu, describe(lungs, SPACING, rng()), PneumoniaClass.COVID19, rng(2), QUIET)
    assert case.hu.shape == hu.shape
    assert case.mask.any()

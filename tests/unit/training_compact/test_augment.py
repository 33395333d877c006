from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from training.compact.augment import Strength, lung_views, sample, square_views, window
from training.compact.pool import Pool, Table


def pool_of(hu: npt.NDArray[np.int16], mask: npt.NDArray[np.bool_], aspect: float = 1.0) -> Pool:
    """A pool of one slice whose lung box is its middle half."""
    table = Table(
        kind=np.array(["series"]),
        patient=np.array(["p"]),
        case=np.array([0]),
        order=np.array([0]),
        label=np.array([1]),
        disease=np.array([1]),
        masked=np.array([True]),
        box=np.array([[0.25, 0.25, 0.75, 0.75]]),
        aspect=np.array([aspect]),
        split=np.array(["train"]),
    )
    return Pool(hu[None], mask[None], table)


@pytest.fixture
def pool() -> Pool:
    y, x = np.mgrid[0:64, 0:64]
    return pool_of((10 * y - x).astype(np.int16), (y >= 32) & (x >= 32))


ONE = np.array([0])


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_whole_square_view_is_the_slice_itself(pool: Pool) -> None:
    hu, mask = sample(pool, ONE, square_views(pool, ONE, (1.0, 1.0), rng()), 64, None, rng())
    assert torch.allclose(hu[0, 0], torch.from_numpy(pool.hu[0].astype(np.float32)), atol=1e-2)
    assert np.array_equal(mask[0, 0].numpy() > 0, pool.mask[0])


def test_lung_view_is_the_box(pool: Pool) -> None:
    hu, _ = sample(pool, ONE, lung_views(pool, ONE, 0.0, rng()), 32, None, rng())
    assert torch.allclose(hu[0, 0], torch.from_numpy(pool.hu[0, 16:48, 16:48].astype(np.float32)), atol=1e-2)


def test_wide_picture_gives_its_centred_square() -> None:
    hu = np.tile(np.arange(64, dtype=np.int16), (64, 1))
    wide = pool_of(hu, np.zeros((64, 64), dtype=np.bool_), aspect=2.0)
    seen, _ = sample(wide, ONE, square_views(wide, ONE, (1.0, 1.0), rng()), 64, None, rng())
    assert seen.min() == pytest.approx(16, abs=1)
    assert seen.max() == pytest.approx(47, abs=1)


def test_outside_of_the_slice_is_air(pool: Pool) -> None:
    hu, mask = sample(pool, ONE, square_views(pool, ONE, (2.0, 2.0), rng()), 64, None, rng())
    assert (hu[0, 0, :8] == -1024).all()
    assert mask[0, 0, :8].sum() == 0


def test_variation_moves_image_and_mask_together(pool: Pool) -> None:
    bright = pool_of(np.where(pool.mask[0], 0, -900).astype(np.int16), pool.mask[0])
    quiet = Strength(kernel=(0.0, 0.0), noise=0.0, shift=0.0, gain=0.0)
    hu, mask = sample(bright, ONE, square_views(bright, ONE, (0.7, 1.0), rng()), 64, quiet, rng())
    agreement = ((hu > -450) == (mask > 0.5)).float().mean()
    assert agreement > 0.97
    assert not torch.equal(mask[0, 0] > 0, torch.from_numpy(bright.mask[0]))


def test_full_blur_smooths_and_noise_roughens(pool: Pool) -> None:
    still = {"turn": 0.0, "bend": 0.0, "flip": 0.0, "shift": 0.0, "gain": 0.0}
    views = square_views(pool, ONE, (1.0, 1.0), rng())

    def roughness(strength: Strength) -> float:
        hu, _ = sample(pool, ONE, views, 64, strength, np.random.default_rng(3))
        return float((hu[..., 2:, :] - 2 * hu[..., 1:-1, :] + hu[..., :-2, :]).abs().mean())

    calm = roughness(Strength(**still, kernel=(0.0, 0.0), noise=0.0))
    assert roughness(Strength(**still, kernel=(0.0, 0.0), noise=200.0)) > calm + 1


def test_window_maps_its_ends_to_black_and_white() -> None:
    hu = torch.tensor([-1350.0, -600.0, 150.0, 900.0]).reshape(1, 1, 1, 4)
    grey = window(hu, -600, 1500)[0, 0, 0] * 0.229 + 0.485
    assert torch.allclose(grey, torch.tensor([0.0, 0.5, 1.0, 1.0]), atol=1e-6)

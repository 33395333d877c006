"""Views and distortions: where a network looks, and that image and mask stay together."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.distortion import seen
from training.recipe import Augmentation
from training.views import WHOLE, View, centred_square, moved_edges, of_box, random_part

Y, X = np.mgrid[0:64, 0:64].astype(np.float32)
SLOPE = 10 * Y - X
CORNER = (Y >= 32) & (X >= 32)
NONE = np.zeros((64, 64), dtype=np.bool_)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def look(
    hu: npt.NDArray[np.float32],
    mask: npt.NDArray[np.bool_] = NONE,
    view: View = WHOLE,
    size: int = 64,
    augmentation: Augmentation | None = None,
    seed: int = 0,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    values, lesion = seen(hu, mask, view, size, augmentation, rng(seed))
    return values[0, 0].numpy(), lesion[0, 0].numpy() > 0


def test_the_whole_view_is_the_slice_itself() -> None:
    hu, mask = look(SLOPE, CORNER)
    assert np.allclose(hu, SLOPE, atol=1e-2)
    assert np.array_equal(mask, CORNER)


def test_a_box_shows_what_is_in_it() -> None:
    hu, _ = look(SLOPE, view=of_box((0.25, 0.5, 0.75, 1.0)), size=32)
    assert np.allclose(hu, SLOPE[16:48, 32:64], atol=1e-2)


def test_a_wide_picture_gives_its_centred_square() -> None:
    hu, _ = look(X, view=centred_square(aspect=2.0, fraction=1.0))
    assert hu.min() == pytest.approx(16, abs=1)
    assert hu.max() == pytest.approx(47, abs=1)


def test_outside_of_the_slice_is_air() -> None:
    hu, mask = look(SLOPE, CORNER, View(half=(2.0, 2.0)))
    assert (hu[:8] == -1024).all()
    assert not mask[:8].any()


@given(st.integers(0, 1000), st.floats(0.3, 1.0), st.floats(0.1, 1.0))
def test_a_random_part_lies_in_the_slice(seed: int, low: float, half: float) -> None:
    part = random_part(View(half=(half, 1.0)), (low, 1.0), 0.1, rng(seed))
    for centre, side in zip(part.centre, part.half, strict=True):
        assert 0 < side <= 1
        assert abs(centre) + side <= 1 + 1e-9


@given(st.integers(0, 1000))
def test_every_edge_moves_by_no_more_than_its_share(seed: int) -> None:
    box = View((0.1, -0.2), (0.5, 0.4))
    moved = moved_edges(box, 0.1, rng(seed))
    for axis in (0, 1):
        for sign in (-1, 1):
            before = box.centre[axis] + sign * box.half[axis]
            after = moved.centre[axis] + sign * moved.half[axis]
            assert abs(after - before) <= 0.1 * 2 * box.half[axis] + 1e-9


def test_image_and_mask_move_together() -> None:
    bright = np.where(CORNER, 0, -900).astype(np.float32)
    hu, mask = look(bright, CORNER, augmentation=Augmentation(turn=20, bend=0.05, flip=1.0))
    assert ((hu > -450) == mask).mean() > 0.97
    assert not np.array_equal(mask, CORNER)


def roughness(augmentation: Augmentation) -> float:
    slices = [look(SLOPE, augmentation=augmentation, seed=seed)[0] for seed in range(6)]
    return float(np.mean([np.abs(hu[2:] - 2 * hu[1:-1] + hu[:-2]).mean() for hu in slices]))


def test_noise_roughens_and_a_soft_kernel_smooths() -> None:
    assert roughness(Augmentation(noise=200)) > roughness(Augmentation()) + 1
    rough = rng(1).normal(0, 100, (64, 64)).astype(np.float32)
    soft = Augmentation(kernel=(-1.0, -1.0), kernel_share=1.0)
    assert look(rough, augmentation=soft)[0].std() < 0.8 * rough.std()


def test_offset_and_gain_leave_air_where_it_is() -> None:
    hu, _ = look(np.full((64, 64), -1024, np.float32), augmentation=Augmentation(gain=0.1))
    assert np.allclose(hu, -1024, atol=1e-2)
    hu, _ = look(SLOPE, augmentation=Augmentation(offset=50))
    assert np.ptp(hu - SLOPE) < 0.1
    assert not np.allclose(hu, SLOPE, atol=1)


def test_the_same_seed_shows_the_same() -> None:
    strong = Augmentation(turn=20, bend=0.05, flip=0.5, noise=50, kernel=(-1, 1), offset=20, gain=0.1)
    assert np.array_equal(look(SLOPE, augmentation=strong)[0], look(SLOPE, augmentation=strong)[0])
    assert not np.array_equal(
        look(SLOPE, augmentation=strong)[0], look(SLOPE, augmentation=strong, seed=1)[0]
    )
    assert torch.equal(*(seen(SLOPE, CORNER, WHOLE, 32, strong, rng())[1] for _ in range(2)))

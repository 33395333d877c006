from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.simulation.fields import layered_noise, ramp, smooth_noise


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 40), st.integers(1, 40)),
    wavelength=st.floats(1.0, 60.0),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_grid_gets_a_finite_field_of_its_shape(
    shape: tuple[int, int, int], wavelength: float, seed: int
) -> None:
    field = smooth_noise(shape, (5.0, 1.3, 1.3), wavelength, np.random.default_rng(seed))
    assert field.shape == shape
    assert field.dtype == np.float32
    assert np.isfinite(field).all()


@pytest.mark.parametrize("wavelength", [3.0, 8.0, 20.0])
def test_variance_is_about_one_and_long_waves_are_smoother(wavelength: float) -> None:
    field = smooth_noise((30, 90, 90), (2.0, 1.3, 1.3), wavelength, np.random.default_rng(1))
    assert 0.7 < field.std() < 1.3
    rough = smooth_noise((30, 90, 90), (2.0, 1.3, 1.3), wavelength / 2.5, np.random.default_rng(1))
    assert np.abs(np.diff(field, axis=2)).mean() < np.abs(np.diff(rough, axis=2)).mean()


def test_layers_keep_about_unit_variance_whatever_their_persistence() -> None:
    for persistence in (1.0, 0.3):
        rng = np.random.default_rng(2)
        field = layered_noise((20, 80, 80), (2.0, 1.3, 1.3), (10.0, 4.0), rng, persistence)
        assert 0.75 < field.std() < 1.25


def test_ramp_rises_from_zero_to_one() -> None:
    values = np.linspace(-1, 2, 31, dtype=np.float32)
    risen = ramp(values, 0.0, 1.0)
    assert risen[values <= 0].max() == 0
    assert risen[values >= 1].min() == 1
    assert (np.diff(risen) >= 0).all()

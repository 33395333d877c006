"""Sampling there and back, for any crop, number and spacing of samples, turned or not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.own_model.sampling import Axis, at_places, returned, sampled, spaced, stretched

LENGTH = 30


@st.composite
def axes(draw: st.DrawFn) -> Axis:
    """An axis over some of 30 voxels."""
    first = draw(st.integers(0, LENGTH - 1))
    end = draw(st.integers(first + 1, LENGTH))
    count, turned = draw(st.integers(1, 50)), draw(st.booleans())
    if draw(st.booleans()):
        return stretched(first, end, LENGTH, count, turned=turned)
    step = draw(st.floats(0.2, 5, allow_nan=False))
    return spaced(first, end, LENGTH, step, count, turned=turned)


@settings(max_examples=80, deadline=None)
@given(axes())
def test_a_ramp_stays_a_ramp(axis: Axis) -> None:
    """Linear interpolation keeps what is linear, there and back, wherever it does not have to extrapolate."""
    ramp = np.arange(LENGTH, dtype=np.float32)
    there = sampled(ramp, axis, 0, fill=-1.0)
    inside = (axis.positions >= -0.5) & (axis.positions <= LENGTH - 0.5)
    assert there[inside] == pytest.approx(np.clip(axis.positions[inside], 0, LENGTH - 1), abs=1e-4)
    assert (there[~inside] == -1).all()
    back = returned(there, axis, 0)
    voxels = np.arange(LENGTH)[axis.covered]
    assert len(back) == len(voxels)
    ends = np.sort(axis.positions[(axis.positions >= 0) & (axis.positions <= LENGTH - 1)])
    if len(ends) > 1:
        between = (voxels >= ends[0]) & (voxels <= ends[-1])
        assert back[between] == pytest.approx(voxels[between], abs=1e-3)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, LENGTH - 1), st.integers(1, LENGTH), st.integers(1, 50), st.booleans())
def test_a_stretched_axis_covers_its_crop_and_nothing_else(
    first: int, size: int, count: int, turned: bool
) -> None:
    end = min(first + size, LENGTH)
    axis = stretched(first, end, LENGTH, count, turned=turned)
    assert (axis.covered.start, axis.covered.stop) == (first, end)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.5, 6), min_size=2, max_size=20), st.floats(0.3, 4), st.booleans())
def test_places_in_mm_find_slices_with_uneven_gaps(gaps: list[float], step: float, turned: bool) -> None:
    offsets = np.concatenate([[0.0], np.cumsum(gaps)])
    places = np.arange(0, offsets[-1], step)
    axis = at_places(places, offsets, turned=turned)
    found = sampled(offsets.astype(np.float32), axis, 0, fill=np.nan)
    assert found[:: -1 if turned else 1] == pytest.approx(places, abs=1e-3)

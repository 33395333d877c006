"""Morphology on packed slices gives what scipy and SimpleITK give one slice at a time."""

from __future__ import annotations

import numpy as np
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from engine.morphology import closed_by_disc, grown_by_rectangle

masks = st.builds(
    lambda seed, slices, rows, columns, share: (
        np.random.default_rng(seed).random((slices, rows, columns)) < share
    ),
    st.integers(0, 10**6),
    st.integers(1, 19),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([0.002, 0.05, 0.5]),
)


@settings(max_examples=40, deadline=None)
@given(masks, st.integers(0, 9), st.integers(0, 9))
def test_growth_by_a_rectangle(mask, rows: int, columns: int) -> None:
    element = np.ones((1, 2 * rows + 1, 2 * columns + 1), dtype=bool)
    expected = ndimage.binary_dilation(mask, element)
    np.testing.assert_array_equal(grown_by_rectangle(mask, rows, columns), expected)


@settings(max_examples=40, deadline=None)
@given(masks, st.integers(1, 9), st.integers(1, 9))
def test_closing_by_a_disc(mask, rows: int, columns: int) -> None:
    image = SimpleITK.GetImageFromArray(mask.view(np.uint8))
    expected = SimpleITK.BinaryMorphologicalClosing(image, [columns, rows, 0], SimpleITK.sitkBall)
    found = closed_by_disc(mask, rows, columns)
    np.testing.assert_array_equal(found, SimpleITK.GetArrayFromImage(expected).view(bool))
    assert found[mask].all()

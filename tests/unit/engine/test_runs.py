"""Runs of masks: connected as scipy connects them, summed as the voxels are."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from engine.label_volume import LabelVolume
from engine.runs import connected, labelled, runs_of


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 10**6),
    st.tuples(st.integers(1, 7), st.integers(1, 12), st.integers(1, 12)),
    st.sampled_from([0.02, 0.08, 0.2, 0.6, 1.0]),
)
def test_parts_are_those_of_the_26_neighbourhood(seed: int, shape: tuple[int, ...], share: float) -> None:
    mask = np.random.default_rng(seed).random(shape) < share
    mask.flat[seed % mask.size] = True
    runs = runs_of(LabelVolume.of(mask))
    of_run, count = connected(runs)
    expected, parts = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    found = np.zeros(shape, dtype=int)
    found[mask] = np.repeat(of_run + 1, runs.lengths)
    assert count == parts
    assert len(np.unique(np.stack([found[mask], expected[mask]]), axis=1).T) == parts
    np.testing.assert_array_equal(labelled(runs, of_run + 1, shape), found)
    np.testing.assert_array_equal(labelled(runs, of_run, shape), np.where(mask, found - 1, 0))


def test_places_centres_and_sums() -> None:
    mask = np.zeros((2, 3, 6), dtype=bool)
    mask[0, 1, 2:5] = mask[1, 2, 5] = mask[1, 0, 0] = True
    values = np.arange(mask.size, dtype=np.int16).reshape(mask.shape)
    runs = runs_of(LabelVolume.of(mask))
    np.testing.assert_array_equal(runs.centres, [[0, 1, 3], [1, 0, 0], [1, 2, 5]])
    np.testing.assert_array_equal(runs.lengths, [3, 1, 1])
    np.testing.assert_array_equal(runs.sums(values[mask]), [8 + 9 + 10, 18, 35])
    last = runs.taken(np.array([2]))
    assert (last.z[0], last.y[0], last.x[0]) == (1, 2, 5)

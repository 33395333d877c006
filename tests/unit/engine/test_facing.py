"""A patient who lies prone, or is stored head to feet, is shown to the networks as all others are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from turned_series import stored_as

from engine.facing import Facing, facing_of
from engine.runners.interface import Results, Runner, RunnerOptions, Tensors
from engine.screening import open_systems, screen

EXACT = RunnerOptions(precision="f32", threads=1, batch=5)

PRONE = Facing(rows=True, columns=True)
MIRRORED = Facing(slices=True, columns=True)
FEET_LAST = Facing(slices=True, rows=True)


class _Watched:
    """A runner that keeps what it is given, one entry for each call."""

    def __init__(self, runner: Runner) -> None:
        self._runner, self.given = runner, defaultdict(list)
        self.description = runner.description

    def run(self, graph: str, inputs: Tensors) -> Results:
        return next(self.run_each(graph, [inputs]))

    def run_each(self, graph: str, inputs: Iterable[Tensors]) -> Iterator[Results]:
        for tensors in inputs:
            self.given[graph] += [values.copy() for values in tensors.values()]
            yield self._runner.run(graph, tensors)

    def close(self) -> None:
        self._runner.close()


@pytest.mark.parametrize("facing", [PRONE, MIRRORED, FEET_LAST])
def test_networks_are_shown_every_patient_the_same_way_round(
    facing: Facing, chest_of, volume_of, package_paths: list[Path]
) -> None:
    usual = volume_of(chest_of(lesion=True))
    seen, found = [], []
    for volume in (usual, stored_as(usual, facing)):
        assert facing_of(volume.geometry) == (Facing() if volume is usual else facing)
        with open_systems(package_paths, EXACT) as systems:
            jcs, m3lung = _Watched(systems.jcs.runner), _Watched(systems.m3lung.runner)
            watched = replace(
                systems, jcs=replace(systems.jcs, runner=jcs), m3lung=replace(systems.m3lung, runner=m3lung)
            )
            found.append(screen(volume, watched))
        seen.append({**jcs.given, **m3lung.given})
    as_usual, otherwise = found
    np.testing.assert_array_equal(seen[0]["patient"], seen[1]["patient"])
    for graph in ("classify", "segment", "slices"):
        one, other = (np.concatenate(given[graph]) for given in seen)
        np.testing.assert_array_equal(_sorted(one), _sorted(other))
    np.testing.assert_array_equal(
        as_usual.lesion_labels, facing.ordered(facing.turned(np.asarray(otherwise.lesion_labels)))
    )
    for maps in (lambda f: f.jcs.activation_maps, lambda f: f.m3lung.location_maps):
        np.testing.assert_allclose(
            maps(as_usual), facing.ordered(facing.turned(maps(otherwise))), rtol=0, atol=1e-6
        )
    assert otherwise.lesions[0].centroid == pytest.approx(as_usual.lesions[0].centroid)
    assert otherwise.m3lung.probabilities == as_usual.m3lung.probabilities


def _sorted(slices: np.ndarray) -> np.ndarray:
    """Slices in an order that their content alone decides."""
    return slices[np.lexsort(slices.reshape(len(slices), -1)[:, :: len(slices[0]) + 1].T)]


def test_an_oblique_series_has_no_side_that_faces_wrongly(volume_of) -> None:
    half = np.sqrt(0.5)
    straight = volume_of(np.zeros((20, 8, 8))).geometry
    oblique = replace(
        straight, row_direction=np.array([half - 0.1, 0, half]), column_direction=np.array([0, 1.0, 0])
    )
    assert facing_of(oblique) is None
    assert facing_of(straight, "RAS") == Facing(rows=True, columns=True)
    assert facing_of(straight, "LPI") == Facing(slices=True)

"""Slices are used as they are decoded; what goes wrong reaches those who wait; results are those of the volume."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.arriving import ArrivingVolume
from engine.errors import NotScreenable, Undecodable
from engine.findings import Findings
from engine.jcs import classify_ahead
from engine.lungs import find_lungs, may_hold_lung, slices_with_lung
from engine.runners.interface import RunnerOptions
from engine.screening import open_systems, screen
from engine.volume import Volume

EXACT = RunnerOptions(precision="f32", threads=1, batch=5)


def arriving(
    volume: Volume,
    *,
    order: list[int] | None = None,
    gate: threading.Event | None = None,
    gate_at: int = -1,
    broken_at: int = -1,
) -> ArrivingVolume:
    """`volume` slice by slice; waits for `gate` before the `gate_at`th, raises at the `broken_at`th."""
    empty = replace(volume, hu=np.full_like(volume.hu, 3000))

    def decoding() -> Iterator[int]:
        for count, z in enumerate(order or range(len(volume.hu))):
            if count == broken_at:
                raise Undecodable("0007.dcm cannot be decoded: damaged")
            if count == gate_at:
                assert gate is not None and gate.wait(60)
            empty.hu[z] = volume.hu[z]
            yield z

    return ArrivingVolume(empty, decoding())


def assert_same(one: Findings, other: Findings) -> None:
    np.testing.assert_array_equal(one.jcs.slice_probabilities, other.jcs.slice_probabilities)
    np.testing.assert_array_equal(one.jcs.activation_maps, other.jcs.activation_maps)
    np.testing.assert_array_equal(one.lesion_labels, other.lesion_labels)
    np.testing.assert_array_equal(one.m3lung.location_maps, other.m3lung.location_maps)
    assert one.m3lung.probabilities == other.m3lung.probabilities
    assert one.key_slices == other.key_slices


@pytest.mark.parametrize("order", [None, list(reversed(range(40)))])
def test_a_volume_that_arrives_is_screened_as_one_that_is_there(
    chest_of, volume_of, package_paths: list[Path], order: list[int] | None
) -> None:
    volume = volume_of(chest_of(lesion=True))
    with open_systems(package_paths, EXACT) as systems:
        expected = screen(volume, systems)
        with arriving(volume, order=order) as series:
            assert_same(screen(series, systems), expected)
            assert series.whole().hu.tolist() == volume.hu.tolist()


def test_slices_are_classified_while_others_are_still_to_come(
    chest_of, volume_of, package_paths: list[Path]
) -> None:
    volume = volume_of(chest_of(lesion=True))
    late = len(volume.hu) - 1
    gate, seen = threading.Event(), []

    def lungs_known() -> bool:
        return False

    class Watched:
        """Notes what is classified, and lets the last slice come once something was."""

        def __init__(self, runner) -> None:
            self._runner = runner

        def run_each(self, graph, inputs):
            for output in self._runner.run_each(graph, inputs):
                seen.append(len(output["probability"]))
                gate.set()
                yield output

    with open_systems(package_paths, EXACT) as systems:
        expected = screen(volume, systems).jcs.slice_probabilities
        watched = replace(systems.jcs, runner=Watched(systems.jcs.runner))
        with arriving(volume, gate=gate, gate_at=late) as series:
            scores = classify_ahead(series, lungs_known, watched)
    assert seen, "nothing was classified before the last slice came"
    np.testing.assert_array_equal(scores.probabilities[scores.seen], expected[scores.seen])
    assert scores.seen.sum() >= np.count_nonzero(expected)


def test_nothing_is_guessed_once_the_lungs_are_known(chest_of, volume_of, package_paths: list[Path]) -> None:
    with open_systems(package_paths, EXACT) as systems:
        assert not classify_ahead(volume_of(chest_of()), lambda: True, systems.jcs).seen.any()


def test_no_batch_is_made_of_slices_that_cannot_have_lung(
    chest_of, volume_of, package_paths: list[Path]
) -> None:
    volume = volume_of(np.full((40, 64, 64), 40))
    with open_systems(package_paths, EXACT) as systems:
        assert not classify_ahead(volume, lambda: False, systems.jcs).seen.any()
        with pytest.raises(NotScreenable, match="no lungs found"), arriving(volume) as series:
            screen(series, systems)


def test_a_slice_that_cannot_be_decoded_ends_the_screening(
    chest_of, volume_of, package_paths: list[Path]
) -> None:
    volume = volume_of(chest_of())
    with (
        open_systems(package_paths, EXACT) as systems,
        arriving(volume, broken_at=30) as series,
        pytest.raises(Undecodable, match=r"0007\.dcm"),
    ):
        screen(series, systems)


def test_what_nobody_waits_for_is_not_decoded_to_its_end(volume_of) -> None:
    volume = volume_of(np.zeros((40, 8, 8)))
    gate = threading.Event()
    with arriving(volume, gate=gate, gate_at=3) as series:
        assert series.wait((0, 2))[2, 0, 0] == 0
        threading.Timer(0.05, gate.set).start()
    with pytest.raises(RuntimeError, match="no longer being decoded"):
        series.wait((39,))


def test_the_guess_is_near_what_the_lungs_say(chest_of, volume_of) -> None:
    volume = volume_of(chest_of(lesion=True))
    lungs = find_lungs(volume.hu, volume.geometry)
    assert lungs is not None
    with_lung = slices_with_lung(lungs, volume.geometry)
    guessed = np.array([may_hold_lung(hu, volume.geometry) for hu in volume.hu])
    assert with_lung.any()
    assert not with_lung.all()
    assert np.count_nonzero(guessed != with_lung) <= 2

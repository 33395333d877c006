"""Lesions are said to lie on the side of the patient, not of the picture."""

from __future__ import annotations

import dataclasses

import pytest

from engine.findings import Lesion
from reporting.location import LungExtent, Place, lung_extent, place_of
from reporting.phantom_case import PhantomCase, make_case

LUNGS = LungExtent(x=(-100.0, 120.0), z=(-500.0, -200.0))


def lesion(x: float, z: float) -> Lesion:
    return Lesion(1, 1.0, (x, 0.0, z), (0, 0), 0, -500.0)


@pytest.mark.parametrize(
    ("x", "z", "words"),
    [
        (-60.0, -480.0, "right, lower third of the lungs"),
        (80.0, -350.0, "left, middle third of the lungs"),
        (80.0, -210.0, "left, upper third of the lungs"),
        (12.0, -210.0, "midline, upper third of the lungs"),
    ],
)
def test_side_and_third(x: float, z: float, words: str) -> None:
    place = place_of((lesion(x, z),), LUNGS)
    assert place is not None and place.words == words


def test_lesions_at_two_places_have_none() -> None:
    assert place_of((lesion(-60, -480), lesion(80, -480)), LUNGS) is None
    assert place_of((lesion(-60, -480), lesion(-70, -490)), LUNGS) == Place("right", "lower")


@pytest.mark.parametrize(
    "orientation",
    [(1, 0, 0, 0, 1, 0), (-1, 0, 0, 0, -1, 0), (-1, 0, 0, 0, 1, 0)],
    ids=["supine", "prone", "feet first"],
)
def test_the_side_is_of_the_patient_in_every_position(orientation: tuple[float, ...]) -> None:
    findings, volume = make_case(PhantomCase(orientation=orientation))
    lungs = lung_extent(findings, volume)
    assert lungs is not None
    middle = sum(lungs.x) / 2
    for one in findings.lesions:
        place = place_of((one,), lungs)
        assert place is not None
        assert place.side == ("left" if one.centroid[0] > middle else "right")


def test_without_lungs_there_is_no_place() -> None:
    findings, volume = make_case(PhantomCase())
    nothing = dataclasses.replace(findings, lung_mask=findings.lung_mask & False)
    assert lung_extent(nothing, volume) is None
    assert place_of(findings.lesions[:1], None) is None

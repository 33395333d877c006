"""Slices are called what a viewer calls them."""

from __future__ import annotations

import dataclasses

import pytest

from reporting.phantom_case import PhantomCase, make_case
from reporting.slice_names import SliceNames, slice_names


def test_images_are_numbered_as_the_scanner_does() -> None:
    """The phantom's are counted from the head, its volume from the feet."""
    _, volume = make_case(PhantomCase())
    names = slice_names(volume)
    assert (names.name(0), names.name(5)) == ("image 6", "image 1")
    assert names.span(0, 2) == "4 to 6"


def test_frames_are_numbered_by_frame() -> None:
    _, volume = make_case(PhantomCase(multi_frame=True))
    assert slice_names(volume) == SliceNames("frame", tuple(s.frame_number or 0 for s in volume.sources))


@pytest.mark.parametrize("number", [None, "", 3])
def test_numbers_that_do_not_tell_slices_apart_are_not_used(number: int | str | None) -> None:
    _, volume = make_case(PhantomCase())
    for header in volume.headers[1:]:
        header.InstanceNumber = number
    assert slice_names(volume) == SliceNames("slice", (1, 2, 3, 4, 5, 6))
    assert slice_names(dataclasses.replace(volume, headers=())).word == "slice"

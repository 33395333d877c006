"""Which series of a study is taken."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.headers import read_headers
from engine.series_choice import SeriesRules, choose_series, kernel_of, limit_breaches
from engine.volume import Geometry

RULES = SeriesRules()


@pytest.fixture
def series(write_slice):
    """Writes a series: series("1.2.9", count, spacing, **attributes) -> paths."""
    numbers = itertools.count(1)

    def write(uid: str, count: int, spacing: float, **attributes) -> list[Path]:
        return [
            write_slice(
                next(numbers),
                (0, 0, spacing * n),
                np.zeros((4, 4), np.uint16),
                SeriesInstanceUID=uid,
                **attributes,
            )
            for n in range(count)
        ]

    return write


def chosen(paths: list[Path]) -> str:
    return choose_series(read_headers(paths), RULES).stack.series_uid


def test_within_limits_beats_more_slices(series) -> None:
    short = series("1.2.1", 40, 1.0, SliceThickness=1)
    whole = series("1.2.2", 30, 5.0, SliceThickness=5)
    assert chosen(short + whole) == "1.2.2"


def test_thin_beats_thick_and_order_of_files_does_not_matter(series) -> None:
    thick = series("1.2.1", 30, 5.0, SliceThickness=5)
    thin = series("1.2.2", 75, 2.0, SliceThickness=2)
    choice = choose_series(read_headers(thick + thin), RULES)
    assert choice.stack.series_uid == "1.2.2"
    assert "best of 2 CT series" in choice.reason
    assert chosen(thin + thick) == "1.2.2"


def test_a_hole_in_the_series_is_told(series) -> None:
    paths = series("1.2.1", 75, 2.0, SliceThickness=2)
    whole, holed = (
        choose_series(read_headers(some), RULES).reason for some in (paths, paths[:30] + paths[34:])
    )
    assert whole.startswith("75 slices, 2 mm apart, 2 mm thick")
    assert holed.startswith("71 slices, 2 mm apart (at most 10 mm), 2 mm thick")


def test_thin_slices_far_apart_are_not_thin(series) -> None:
    gapped = series("1.2.1", 21, 10.0, SliceThickness=1)
    whole = series("1.2.2", 70, 3.0, SliceThickness=3)
    assert chosen(gapped + whole) == "1.2.2"


def test_kernel_of_the_training_is_preferred(series) -> None:
    sharp = series("1.2.1", 30, 5.0, SliceThickness=5, ConvolutionKernel="B70f")
    soft = series("1.2.2", 30, 5.0, SliceThickness=5, ConvolutionKernel=["I40f", "3"])
    assert chosen(sharp + soft) == "1.2.2"


def test_original_beats_derived_and_localizers_never_win(series) -> None:
    scout = series("1.2.0", 80, 2.0, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    derived = series("1.2.1", 70, 2.0, ImageType=["DERIVED", "PRIMARY", "AXIAL"])
    original = series("1.2.2", 30, 5.0, SliceThickness=5)
    choice = choose_series(read_headers(scout + derived + original), RULES)
    assert choice.stack.series_uid == "1.2.2"
    assert "80 x localizer" in choice.reason


def test_a_slab_with_a_third_of_the_cover_does_not_win(series) -> None:
    slab = series("1.2.1", 125, 1.0, SliceThickness=1)
    whole = series("1.2.2", 80, 5.0, SliceThickness=5)
    assert chosen(slab + whole) == "1.2.2"


def test_ties_go_to_newest_then_to_the_lower_uid(series) -> None:
    old = series("1.2.1", 30, 5.0, SliceThickness=5, AcquisitionDate="20200101")
    new = series("1.2.5", 30, 5.0, SliceThickness=5, AcquisitionDate="20200102")
    same = series("1.2.4", 30, 5.0, SliceThickness=5, AcquisitionDate="20200102")
    assert chosen(old + new + same) == "1.2.4"


@pytest.mark.parametrize("kernel", ["B70f", "FC51", "LUNG", "I70f/3", "YC", "L"])
def test_sharp_kernels(kernel: str) -> None:
    assert kernel_of(kernel) == "lung"


@pytest.mark.parametrize("kernel", ["B31f", "D40s", "FC08", "STANDARD", "Bl57d", ""])
def test_soft_kernels(kernel: str) -> None:
    assert kernel_of(kernel) == "soft"


def geometry(count: int, spacing: float, thickness: float) -> Geometry:
    positions = np.array([[0, 0, spacing * n] for n in range(count)], dtype=float)
    return Geometry(positions, np.array([1.0, 0, 0]), np.array([0.0, 1, 0]), (0.7, 0.7), thickness)


def test_limits_name_what_breaks_them() -> None:
    assert limit_breaches(geometry(60, 5, 5), (60, 512, 512), RULES) == ()
    assert limit_breaches(geometry(19, 7, 5), (19, 9, 9), RULES) == ("19 slices, at least 20 are needed",)
    assert limit_breaches(geometry(1, 7, 5), (1, 9, 9), RULES)[0].startswith("1 slice,")
    assert "thick" in limit_breaches(geometry(60, 5, 8), (60, 9, 9), RULES)[0]
    assert "gap of 40 mm" in limit_breaches(geometry(60, 40, 5), (60, 9, 9), RULES)[0]


@given(st.integers(1, 200), st.floats(0.5, 20), st.floats(0.5, 10))
def test_limits_are_what_they_say(count: int, spacing: float, thickness: float) -> None:
    breaches = limit_breaches(geometry(count, spacing, thickness), (count, 9, 9), RULES)
    cover = (count - 1) * spacing + thickness
    fits = count >= 20 and cover >= 120 and thickness <= 5
    assert fits == (not breaches) or abs(cover - 120) < 1e-6

"""The pictures show lesions and heatmaps where they are."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from turned_series import stored_as

from engine.facing import Facing
from engine.findings import PneumoniaClass
from engine.label_volume import LabelVolume
from reporting.phantom_case import PhantomCase, make_case
from reporting.presentation_state import JCS_COLOR
from reporting.rendering import (
    PAGE_SIZE,
    SLICE_SIZE,
    orientation_letters,
    render_overview,
    render_page,
    render_slice,
    summary_slices,
)
from reporting.segmentation import LESION_COLOR


def test_outline_goes_around_the_mask() -> None:
    findings, volume = make_case(PhantomCase(matrix=128, lesions=1))
    z = findings.key_slices[0]
    pixels = np.asarray(render_slice(findings, volume, z))
    rows, columns = np.nonzero((pixels[:440] == LESION_COLOR).all(axis=2))
    mask_rows, mask_columns = np.nonzero(findings.lesion_labels[z])
    scale = SLICE_SIZE / 128
    assert abs(rows.min() - mask_rows.min() * scale) <= 1
    assert abs(rows.max() - ((mask_rows.max() + 1) * scale - 1)) <= 1
    assert abs(columns.min() - mask_columns.min() * scale) <= 1
    assert abs(columns.max() - ((mask_columns.max() + 1) * scale - 1)) <= 1


def test_heatmap_colours_the_slice_and_its_absence_leaves_it_grey() -> None:
    findings, volume = make_case(PhantomCase(lesion_slices=0))
    grey = np.asarray(render_slice(findings, volume, 2))[60:440, 60:440].astype(int)
    center = grey[100:280, 40:340]
    assert np.ptp(center, axis=2).max() == 0
    maps = findings.jcs.activation_maps.copy()
    maps[2, 30:34, 30:34] = 1.0
    hot = dataclasses.replace(findings, jcs=dataclasses.replace(findings.jcs, activation_maps=maps))
    middle = np.asarray(render_slice(hot, volume, 2))[256, 256].astype(int)
    assert middle[0] > middle[2] + 50


def test_pixels_that_are_not_square_keep_their_ratio() -> None:
    findings, volume = make_case(PhantomCase(lesion_slices=0))
    stretched = dataclasses.replace(
        volume, geometry=dataclasses.replace(volume.geometry, pixel_spacing=(volume.geometry.pixel_spacing[0] / 2,) * 1
                                             + (volume.geometry.pixel_spacing[1],))
    )  # fmt: skip
    pixels = np.asarray(render_slice(findings, stretched, 2))
    assert not pixels[:100, 300:480].any()
    assert pixels[256, 256].any()


@pytest.mark.parametrize(
    ("orientation", "letters"),
    [
        ((1.0, 0.0, 0.0, 0.0, 1.0, 0.0), ("R", "L", "A", "P")),
        ((-1.0, 0.0, 0.0, 0.0, 1.0, 0.0), ("L", "R", "A", "P")),
        ((-1.0, 0.0, 0.0, 0.0, -1.0, 0.0), ("L", "R", "P", "A")),
        ((1.0, 0.0, 0.0, 0.0, 0.0, -1.0), ("R", "L", "H", "F")),
    ],
)
def test_orientation_letters(orientation: tuple[float, ...], letters: tuple[str, ...]) -> None:
    _, volume = make_case(PhantomCase(orientation=orientation))
    assert orientation_letters(volume.geometry) == letters


@pytest.mark.parametrize("label", [PneumoniaClass.COVID19, PneumoniaClass.CAP])
@pytest.mark.parametrize("lesion_slices", [0, 4])
def test_overview_and_page_of_every_verdict(label: PneumoniaClass, lesion_slices: int) -> None:
    findings, volume = make_case(PhantomCase(lesion_slices=lesion_slices, m3lung_label=label))
    assert render_overview(findings, volume).size == (2 * PAGE_SIZE, PAGE_SIZE)
    page = render_page(findings, volume)
    assert (page.size, page.mode) == ((PAGE_SIZE, PAGE_SIZE), "RGB")


def test_page_shows_the_disagreement() -> None:
    agree, volume = make_case(PhantomCase())
    disagree, _ = make_case(PhantomCase(m3lung_label=PneumoniaClass.H1N1))
    rows = slice(550, 600)
    red = [np.asarray(render_page(f, volume))[rows].astype(int) for f in (agree, disagree)]
    reddish = [int(((p[..., 0] > 200) & (p[..., 1] < 120)).sum()) for p in red]
    assert reddish[0] == 0
    assert reddish[1] > 500


def test_chart_marks_the_slices_that_were_counted() -> None:
    findings, volume = make_case(PhantomCase())
    probabilities = np.array([0.6, 0.1, 0.9, 0.0, 0.65, 0.2], dtype=np.float32)
    for threshold, marked in ((0.5, 3), (0.7, 1)):
        jcs = dataclasses.replace(findings.jcs, slice_probabilities=probabilities, slice_threshold=threshold)
        page = np.asarray(render_page(dataclasses.replace(findings, jcs=jcs), volume))
        bottom_of_chart = (page[285] == JCS_COLOR).all(axis=1).astype(int)
        assert (np.diff(bottom_of_chart) == 1).sum() == marked


@pytest.mark.parametrize("facing", [Facing(slices=True, columns=True), Facing(rows=True, columns=True)])
def test_projections_have_the_head_on_top(facing: Facing) -> None:
    findings, volume = make_case(PhantomCase(slices=12, lesions=1))
    labels = LabelVolume.of(facing.ordered(facing.turned(np.asarray(findings.lesion_labels))))
    turned = render_page(dataclasses.replace(findings, lesion_labels=labels), stored_as(volume, facing))
    usual = render_page(findings, volume)
    projections = (32, 640, 632, 954)
    np.testing.assert_array_equal(usual.crop(projections), turned.crop(projections))


def test_summary_slices_are_ordered_and_few() -> None:
    findings, _ = make_case(PhantomCase(slices=60, lesion_slices=50, lesions=20, matrix=128))
    shown = summary_slices(findings)
    assert list(shown) == sorted(set(shown))
    assert set(findings.key_slices) <= set(shown)
    assert len(shown) <= 12
    assert len(summary_slices(findings, limit=4)) == 4

"""Parametric maps give every value back, at its place."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from engine.findings import MAP_GRID
from reporting import ReportContext, ReportOptions, build
from reporting.phantom_case import PhantomCase, make_case


@pytest.mark.parametrize("kind", ["pm", "pm_m3"])
def test_values_come_back_through_the_real_world_mapping(
    kind: str, case, context: ReportContext, reread
) -> None:
    findings, volume = case
    maps = findings.jcs.activation_maps if kind == "pm" else findings.m3lung.location_maps
    (pm,) = build(findings, volume, context, (kind,))
    dataset = reread(pm)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    frames = dataset.PerFrameFunctionalGroupsSequence
    mapping = (
        shared if "RealWorldValueMappingSequence" in shared else frames[0]
    ).RealWorldValueMappingSequence[0]
    values = dataset.pixel_array.reshape(-1, *MAP_GRID) * mapping.RealWorldValueSlope
    shown = np.flatnonzero(maps.any(axis=(1, 2)))
    positions = [np.array(f.PlanePositionSequence[0].ImagePositionPatient, float) for f in frames]
    order = np.argsort([p @ volume.geometry.normal for p in positions])
    assert np.allclose(values[order], maps[shown], atol=1 / 65535)
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "1"


def test_map_covers_the_slice_from_corner_to_corner(case, context: ReportContext, reread) -> None:
    findings, volume = case
    (pm,) = build(findings, volume, context, ("pm",))
    dataset = reread(pm)
    geometry = volume.geometry
    shared = dataset.SharedFunctionalGroupsSequence[0]
    spacing = np.array(shared.PixelMeasuresSequence[0].PixelSpacing, float)
    assert np.allclose(spacing * MAP_GRID, np.multiply(geometry.pixel_spacing, volume.shape[1:]))

    def corner(first: np.ndarray, step: np.ndarray) -> np.ndarray:
        return first - step[0] / 2 * geometry.column_direction - step[1] / 2 * geometry.row_direction

    expected = [corner(p, np.array(geometry.pixel_spacing)) for p in geometry.positions]
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        first = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        assert np.linalg.norm(np.array(expected) - corner(first, spacing), axis=1).min() < 1e-3


def test_zero_map_is_one_frame_that_says_so(context: ReportContext, reread) -> None:
    findings, volume = make_case(PhantomCase(lesion_slices=0))
    (pm,) = build(findings, volume, context, ("pm",))
    dataset = reread(pm)
    assert dataset.NumberOfFrames == 1
    assert not dataset.pixel_array.any()
    assert "all 0" in dataset.SeriesDescription
    assert "all 0" in dataset.ContentDescription


def test_both_maps_are_series_of_their_own(context: ReportContext) -> None:
    findings, volume = make_case(PhantomCase())
    a, b = build(findings, volume, context, ("pm", "pm_m3"))
    assert a.dataset.SeriesInstanceUID != b.dataset.SeriesInstanceUID
    assert a.dataset.SeriesNumber != b.dataset.SeriesNumber


def test_full_map_has_every_slice_at_the_matrix_of_the_ct(case, context: ReportContext, reread) -> None:
    """OHIF takes the frames as they come for the slices of the CT, and shows nothing of another matrix."""
    findings, volume = case
    full = dataclasses.replace(context, options=ReportOptions(parametric_map="full"))
    (pm,) = build(findings, volume, full, ("pm",))
    dataset = reread(pm)
    assert (dataset.Rows, dataset.Columns, dataset.NumberOfFrames) == (*volume.shape[1:], volume.shape[0])
    # OHIF shows the stored values from 0 to 1, whatever the mapping says.
    assert "FloatPixelData" in dataset
    frames = zip(dataset.PerFrameFunctionalGroupsSequence, dataset.pixel_array, strict=True)
    for z, (frame, values) in enumerate(frames):
        position = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        assert np.allclose(position, volume.geometry.positions[z], atol=1e-3)
        assert frame.FrameContentSequence[0].DimensionIndexValues == z + 1
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        assert source.ReferencedSOPInstanceUID == volume.sources[z].sop_instance_uid
        # The matrix of this phantom is the grid of the maps.
        assert np.allclose(values, findings.jcs.activation_maps[z], atol=0.5 / 256 + 1e-6)


def test_a_deflated_full_map_is_the_same_map_and_small(context: ReportContext, reread) -> None:
    findings, volume = make_case(PhantomCase(slices=12, matrix=128))
    plain, deflated = (
        build(
            findings,
            volume,
            dataclasses.replace(context, options=ReportOptions(parametric_map="full", deflated=shrunk)),
            ("pm",),
        )[0]
        for shrunk in (False, True)
    )
    assert reread(deflated).file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian
    assert reread(deflated).FloatPixelData == reread(plain).FloatPixelData
    assert len(deflated.encoded) < len(plain.encoded) / 5

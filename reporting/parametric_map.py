"""Parametric Maps: the heatmaps without loss, on their own grid (PS3.3 A.75).

Stored as uint16 with a real-world value mapping back to 0..1: half the size of floats, and it may be compressed.
Another matrix than that of the CT is legal, since every frame carries its own place and spacing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from highdicom import (
    PixelMeasuresSequence,
    PlaneOrientationSequence,
    PlanePositionSequence,
    VOILUTTransformation,
)
from highdicom.pm import ParametricMap, RealWorldValueMapping
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset

from engine.findings import Findings
from engine.volume import Geometry, Volume
from reporting.codes import ACTIVATION, LOCATION, NO_UNITS
from reporting.context import ReportContext
from reporting.equipment import common_arguments
from reporting.source_images import SourceImages, plane_position
from reporting.uids import ResultUids

FULL_SCALE = 65535
"""The stored value of 1.0."""


@dataclass(frozen=True, eq=False)
class Heatmap:
    """One kind of map. values: float32 [Z, h, w] in [0, 1]. quantity: what a value is. name: for people."""

    kind: str
    values: npt.NDArray[np.float32]
    quantity: CodedConcept
    name: str


def activation_heatmap(findings: Findings) -> Heatmap:
    """The activation maps of JCS."""
    return Heatmap("pm", findings.jcs.activation_maps, ACTIVATION, "JCS activation")


def location_heatmap(findings: Findings) -> Heatmap:
    """The location maps of M3Lung-Sys."""
    return Heatmap("pm_m3", findings.m3lung.location_maps, LOCATION, "M3Lung-Sys location")


def parametric_map(
    heatmap: Heatmap,
    findings: Findings,
    volume: Volume,
    sources: SourceImages,
    uids: ResultUids,
    context: ReportContext,
) -> Dataset:
    """A PM of the slices on which the map is not 0; where it is 0 everywhere, of the first key slice, and says so."""
    shown = np.flatnonzero(heatmap.values.any(axis=(1, 2)))
    empty = len(shown) == 0
    if empty:
        shown = np.array([findings.key_slices[0]])
    description = f"AI {heatmap.name} map{' (all 0)' if empty else ''} - NOT VERIFIED"
    grid = heatmap.values.shape[1:]
    spacing, positions = map_placement(volume.geometry, volume.shape[1:], (grid[0], grid[1]))
    directions = [*volume.geometry.row_direction, *volume.geometry.column_direction]
    dataset = ParametricMap(
        source_images=_images_of(sources, shown),
        pixel_array=np.round(heatmap.values[shown] * FULL_SCALE).astype(np.uint16),
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[_mapping(heatmap)],
        voi_lut_transformations=[
            VOILUTTransformation(window_center=FULL_SCALE / 2, window_width=float(FULL_SCALE))
        ],
        content_label="AI_HEATMAP",
        content_description=description,
        content_qualification="RESEARCH",
        pixel_measures=PixelMeasuresSequence(spacing, volume.geometry.slice_thickness),
        plane_orientation=PlaneOrientationSequence("PATIENT", [float(v) for v in directions]),
        plane_positions=[
            PlanePositionSequence("PATIENT", [float(v) for v in plane_position(positions[z])]) for z in shown
        ],
        **common_arguments(heatmap.kind, description, findings, uids, context),
    )
    sources.name_true_sources(dataset)
    # Laterality is wanted of paired body parts only; without a body part validators assume the worst.
    dataset.BodyPartExamined = "CHEST"
    return dataset


def map_placement(
    geometry: Geometry, slice_shape: tuple[int, ...], grid: tuple[int, int]
) -> tuple[tuple[float, float], npt.NDArray[np.float64]]:
    """Where a map of `grid` (rows, columns) lies that covers a whole slice of `slice_shape`.

    Returns its pixel spacing (between rows, between columns) in mm and float64 [Z, 3], the patient coordinates of
    the centre of its first pixel on each slice. That centre is half a map pixel inside the slice's corner, which is
    half a CT pixel outside of the centre of the first CT pixel.
    """
    rows, columns = slice_shape[-2:]
    spacing = (geometry.pixel_spacing[0] * rows / grid[0], geometry.pixel_spacing[1] * columns / grid[1])
    shift = (spacing[0] - geometry.pixel_spacing[0]) / 2 * geometry.column_direction
    shift = shift + (spacing[1] - geometry.pixel_spacing[1]) / 2 * geometry.row_direction
    return spacing, np.asarray(geometry.positions + shift, dtype=np.float64)


def _images_of(sources: SourceImages, shown: npt.NDArray[np.intp]) -> Sequence[Dataset]:
    """The source images of the slices shown; frames of multi-frame images come as one."""
    return sources.derived_from if sources.is_multi_frame else [sources.image_of(int(z)) for z in shown]


def _mapping(heatmap: Heatmap) -> RealWorldValueMapping:
    return RealWorldValueMapping(
        lut_label="PROBABILITY",
        lut_explanation=f"{heatmap.name} map, 0 to 1"[:64],
        unit=NO_UNITS,
        value_range=(0, FULL_SCALE),
        slope=1 / FULL_SCALE,
        intercept=0.0,
        quantity_definition=heatmap.quantity,
    )

"""Parametric Maps: the heatmaps without loss, on their own grid (PS3.3 A.75).

Stored as uint16 with a real-world value mapping back to 0..1: half the size of floats, and it may be compressed.
Another matrix than that of the CT is legal, since every frame carries its own place and spacing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian

from engine.findings import Findings
from engine.volume import Geometry, Volume
from reporting.codes import ACTIVATION, LOCATION, LUNG, NO_UNITS
from reporting.context import ReportContext
from reporting.equipment import common_arguments
from reporting.source_images import SourceImages, plane_position
from reporting.uids import ResultUids

FULL_SCALE = 65535
"""The stored value of 1.0 in a compact map."""

_STEPS = 256


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
    """The PM of a heatmap, compact or at the matrix of the CT (`ReportOptions.parametric_map`)."""
    empty = not heatmap.values.any()
    description = f"AI {heatmap.name} map{' (all 0)' if empty else ''} - NOT VERIFIED"
    if context.options.parametric_map == "full":
        frames = _full_frames(heatmap, volume, sources)
    else:
        frames = _compact_frames(heatmap, findings, volume, sources)
    dataset = ParametricMap(
        contains_recognizable_visual_features=False,
        content_label="AI_HEATMAP",
        content_description=description,
        content_qualification="RESEARCH",
        **frames,
        **common_arguments(heatmap.kind, description, findings, uids, context),
    )
    sources.name_true_sources(dataset)
    if context.options.parametric_map == "full":
        _order_frames(dataset, volume.geometry)
    dataset.SharedFunctionalGroupsSequence[0].FrameAnatomySequence = [_anatomy()]
    if context.options.deflated:
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    # Laterality is wanted of paired body parts only; without a body part validators assume the worst.
    dataset.BodyPartExamined = "CHEST"
    return dataset


def _compact_frames(
    heatmap: Heatmap, findings: Findings, volume: Volume, sources: SourceImages
) -> dict[str, Any]:
    """uint16 frames on the map's own grid of the slices on which it is not 0; else of the first key slice."""
    shown = np.flatnonzero(heatmap.values.any(axis=(1, 2)))
    if len(shown) == 0:
        shown = np.array([findings.key_slices[0]])
    geometry, grid = volume.geometry, (heatmap.values.shape[1], heatmap.values.shape[2])
    spacing, positions = map_placement(geometry, volume.shape[1:], grid)
    directions = [*geometry.row_direction, *geometry.column_direction]
    return {
        "source_images": _images_of(sources, shown),
        "pixel_array": np.round(heatmap.values[shown] * FULL_SCALE).astype(np.uint16),
        "real_world_value_mappings": [_mapping(heatmap, (0, FULL_SCALE), 1 / FULL_SCALE)],
        "voi_lut_transformations": [VOILUTTransformation(FULL_SCALE / 2, float(FULL_SCALE))],
        "pixel_measures": PixelMeasuresSequence(spacing, geometry.slice_thickness),
        "plane_orientation": PlaneOrientationSequence("PATIENT", [float(v) for v in directions]),
        "plane_positions": [
            PlanePositionSequence("PATIENT", [float(v) for v in plane_position(positions[z])]) for z in shown
        ],
    }


def _full_frames(heatmap: Heatmap, volume: Volume, sources: SourceImages) -> dict[str, Any]:
    """float32 frames at the matrix of the CT, one for every slice, in steps of 1/256.

    Floats, since OHIF shows stored values from 0 to 1 and overflows with integers. Interpolated values have no more to
    say than 256 steps, and a deflated file of them is small.
    """
    rows, columns = volume.shape[1:]
    values = np.zeros(volume.shape, np.float32)
    for z in np.flatnonzero(heatmap.values.any(axis=(1, 2))):
        enlarged = Image.fromarray(heatmap.values[z]).resize((columns, rows), Image.Resampling.BILINEAR)
        values[z] = np.round(np.asarray(enlarged) * _STEPS) / _STEPS
    return {
        "source_images": sources.derived_from,
        "pixel_array": sources.as_stored(values),
        "real_world_value_mappings": [_mapping(heatmap, (0.0, 1.0), 1.0)],
        "voi_lut_transformations": [VOILUTTransformation(0.5, 1.0)],
    }


def _order_frames(dataset: Dataset, geometry: Geometry) -> None:
    """Put the frames into the order of the volume's slices.

    highdicom writes them the other way round, which is as legal; OHIF takes the nth frame for the nth slice along the
    normal, whatever place the frame names.
    """
    frames = dataset.PerFrameFunctionalGroupsSequence
    places = np.array([f.PlanePositionSequence[0].ImagePositionPatient for f in frames], dtype=np.float64)
    order = np.argsort(places @ geometry.normal)
    values = np.frombuffer(dataset.FloatPixelData, np.float32).reshape(len(frames), -1)
    dataset.FloatPixelData = values[order].tobytes()
    dataset.PerFrameFunctionalGroupsSequence = [frames[i] for i in order]
    for number, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence, 1):
        frame.FrameContentSequence[0].DimensionIndexValues = number


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


def _images_of(sources: SourceImages, shown: npt.NDArray[np.intp]) -> tuple[Dataset, ...]:
    """The source images of the slices shown; frames of multi-frame images come as one."""
    return sources.derived_from if sources.is_multi_frame else tuple(sources.image_of(int(z)) for z in shown)


def _anatomy() -> Dataset:
    """Both lungs (PS3.3 C.7.6.16.2.8); without it the reader of 3D Slicer crashes."""
    region, anatomy = Dataset(), Dataset()
    region.CodeValue, region.CodingSchemeDesignator = LUNG.value, LUNG.scheme_designator
    region.CodeMeaning = LUNG.meaning
    anatomy.FrameLaterality = "B"
    anatomy.AnatomicRegionSequence = Sequence([region])
    return anatomy


class _Mapping(RealWorldValueMapping):
    """A mapping with a short name: highdicom formats it for each frame, for a log that nobody reads."""

    def __str__(self) -> str:
        return str(self.LUTLabel)


def _mapping(heatmap: Heatmap, stored: tuple[float, float], slope: float) -> RealWorldValueMapping:
    """Stored values to 0..1."""
    return _Mapping(
        lut_label=heatmap.quantity.value,
        lut_explanation=f"{heatmap.name} map, 0 to 1"[:64],
        unit=NO_UNITS,
        value_range=stored,
        slope=slope,
        intercept=0.0,
        quantity_definition=heatmap.quantity,
    )

"""Which samples of a series a model's tensor holds, after its crop, spacing, shape and orientation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from engine.errors import RunnerFailed
from engine.facing import Facing, facing_of
from engine.jcs import centre_crop
from engine.label_volume import LabelVolume
from engine.lungs import Box, volume_box
from engine.own_model.contract import OwnModelMetadata
from engine.own_model.sampling import Axis, at_places, spaced, stretched
from engine.volume import Geometry

MOST_SAMPLES = 2**28
"""Samples of one tensor (1 GiB of float32) beyond which a spacing or shape is refused."""


@dataclass(frozen=True, eq=False)
class Grid:
    """The samples along slices, rows and columns. slices: None for a network of slices, which takes each as it is."""

    slices: Axis | None
    rows: Axis
    columns: Axis


def slice_grid(
    metadata: OwnModelMetadata,
    geometry: Geometry,
    shape: tuple[int, int, int],
    lungs: LabelVolume[np.bool_],
) -> Grid:
    """The samples within each slice. Raises RunnerFailed where the series cannot be brought into that form."""
    box = _box(metadata, shape, lungs)
    facing = _facing(metadata, geometry)
    return _checked(Grid(None, *_plane(metadata, geometry, shape, box, facing)), metadata)


def volume_grid(
    metadata: OwnModelMetadata,
    geometry: Geometry,
    shape: tuple[int, int, int],
    lungs: LabelVolume[np.bool_],
) -> Grid:
    """The samples of a volume network. Raises RunnerFailed where the series cannot be brought into that form."""
    box = _box(metadata, shape, lungs)
    first, end = 0, shape[0]
    with_lung = lungs.occupied()
    if metadata.preprocessing.crop == "lungs" and len(with_lung):
        first, end = int(with_lung[0]), int(with_lung[-1]) + 1
    facing = _facing(metadata, geometry)
    slices = _slice_axis(metadata, geometry, first, end, facing.slices)
    rows, columns = _plane(metadata, geometry, shape, box, facing)
    return _checked(Grid(slices, rows, columns), metadata)


def _box(metadata: OwnModelMetadata, shape: tuple[int, int, int], lungs: LabelVolume[np.bool_]) -> Box:
    pre, whole = metadata.preprocessing, (0, 0, shape[1], shape[2])
    if pre.crop == "centre":
        return centre_crop((shape[1], shape[2]), pre.crop_fraction)
    if pre.crop == "lungs":
        return volume_box(lungs, pre.crop_margin) or whole
    return whole


def _plane(
    metadata: OwnModelMetadata,
    geometry: Geometry,
    shape: tuple[int, int, int],
    box: Box,
    facing: Facing,
) -> tuple[Axis, Axis]:
    top, left, bottom, right = box
    rows = _plane_axis(metadata, 0, (top, bottom), shape[1], geometry.pixel_spacing[0], facing.rows)
    return rows, _plane_axis(metadata, 1, (left, right), shape[2], geometry.pixel_spacing[1], facing.columns)


def _plane_axis(
    metadata: OwnModelMetadata, which: int, crop: tuple[int, int], length: int, pixel_mm: float, turned: bool
) -> Axis:
    """Along rows (0) or columns (1). Without a spacing a fixed side is reached by stretching, else by cut or pad."""
    spacing, side = metadata.preprocessing.spacing_mm, metadata.sides[-2:][which]
    if spacing is None and isinstance(side, int) and not metadata.input.is_patch_data:
        return stretched(*crop, length, side, turned=turned)
    step = 1.0 if spacing is None else spacing[-2:][which] / pixel_mm
    count = _count(max(1, round((crop[1] - crop[0]) / step)), side, metadata)
    return spaced(*crop, length, step, count, turned=turned)


def _slice_axis(metadata: OwnModelMetadata, geometry: Geometry, first: int, end: int, turned: bool) -> Axis:
    """Along the slices, whose gaps may be uneven: samples are placed in mm."""
    offsets, extents = geometry.offsets, geometry.slice_extents
    side, spacing = metadata.sides[0], metadata.preprocessing.spacing_mm
    low, high = float(offsets[first] - extents[first] / 2), float(offsets[end - 1] + extents[end - 1] / 2)
    if spacing is None:
        count = _count(end - first, side, metadata)
        if not isinstance(side, int) or metadata.input.is_patch_data:
            return spaced(first, end, len(offsets), 1.0, count, turned=turned)
        step = (high - low) / count
    else:
        step = spacing[0]
        count = _count(max(1, round((high - low) / step)), side, metadata)
    places = (low + high) / 2 + (np.arange(count, dtype=np.float64) - (count - 1) / 2) * step
    return at_places(places, offsets, turned=turned)


def _count(natural: int, side: int | str, metadata: OwnModelMetadata) -> int:
    """Samples along one side: those there are, at least those of a patch, the fixed number, or the next multiple."""
    if isinstance(side, int):
        return max(natural, side) if metadata.input.is_patch_data else side
    if side == "*":
        return natural
    multiple = int(side.partition("*")[0])
    return math.ceil(natural / multiple) * multiple


def _facing(metadata: OwnModelMetadata, geometry: Geometry) -> Facing:
    """Whether slices, rows and columns are to be turned round."""
    wanted = metadata.preprocessing.orientation
    if wanted is None:
        return Facing()
    facing = facing_of(geometry, wanted)
    if facing is None:
        raise RunnerFailed(
            f"{metadata.name} wants orientation {wanted}, and the series is not axial: it is not given to it"
        )
    return facing


def _checked(grid: Grid, metadata: OwnModelMetadata) -> Grid:
    counts = [len(axis.positions) for axis in (grid.slices, grid.rows, grid.columns) if axis is not None]
    if math.prod(counts) > MOST_SAMPLES:
        size = " x ".join(map(str, counts))
        raise RunnerFailed(
            f"{metadata.name}: spacing {metadata.preprocessing.spacing_mm} mm makes {size} samples of this series, "
            f"more than {MOST_SAMPLES}"
        )
    return grid

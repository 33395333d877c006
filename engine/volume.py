"""The Volume: one CT series as Hounsfield units with its geometry and its source headers.

`Volume` and `engine.findings.Findings` are the only two types that cross between rooms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset


@dataclass(frozen=True)
class SourceSlice:
    """Where one slice of a volume came from (PS3.3 C.12.1, C.7.6.16 for frames of multi-frame CT).

    `frame_number` is 1-based as in DICOM, and None for single-frame CT. `header` indexes
    `Volume.headers`: frames of one Enhanced CT instance share a header.
    """

    sop_class_uid: str
    sop_instance_uid: str
    frame_number: int | None
    header: int


@dataclass(frozen=True, eq=False)
class Geometry:
    """Patient geometry (LPS, mm), from ImagePositionPatient and ImageOrientationPatient only (PS3.3 C.7.6.2).

    positions: float64 [Z, 3], centre of the first pixel of each slice, ordered by `normal` (feet to head for
        an ordinary axial series).
    row_direction: float64 [3], unit vector along increasing column index (first three values of IOP).
    column_direction: float64 [3], unit vector along increasing row index (last three values of IOP).
    pixel_spacing: (between rows, between columns) in mm, as in PixelSpacing.
    slice_thickness: nominal mm; the median gap where the header has none.
    """

    positions: npt.NDArray[np.float64]
    row_direction: npt.NDArray[np.float64]
    column_direction: npt.NDArray[np.float64]
    pixel_spacing: tuple[float, float]
    slice_thickness: float

    @cached_property
    def normal(self) -> npt.NDArray[np.float64]:
        """Unit vector float64 [3]: row direction x column direction."""
        n = np.cross(self.row_direction, self.column_direction)
        return np.asarray(n / np.linalg.norm(n), dtype=np.float64)

    @cached_property
    def offsets(self) -> npt.NDArray[np.float64]:
        """Signed distance of each slice along `normal`, mm, float64 [Z], strictly increasing."""
        return np.asarray(self.positions @ self.normal, dtype=np.float64)

    @cached_property
    def slice_extents(self) -> npt.NDArray[np.float64]:
        """How many mm along the normal each slice stands for, float64 [Z]: half the gap to either neighbour.

        Lesion and lung volumes are sums over these, so that a series with uneven gaps is still measured right.
        """
        if len(self.offsets) == 1:
            return np.array([self.slice_thickness])
        gaps = np.diff(self.offsets)
        return np.concatenate([gaps[:1], (gaps[1:] + gaps[:-1]) / 2, gaps[-1:]])

    @property
    def pixel_area(self) -> float:
        """Area of one pixel in mm2."""
        return self.pixel_spacing[0] * self.pixel_spacing[1]

    @property
    def slice_spacing(self) -> float:
        """Median distance between neighbouring slices, mm."""
        return float(np.median(np.diff(self.offsets))) if len(self.offsets) > 1 else self.slice_thickness

    def to_patient(self, voxels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Patient coordinates (LPS, mm) float64 [N, 3] of voxel indices [N, 3] given as (z, y, x), z whole numbers."""
        z = voxels[:, 0].astype(int)
        return np.asarray(
            self.positions[z]
            + voxels[:, 1:2] * self.pixel_spacing[0] * self.column_direction
            + voxels[:, 2:3] * self.pixel_spacing[1] * self.row_direction,
            dtype=np.float64,
        )


class Series(Protocol):
    """A Volume, or one whose slices are still arriving (`engine.arriving.ArrivingVolume`)."""

    @property
    def geometry(self) -> Geometry:
        """As in Volume."""
        ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """As in Volume."""
        ...

    def wait(self, slices: Sequence[int]) -> npt.NDArray[np.int16]:
        """The HU int16 [Z, Y, X], of which at least `slices` are there by then. Raises Undecodable."""
        ...

    def whole(self) -> Volume:
        """The volume with all of its slices. Raises Undecodable."""
        ...


@dataclass(frozen=True, eq=False)
class Volume:
    """One CT series, ready to be screened.

    hu: int16 [Z, Y, X] Hounsfield units, padding and everything below -1024 set to -1024.
    sources: one per slice, same order as `hu`.
    headers: the source datasets without pixel data, as read (character sets untouched), one per SOP instance.
    series_choice: why this series of the study was taken, one sentence for the SR and the store.
    """

    hu: npt.NDArray[np.int16]
    geometry: Geometry
    sources: tuple[SourceSlice, ...]
    study_instance_uid: str
    series_instance_uid: str
    frame_of_reference_uid: str
    headers: tuple[Dataset, ...] = field(default=(), repr=False)
    series_choice: str = ""

    @property
    def shape(self) -> tuple[int, int, int]:
        z, y, x = self.hu.shape
        return z, y, x

    def wait(self, slices: Sequence[int]) -> npt.NDArray[np.int16]:
        """As `Series.wait`: all slices are there."""
        return self.hu

    def whole(self) -> Volume:
        """As `Series.whole`: itself."""
        return self

    def header_of(self, z: int) -> Dataset:
        """The source header of slice `z`."""
        return self.headers[self.sources[z].header]

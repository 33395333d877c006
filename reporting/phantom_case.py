"""A synthetic study with synthetic findings: for warming up, measuring and showing the builders without data.

Nothing here was screened by a model; the findings are made up together with the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage
from pydicom.valuerep import format_number_as_ds

from engine.findings import (
    MAP_GRID,
    Findings,
    JCSFindings,
    Lesion,
    M3LungFindings,
    PackageReference,
    PneumoniaClass,
)
from engine.label_volume import LabelVolume
from engine.volume import Geometry, SourceSlice, Volume
from reporting.uids import derived_uid

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class PhantomCase:
    """What the phantom looks like.

    lesion_slices: how many slices in the middle carry a lesion; 0 makes a negative study. lesions: how many.
    orientation: ImageOrientationPatient. step: mm from slice to slice along `step_direction` (the slice normal
    where None; another direction is gantry tilt). gap_after: slice after which one step is three times as long.
    m3lung_label: what the second system says.
    """

    slices: int = 6
    matrix: int = 64
    lesion_slices: int = 4
    lesions: int = 2
    orientation: tuple[float, ...] = AXIAL
    step: float = 5.0
    step_direction: tuple[float, float, float] | None = None
    gap_after: int | None = None
    multi_frame: bool = False
    m3lung_label: PneumoniaClass = PneumoniaClass.COVID19
    seed: int = 1


def make_case(case: PhantomCase, identity: Dataset | None = None) -> tuple[Findings, Volume]:
    """Findings and Volume of a phantom; `identity` replaces its patient and study attributes."""
    geometry = _geometry(case)
    lungs = _lungs(case)
    labels = _lesion_labels(case, lungs)
    hu = _hounsfield(case, lungs, labels)
    volume = _volume(case, geometry, hu, identity or _identity())
    return _findings(case, volume, lungs, labels), volume


def _geometry(case: PhantomCase) -> Geometry:
    row, column = np.array(case.orientation[:3]), np.array(case.orientation[3:])
    row, column = row / np.linalg.norm(row), column / np.linalg.norm(column)
    normal = np.cross(row, column)
    direction = normal if case.step_direction is None else np.array(case.step_direction)
    direction = direction / (direction @ normal)  # so that `step` is the distance between the planes
    steps = np.full(case.slices, case.step)
    steps[0] = 0.0
    if case.gap_after is not None:
        steps[case.gap_after + 1] *= 3
    spacing = 360.0 / case.matrix
    first = -180.0 * (row + column) + 10.0
    positions = np.round(first + np.cumsum(steps)[:, None] * direction, 4)
    return Geometry(positions, row, column, (spacing, spacing), case.step)


def _grid(case: PhantomCase) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    axis = (np.arange(case.matrix) + 0.5) / case.matrix
    return axis[:, None], axis[None, :]


def _lungs(case: PhantomCase) -> Mask:
    y, x = _grid(case)
    left = ((x - 0.30) / 0.13) ** 2 + ((y - 0.5) / 0.24) ** 2 < 1
    right = ((x - 0.70) / 0.13) ** 2 + ((y - 0.5) / 0.24) ** 2 < 1
    return np.broadcast_to(left | right, (case.slices, case.matrix, case.matrix)).copy()


def _lesion_labels(case: PhantomCase, lungs: Mask) -> npt.NDArray[np.uint16]:
    """Lobed bodies that never touch, spread over the lesion slices, two of them on most; the largest is the first."""
    labels = np.zeros(lungs.shape, np.uint16)
    if case.lesion_slices == 0:
        return labels
    y, x = _grid(case)
    first = (case.slices - case.lesion_slices) // 2
    rows = (case.lesions + 1) // 2
    pitch = 0.40 / rows
    length = case.lesion_slices if case.lesions == 1 else (case.lesion_slices + 1) // 2
    for k in range(case.lesions):
        start = first + (case.lesion_slices - length) * k // max(1, case.lesions - 1)
        center_x, center_y = (0.30, 0.70)[k % 2], 0.5 + pitch * (k // 2 - (rows - 1) / 2)
        radius = min(0.09, 0.36 * pitch) * (1 - 0.4 * k / case.lesions)
        angle = np.arctan2(y - center_y, x - center_x)
        for z in range(start, start + length):
            swell = np.sin(np.pi * (z - start + 1) / (length + 1)) ** 0.5
            outline = radius * swell * (1 + 0.2 * np.sin(5 * angle + k + 0.2 * z))
            inside = np.hypot(y - center_y, x - center_x) < outline
            labels[z][inside & lungs[z]] = k + 1
    return labels


def _hounsfield(case: PhantomCase, lungs: Mask, labels: npt.NDArray[np.uint16]) -> npt.NDArray[np.int16]:
    y, x = _grid(case)
    body = ((x - 0.5) / 0.46) ** 2 + ((y - 0.5) / 0.36) ** 2 < 1
    hu = np.where(body, 40, -1000).astype(np.int16)
    hu = np.broadcast_to(hu, lungs.shape).copy()
    hu[lungs] = -850
    hu[labels > 0] = -450
    noise = np.random.default_rng(case.seed).normal(0, 20, (case.matrix, case.matrix))
    return np.asarray(np.clip(hu + noise.astype(np.int16), -1024, 3071), dtype=np.int16)


def _identity() -> Dataset:
    identity = Dataset()
    identity.SpecificCharacterSet = "ISO_IR 100"
    identity.PatientName = "Phantom^Chest"
    identity.PatientID = "PHANTOM-1"
    identity.PatientBirthDate = "19700101"
    identity.PatientSex = "O"
    identity.StudyInstanceUID = derived_uid("phantom", "study")
    identity.StudyDate = "20260102"
    identity.StudyTime = "101500"
    identity.StudyID = "1"
    identity.AccessionNumber = "A1"
    identity.ReferringPhysicianName = "Referrer^Rita"
    identity.StudyDescription = "CT chest"
    return identity


def _volume(case: PhantomCase, geometry: Geometry, hu: npt.NDArray[np.int16], identity: Dataset) -> Volume:
    name = repr(case)
    series, frame_of_reference = derived_uid("phantom", "series", name), derived_uid("phantom", "frame", name)
    headers: tuple[Dataset, ...]
    if case.multi_frame:
        headers = (_enhanced_header(case, geometry, identity),)
        uid = headers[0].SOPInstanceUID
        # Frames stored head to feet, against the order of the volume, as scanners do.
        sources = tuple(
            SourceSlice(EnhancedCTImageStorage, uid, case.slices - z, 0) for z in range(case.slices)
        )
    else:
        headers = tuple(_header(case, geometry, z, identity) for z in range(case.slices))
        sources = tuple(SourceSlice(CTImageStorage, h.SOPInstanceUID, None, z) for z, h in enumerate(headers))
    for header in headers:
        header.SeriesInstanceUID, header.FrameOfReferenceUID = series, frame_of_reference
    study = str(identity.StudyInstanceUID)
    return Volume(
        hu, geometry, sources, study, series, frame_of_reference, headers, "the only series of a phantom"
    )


def _header(case: PhantomCase, geometry: Geometry, z: int, identity: Dataset) -> Dataset:
    header = _common_header(case, identity, CTImageStorage, str(z))
    header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    header.ImagePositionPatient = [format_number_as_ds(float(v)) for v in geometry.positions[z]]
    header.ImageOrientationPatient = [
        format_number_as_ds(float(v)) for v in (*geometry.row_direction, *geometry.column_direction)
    ]
    header.PixelSpacing = list(geometry.pixel_spacing)
    header.SliceThickness = geometry.slice_thickness
    header.InstanceNumber = case.slices - z
    header.AcquisitionNumber = 1
    header.RescaleIntercept, header.RescaleSlope, header.RescaleType = -1024, 1, "HU"
    header.KVP = 120
    return header


def _enhanced_header(case: PhantomCase, geometry: Geometry, identity: Dataset) -> Dataset:
    header = _common_header(case, identity, EnhancedCTImageStorage, "enhanced")
    header.NumberOfFrames = case.slices
    shared, orientation, measures, rescale = Dataset(), Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = [
        format_number_as_ds(float(v)) for v in (*geometry.row_direction, *geometry.column_direction)
    ]
    measures.PixelSpacing, measures.SliceThickness = list(geometry.pixel_spacing), geometry.slice_thickness
    rescale.RescaleIntercept, rescale.RescaleSlope, rescale.RescaleType = -1024, 1, "HU"
    shared.PlaneOrientationSequence = Sequence([orientation])
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.PixelValueTransformationSequence = Sequence([rescale])
    header.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for position in geometry.positions[::-1]:
        plane, frame = Dataset(), Dataset()
        plane.ImagePositionPatient = [format_number_as_ds(float(v)) for v in position]
        frame.PlanePositionSequence = Sequence([plane])
        frames.append(frame)
    header.PerFrameFunctionalGroupsSequence = Sequence(frames)
    return header


def _common_header(case: PhantomCase, identity: Dataset, sop_class: str, number: str) -> Dataset:
    header = Dataset()
    header.update(identity)
    header.SOPClassUID = sop_class
    header.SOPInstanceUID = derived_uid("phantom", "instance", repr(case), number)
    header.Modality = "CT"
    header.Manufacturer = "Phantom"
    header.SeriesNumber = 2
    header.Rows = header.Columns = case.matrix
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 12, 11, 0
    header.PatientPosition = "HFS"
    return header


def _findings(case: PhantomCase, volume: Volume, lungs: Mask, labels: npt.NDArray[np.uint16]) -> Findings:
    lesions = _lesions(volume, labels)
    with_lesion: Mask = np.asarray(labels.any(axis=(1, 2)))
    maps = _maps(case, labels)
    positive = bool(with_lesion.any())
    voxel_ml = volume.geometry.slice_extents * volume.geometry.pixel_area / 1000
    lung_ml = float(lungs.sum(axis=(1, 2)) @ voxel_ml)
    lesion_ml = float((labels > 0).sum(axis=(1, 2)) @ voxel_ml)
    areas = (labels > 0).sum(axis=(1, 2))
    busiest = np.argsort(-areas, kind="stable")[: min(5, int(with_lesion.sum()))]
    return Findings(
        jcs=_jcs(positive, with_lesion, maps, case.slices),
        m3lung=_m3lung(case, with_lesion, maps),
        lesion_labels=LabelVolume.of(labels),
        lesions=lesions,
        lung_mask=LabelVolume.of(lungs),
        lesion_volume_ml=lesion_ml,
        lung_volume_ml=lung_ml,
        lung_involvement_percent=100 * lesion_ml / lung_ml,
        key_slices=tuple(sorted(int(z) for z in busiest)) or (case.slices // 2,),
        timings_s={},
    )


def _lesions(volume: Volume, labels: npt.NDArray[np.uint16]) -> tuple[Lesion, ...]:
    lesions = []
    for label in range(1, int(labels.max()) + 1):
        voxels = np.argwhere(labels == label)
        areas = np.bincount(voxels[:, 0], minlength=len(labels))
        center = volume.geometry.to_patient(voxels.astype(np.float64)).mean(axis=0)
        lesions.append(
            Lesion(
                label=label,
                volume_ml=float(areas @ volume.geometry.slice_extents * volume.geometry.pixel_area / 1000),
                centroid=(float(center[0]), float(center[1]), float(center[2])),
                slices=(int(voxels[:, 0].min()), int(voxels[:, 0].max())),
                largest_slice=int(areas.argmax()),
                mean_hu=float(volume.hu[labels == label].mean()),
            )
        )
    return tuple(lesions)


def _maps(case: PhantomCase, labels: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """Smooth bumps over the lesions, 0..1, on the grid of maps."""
    rows, columns = MAP_GRID
    y = (np.arange(rows) + 0.5)[:, None] * case.matrix / rows
    x = (np.arange(columns) + 0.5)[None, :] * case.matrix / columns
    maps = np.zeros((case.slices, rows, columns), np.float32)
    width = 0.06 * case.matrix
    for z in np.flatnonzero(labels.any(axis=(1, 2))):
        for label in np.unique(labels[z])[1:]:
            center_y, center_x = np.argwhere(labels[z] == label).mean(axis=0) + 0.5
            bump = np.exp(-((y - center_y) ** 2 + (x - center_x) ** 2) / (2 * width**2))
            maps[z] = np.maximum(maps[z], bump.astype(np.float32))
        maps[z] /= maps[z].max()
        maps[z][maps[z] < 0.05] = 0
    return maps


def _jcs(positive: bool, with_lesion: Mask, maps: npt.NDArray[np.float32], slices: int) -> JCSFindings:
    package = PackageReference("jcs-phantom", "0.0.0", "jcs", "a" * 64)
    count = int(with_lesion.sum())
    rule, threshold = ("absolute", 25.0) if slices >= 250 else ("proportional", 25 * slices / 300)
    probabilities = np.where(with_lesion, 0.9, 0.05).astype(np.float32)
    return JCSFindings(
        package, positive, count, threshold, "absolute" if rule == "absolute" else "proportional", slices < 250,
        probabilities, maps,
    )  # fmt: skip


def _m3lung(case: PhantomCase, with_lesion: Mask, maps: npt.NDArray[np.float32]) -> M3LungFindings:
    package = PackageReference("m3lung-phantom", "0.0.0", "m3lung", "b" * 64)
    label = case.m3lung_label if with_lesion.any() else PneumoniaClass.HEALTHY
    p = [0.04] * 4
    p[label] = 0.88
    per_slice = np.zeros((case.slices, 4), np.float32)
    per_slice[np.arange(case.slices), np.where(with_lesion, int(label), 0)] = 1
    shifted = np.roll(maps, 2, axis=2)
    return M3LungFindings(
        package, label, (p[0], p[1], p[2], p[3]), per_slice, with_lesion.astype(np.float32), shifted
    )

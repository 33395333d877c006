"""The check of a Segmentation before it leaves the node: does it say what the mask says, at the right place?

Masks on the wrong slices or mirrored are the classic silent fault of segmentation objects. So the finished object
is written, read back by an independent reader and compared.
"""

from __future__ import annotations

import io
from typing import Any

import highdicom as hd
import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset

from engine.label_volume import LabelVolume
from engine.volume import Volume

CENTROID_TOLERANCE_MM = 0.5
SLICES_AT_ONCE = 32
"""So many slices of the object are held in memory while it is compared."""

_Positions = dict[tuple[str, int | None], npt.NDArray[np.float64]]
"""Where frames lie, by the source instance and frame that they name."""


class VerificationError(Exception):
    """A Segmentation differs from the mask that it was made of; it must not be sent."""


def verify_segmentation(encoded: bytes, label_map: LabelVolume[np.uint8], volume: Volume) -> None:
    """Raise VerificationError unless the DICOM file holds `label_map` ([Z, Y, X]) at the volume's place.

    Every frame is looked up by the source image it names, compared voxel by voxel, and its patient coordinates are
    taken from the object itself, so that a wrong reference and a wrong position are both found.
    """
    try:
        _verify(encoded, label_map, volume)
    except (AttributeError, KeyError, RuntimeError, ValueError) as error:
        raise VerificationError(f"the SEG cannot be read back ({error}); it is not sent") from error


def _verify(encoded: bytes, label_map: LabelVolume[np.uint8], volume: Volume) -> None:
    segmentation = hd.seg.Segmentation.from_dataset(pydicom.dcmread(io.BytesIO(encoded)), copy=False)
    positions = _positions_by_source(segmentation)
    with_mask = label_map.occupied()
    # A slice that neither the mask nor any frame of the object knows is empty in both.
    named = [z for z, s in enumerate(volume.sources) if (s.sop_instance_uid, s.frame_number) in positions]
    shown = np.union1d(with_mask, np.array(named, dtype=np.intp))
    wrong = 0
    for at in range(0, len(shown), SLICES_AT_ONCE):
        some = shown[at : at + SLICES_AT_ONCE]
        for z, mask in zip(some, _label_map_of(segmentation, volume, some), strict=True):
            wrong += int(np.count_nonzero(mask != label_map[z]))
    if wrong:
        raise VerificationError(f"the SEG read back differs from the mask in {wrong} voxels; it is not sent")
    _compare_centroids(segmentation, label_map, with_mask, positions, volume)


def _label_map_of(
    segmentation: hd.seg.Segmentation, volume: Volume, shown: npt.NDArray[np.intp]
) -> npt.NDArray[np.uint8]:
    """The label map uint8 [N, Y, X] of the N slices `shown` of the volume, looked up by source image."""
    how: dict[str, Any] = {
        "combine_segments": True,
        "ignore_spatial_locations": True,
        "assert_missing_frames_are_empty": True,
        "skip_overlap_checks": True,
        "dtype": np.uint8,
    }
    sources = [volume.sources[z] for z in shown]
    if sources[0].frame_number is None:
        uids = [s.sop_instance_uid for s in sources]
        return np.asarray(segmentation.get_pixels_by_source_instance(uids, **how))
    stored = np.zeros((len(shown), *volume.shape[1:]), np.uint8)
    for uid in {s.sop_instance_uid for s in sources}:
        own = [i for i, s in enumerate(sources) if s.sop_instance_uid == uid]
        frames = [sources[i].frame_number or 1 for i in own]
        stored[own] = segmentation.get_pixels_by_source_frame(uid, frames, **how)
    return stored


def _compare_centroids(
    segmentation: Dataset,
    label_map: LabelVolume[np.uint8],
    with_mask: npt.NDArray[np.intp],
    positions: _Positions,
    volume: Volume,
) -> None:
    """The centroid of every slice's mask, in patient coordinates: of the object's own geometry, and of the volume's."""
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    directions = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=np.float64)
    spacing = [float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing]
    for z in with_mask:
        row, column = _centroid(label_map[z] > 0)
        source = volume.sources[z]
        position = positions[source.sop_instance_uid, source.frame_number]
        stored = position + row * spacing[0] * directions[3:] + column * spacing[1] * directions[:3]
        meant = volume.geometry.to_patient(np.array([[z, row, column]]))[0]
        distance = float(np.linalg.norm(stored - meant))
        if distance > CENTROID_TOLERANCE_MM:
            raise VerificationError(
                f"the SEG puts the mask of slice {z + 1} {distance:.1f} mm from its place; it is not sent"
            )


def _centroid(mask: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Mean row and column of a mask [Y, X] that is not empty; from its marginal sums, which are quick to have."""
    along_rows, along_columns = mask.sum(axis=1), mask.sum(axis=0)
    count = along_rows.sum()
    row = along_rows @ np.arange(len(along_rows)) / count
    return float(row), float(along_columns @ np.arange(len(along_columns)) / count)


def _positions_by_source(segmentation: Dataset) -> _Positions:
    """ImagePositionPatient of the frames, by the source instance and frame that they name."""
    positions = {}
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        position = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, dtype=np.float64)
        for source in frame.DerivationImageSequence[0].SourceImageSequence:
            number = source.get("ReferencedFrameNumber")
            key = (str(source.ReferencedSOPInstanceUID), None if number is None else int(number))
            positions[key] = position
    return positions

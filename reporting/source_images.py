"""The source images as highdicom wants to see them: geometry and references only.

highdicom copies identity out of its source images and checks it on the way. Real headers carry names and dates that
such checks refuse, so the builders work on neutral images, and `Identity.stamp` puts the true identity in
afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.valuerep import format_number_as_ds

from engine.label_volume import LabelVolume
from engine.volume import Geometry, SourceSlice, Volume
from reporting.identity import TYPE_2

T = TypeVar("T", bound=np.generic)

_SOP_INSTANCE_UID = Tag("SOPInstanceUID")


@dataclass(frozen=True, eq=False)
class SourceImages:
    """Neutral images of one volume.

    images: one per slice for single-frame CT, one per SOP instance for multi-frame CT, without pixel data.
    slices: the volume's slices, in its order.
    joined: all slices as the frames of one image that does not exist, where the volume spans several multi-frame
        instances: highdicom derives an object from one of these only. `name_true_sources` undoes it.
    """

    images: tuple[Dataset, ...]
    slices: tuple[SourceSlice, ...]
    joined: Dataset | None = None

    @property
    def is_multi_frame(self) -> bool:
        """Frames are addressed by number within an instance."""
        return self.slices[0].frame_number is not None

    @property
    def derived_from(self) -> tuple[Dataset, ...]:
        """The images to derive an object from that covers the whole volume; its frames as `as_stored` gives them."""
        return self.images if self.joined is None else (self.joined,)

    @cached_property
    def _by_uid(self) -> dict[str, Dataset]:
        return {str(image.SOPInstanceUID): image for image in self.images}

    def image_of(self, z: int) -> Dataset:
        """The image that holds slice `z`."""
        return self._by_uid[self.slices[z].sop_instance_uid]

    def frame_of(self, z: int) -> int | None:
        """1-based frame number of slice `z` in its image, None for single-frame images."""
        return self.slices[z].frame_number

    def frames_of(self, z: int) -> list[int] | None:
        """The same as `frame_of` in a list, as content items want it."""
        frame = self.frame_of(z)
        return None if frame is None else [frame]

    def reference_of(self, z: int) -> Dataset:
        """A reference to slice `z`: to its image, and to its frame where the image has several."""
        frame = self.frame_of(z)
        if frame is None:
            return self.references[z]
        reference = _reference(self.image_of(z))
        reference.ReferencedFrameNumber = frame
        return reference

    def as_stored(self, slices: npt.NDArray[T]) -> npt.NDArray[T]:
        """An array [Z, ...] in the order of `derived_from`: of the frames of a multi-frame image, else unchanged.

        Frames that are no slice of the volume are 0.
        """
        if self._slice_by_slice:
            return slices
        frames = np.zeros((self._frame_count, *slices.shape[1:]), slices.dtype)
        frames[self._frame_indices] = slices
        return frames

    def labels_as_stored(self, labels: LabelVolume[T]) -> npt.NDArray[T]:
        """As `as_stored` of the whole array, of which only the frames that hold something take memory."""
        frames = np.zeros((self._frame_count, *labels.shape[1:]), labels.dtype)
        for z in labels.occupied():
            frames[self._frame_indices[z]] = labels[z]
        return frames

    @property
    def _slice_by_slice(self) -> bool:
        """`derived_from` has the slices in the order of the volume, and nothing else."""
        return not self.is_multi_frame or self.joined is not None

    @property
    def _frame_count(self) -> int:
        return len(self.slices) if self._slice_by_slice else int(self.images[0].NumberOfFrames)

    @cached_property
    def _frame_indices(self) -> list[int]:
        """Where each slice stands in `derived_from`."""
        if self._slice_by_slice:
            return list(range(len(self.slices)))
        return [(s.frame_number or 1) - 1 for s in self.slices]

    def name_true_sources(self, dataset: Dataset) -> None:
        """Let an object that was derived from `joined` refer to the instances and frames that exist."""
        if self.joined is None:
            return
        for frame in dataset.get("PerFrameFunctionalGroupsSequence", ()):
            for derivation in frame.get("DerivationImageSequence", ()):
                for source in derivation.SourceImageSequence:
                    slice_ = self.slices[int(source.ReferencedFrameNumber) - 1]
                    source.ReferencedSOPInstanceUID = slice_.sop_instance_uid
                    source.ReferencedFrameNumber = slice_.frame_number
        for series in dataset.get("ReferencedSeriesSequence", ()):
            series.ReferencedInstanceSequence = self.references
        if "SourceImageSequence" in dataset:
            dataset.SourceImageSequence = self.references

    @cached_property
    def references(self) -> tuple[Dataset, ...]:
        """One reference to each source instance (PS3.3 table 10-11), the same for all objects that have them."""
        return tuple(_reference(image) for image in self.images)


def _reference(image: Dataset) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = image.SOPClassUID
    reference.ReferencedSOPInstanceUID = image.SOPInstanceUID
    return reference


def source_images(volume: Volume) -> SourceImages:
    """Neutral images for every source instance of `volume`."""
    if volume.sources[0].frame_number is None:
        shared = _neutral(volume, 0)
        _place(shared, volume.header_of(0))
        return SourceImages(
            tuple(_single_frame(volume, z, shared) for z in range(len(volume.sources))), volume.sources
        )
    headers = sorted({s.header for s in volume.sources})
    images = tuple(_multi_frame(volume, header) for header in headers)
    return SourceImages(images, volume.sources, _joined(volume) if len(images) > 1 else None)


def plane_position(position: npt.NDArray[np.float64]) -> list[str]:
    """ImagePositionPatient as DS strings of at most 16 characters (PS3.5 6.2)."""
    return [format_number_as_ds(float(v)) for v in position]


def _single_frame(volume: Volume, z: int, shared: Dataset) -> Dataset:
    image = Dataset(dict(shared.items()))
    # Added as a new element: assigning would change the one that all images share.
    image.add_new(_SOP_INSTANCE_UID, "UI", volume.sources[z].sop_instance_uid)
    image.add(volume.header_of(z)["ImagePositionPatient"])
    return image


def _place(image: Dataset, header: Dataset) -> None:
    """Orientation and spacing of one header for all slices: they differ by rounding at most, or there is no volume."""
    image.ImageOrientationPatient = header.ImageOrientationPatient
    image.PixelSpacing = header.PixelSpacing


def _multi_frame(volume: Volume, header: int) -> Dataset:
    """A multi-frame image with one shared orientation, as highdicom needs it, whatever the source has."""
    source = volume.headers[header]
    own = {s.frame_number: z for z, s in enumerate(volume.sources) if s.header == header}
    first = next(iter(own.values()))
    count = int(source.get("NumberOfFrames", 1))
    # A frame that is no slice of the volume never carries a result; its place only keeps the count right.
    places = [own.get(frame, first) for frame in range(1, count + 1)]
    return _with_frames(_neutral(volume, first), volume.geometry, places)


def _joined(volume: Volume) -> Dataset:
    return _with_frames(_neutral(volume, 0), volume.geometry, range(len(volume.sources)))


def _with_frames(image: Dataset, geometry: Geometry, slices: Iterable[int]) -> Dataset:
    """`image` with one frame for each of `slices`, at its place."""
    frames = [_frame_groups(geometry.positions[z]) for z in slices]
    image.NumberOfFrames = len(frames)
    image.SharedFunctionalGroupsSequence = [_shared_groups(geometry)]
    image.PerFrameFunctionalGroupsSequence = frames
    return image


def _neutral(volume: Volume, z: int) -> Dataset:
    image = Dataset()
    image.SOPClassUID = volume.sources[z].sop_class_uid
    image.SOPInstanceUID = volume.sources[z].sop_instance_uid
    image.StudyInstanceUID = volume.study_instance_uid
    image.SeriesInstanceUID = volume.series_instance_uid
    image.FrameOfReferenceUID = volume.frame_of_reference_uid
    image.PositionReferenceIndicator = ""
    image.Modality = "CT"
    image.SamplesPerPixel = 1
    _, image.Rows, image.Columns = volume.shape
    image.SliceThickness = format_number_as_ds(volume.geometry.slice_thickness)
    for keyword in TYPE_2:
        setattr(image, keyword, "")
    return image


def _shared_groups(geometry: Geometry) -> Dataset:
    orientation, measures, groups = Dataset(), Dataset(), Dataset()
    directions = np.concatenate([geometry.row_direction, geometry.column_direction])
    orientation.ImageOrientationPatient = plane_position(directions)
    measures.PixelSpacing = plane_position(np.array(geometry.pixel_spacing))
    measures.SliceThickness = format_number_as_ds(geometry.slice_thickness)
    groups.PlaneOrientationSequence = Sequence([orientation])
    groups.PixelMeasuresSequence = Sequence([measures])
    return groups


def _frame_groups(position: npt.NDArray[np.float64]) -> Dataset:
    plane, groups = Dataset(), Dataset()
    plane.ImagePositionPatient = plane_position(position)
    groups.PlanePositionSequence = Sequence([plane])
    return groups

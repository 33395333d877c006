"""The lung window of a presentation state: what turns the stored values of every image into greys (PS3.3 C.11).

A state has room for one line from stored values to HU. Where all slices share one it is that, and the window is in HU;
else there is none, and each group of slices has the window in its own stored values: the greys are the same.
"""

from __future__ import annotations

from highdicom import ModalityLUTTransformation
from highdicom.pr import SoftcopyVOILUTTransformation
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from engine.volume import Volume
from reporting.source_images import SourceImages

LUNG_WINDOW = (-600.0, 1500.0)
"""Centre and width in HU. Without a window a viewer may show the whole range of values, which is grey soup."""

_Line = tuple[float, float]
"""Intercept and slope from stored values to HU."""


def modality_lut(volume: Volume) -> ModalityLUTTransformation | None:
    """Stored values to HU, where all slices share one line."""
    lines = _slices_by_line(volume)
    if len(lines) > 1:
        return None
    ((intercept, slope),) = lines
    return ModalityLUTTransformation(rescale_intercept=intercept, rescale_slope=slope, rescale_type="HU")


def lung_windows(volume: Volume, sources: SourceImages) -> list[SoftcopyVOILUTTransformation]:
    """The window of all slices in HU, or one of each group of slices in its stored values."""
    lines = _slices_by_line(volume)
    if len(lines) == 1:
        return [_window(*LUNG_WINDOW)]
    center, width = LUNG_WINDOW
    windows = []
    for (intercept, slope), slices in lines.items():
        window = _window(round((center - intercept) / slope, 3), round(width / slope, 3))
        # highdicom's own class for this has no room for the frames of several images
        window.ReferencedImageSequence = Sequence(_references(slices, sources))  # type: ignore[assignment]
        windows.append(window)
    return windows


def _window(center: float, width: float) -> SoftcopyVOILUTTransformation:
    return SoftcopyVOILUTTransformation([center], [width], ["LUNG"])


def _slices_by_line(volume: Volume) -> dict[_Line, list[int]]:
    found: dict[_Line, list[int]] = {}
    for z in range(len(volume.sources)):
        found.setdefault(_rescale(volume, z), []).append(z)
    return found


def _references(slices: list[int], sources: SourceImages) -> list[Dataset]:
    """One reference to each image of these slices, with their frames where it has several."""
    references: dict[str, Dataset] = {}
    frames: dict[str, list[int]] = {}
    for z in slices:
        uid = sources.slices[z].sop_instance_uid
        references.setdefault(uid, sources.reference_of(z))
        frames.setdefault(uid, []).extend(sources.frames_of(z) or ())
    for uid, numbers in frames.items():
        if numbers:
            references[uid].ReferencedFrameNumber = numbers
    return list(references.values())


def _rescale(volume: Volume, z: int) -> _Line:
    """Intercept and slope of one slice; stored values are HU where its header has none."""
    header, frame = volume.header_of(z), volume.sources[z].frame_number
    if frame is not None:
        groups = [*header.get("SharedFunctionalGroupsSequence", ())]
        groups += [*header.get("PerFrameFunctionalGroupsSequence", ())][frame - 1 : frame]
        found = [
            g.PixelValueTransformationSequence[0] for g in groups if "PixelValueTransformationSequence" in g
        ]
        if found:
            header = found[0]
    if "RescaleIntercept" not in header or "RescaleSlope" not in header:
        return 0.0, 1.0
    return float(header.RescaleIntercept), float(header.RescaleSlope)

"""From files to frame headers: what each CT image says of itself, checked, before any pixel is touched."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
)

SINGLE_FRAME = CTImageStorage
MULTI_FRAME = (EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)

MALFORMED = (
    InvalidDicomError,
    BytesLengthException,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What pydicom and its codecs raise on hostile or broken data sets (tried with damaged files and by fuzzing).

OSError is among them not for the disk alone: pydicom says so that a data set ends inside a sequence.
"""

MAX_INFLATED_BYTES = 1 << 30
"""A deflated data set larger than this is refused before it is inflated."""

_META_BYTES = 4096

MAX_SIDE = 4096
MAX_FRAMES = 5000

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class FrameHeader:
    """One axial image as its header describes it; lengths in mm, directions are unit vectors (LPS).

    dataset: index into `StudyHeaders.datasets`. frame_number: 1-based, None for single-frame CT.
    thickness: None where the header has none. slope, intercept: PS3.3 C.7.6.16.2.9 / C.8.2.1, to HU.
    acquired: date and time as text that sorts, "" where absent.
    """

    path: Path
    dataset: int
    sop_class_uid: str
    sop_instance_uid: str
    frame_number: int | None
    study_uid: str
    series_uid: str
    frame_of_reference_uid: str
    image_type: tuple[str, ...]
    rows: int
    columns: int
    position: Vector
    row_direction: Vector
    column_direction: Vector
    pixel_spacing: tuple[float, float]
    thickness: float | None
    slope: float
    intercept: float
    kernel: str
    acquisition_number: int
    instance_number: int
    acquired: str


@dataclass(frozen=True)
class Rejected:
    """A file that cannot take part, and why; `series_uid` is "" where it was not legible."""

    path: Path
    series_uid: str
    reason: str
    readable: bool


@dataclass(frozen=True, eq=False)
class StudyHeaders:
    """All that a set of files says. datasets: without pixel data, as read."""

    frames: tuple[FrameHeader, ...]
    datasets: tuple[Dataset, ...]
    rejected: tuple[Rejected, ...]


class _Unfit(ValueError):
    """A header that is legible, but not of an axial CT image in HU."""


def read_headers(paths: Iterable[Path | str]) -> StudyHeaders:
    """Headers of all CT images among `paths`, in the order of the file names; never raises for a bad file."""
    frames: list[FrameHeader] = []
    datasets: list[Dataset] = []
    rejected: list[Rejected] = []
    for path in sorted({Path(p) for p in paths}):
        series = ""
        try:
            dataset = _read(path)
        except OSError as error:
            rejected.append(
                Rejected(path, "", f"cannot be opened: {error.strerror or error}", readable=False)
            )
            continue
        except MALFORMED as error:
            rejected.append(Rejected(path, "", f"not readable as DICOM: {_short(error)}", readable=False))
            continue
        try:
            series = str(dataset.get("SeriesInstanceUID", ""))
            found = _frames_of(path, dataset, len(datasets))
        except _Unfit as error:
            rejected.append(Rejected(path, series, str(error), readable=True))
        except MALFORMED as error:
            rejected.append(Rejected(path, series, f"header is malformed: {_short(error)}", readable=True))
        else:
            frames.extend(found)
            datasets.append(dataset)
    return StudyHeaders(tuple(frames), tuple(datasets), tuple(rejected))


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:160]


def _read(path: Path) -> Dataset:
    _refuse_inflation(path)
    try:
        return pydicom.dcmread(path, stop_before_pixels=True)
    except InvalidDicomError:
        dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        if "SOPClassUID" not in dataset:
            raise
        return dataset


def _refuse_inflation(path: Path) -> None:
    """Raise ValueError for a deflated file that would inflate beyond all measure (PS3.5 A.5)."""
    with path.open("rb") as file:
        head = file.read(_META_BYTES)
        if head[128:132] != b"DICM" or str(DeflatedExplicitVRLittleEndian).encode() not in head:
            return
        # The group length is the first element of the meta group: tag, VR and length in 8 bytes, then its value.
        file.seek(144 + int.from_bytes(head[140:144], "little"))
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        total = 0
        while (chunk := file.read(1 << 16)) and not inflater.eof:
            while chunk:
                total += len(inflater.decompress(chunk, 1 << 22))
                if total > MAX_INFLATED_BYTES:
                    raise ValueError(f"inflates to more than {MAX_INFLATED_BYTES >> 20} MiB")
                chunk = inflater.unconsumed_tail


def _frames_of(path: Path, dataset: Dataset, index: int) -> list[FrameHeader]:
    sop_class = dataset.get("SOPClassUID")
    if sop_class is None:
        raise _Unfit("no SOPClassUID")
    if sop_class not in (SINGLE_FRAME, *MULTI_FRAME):
        raise _Unfit(f"not a CT image ({getattr(sop_class, 'name', sop_class)})")
    if str(dataset.get("Modality", "CT")) != "CT":
        raise _Unfit(f"Modality is {_safe(dataset.Modality)}, not CT")
    _refuse_unusual_pixels(dataset)
    if sop_class == SINGLE_FRAME:
        if int(dataset.get("NumberOfFrames") or 1) != 1:
            raise _Unfit("CT Image Storage with several frames")
        return [_frame(path, dataset, index, None, (dataset,))]
    return _enhanced_frames(path, dataset, index)


def _refuse_unusual_pixels(dataset: Dataset) -> None:
    rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    if not (1 < rows <= MAX_SIDE and 1 < columns <= MAX_SIDE):
        raise _Unfit(f"image of {rows} x {columns} pixels")
    if int(dataset.get("SamplesPerPixel") or 1) != 1:
        raise _Unfit("colour image")
    if int(dataset.get("BitsAllocated") or 0) not in (8, 16, 32):
        raise _Unfit(f"BitsAllocated is {dataset.get('BitsAllocated')}")


def _enhanced_frames(path: Path, dataset: Dataset, index: int) -> list[FrameHeader]:
    count = int(dataset.get("NumberOfFrames") or 1)
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    if not 0 < count <= MAX_FRAMES:
        raise _Unfit(f"{count} frames")
    if len(per_frame) != count:
        raise _Unfit(f"{count} frames, but {len(per_frame)} items in PerFrameFunctionalGroupsSequence")
    shared = dataset.get("SharedFunctionalGroupsSequence") or [Dataset()]
    return [
        _frame(path, dataset, index, n + 1, _frame_items(item, shared[0], dataset))
        for n, item in enumerate(per_frame)
    ]


_GROUPS = (
    "CTImageFrameTypeSequence",
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "PixelMeasuresSequence",
    "PixelValueTransformationSequence",
    "CTReconstructionSequence",
    "FrameContentSequence",
)


def _frame_items(per_frame: Dataset, shared: Dataset, dataset: Dataset) -> tuple[Dataset, ...]:
    """The items that hold a frame's attributes, first to be asked first (PS3.3 C.7.6.16)."""
    items = [group[name][0] for name in _GROUPS for group in (per_frame, shared) if group.get(name)]
    return (*items, dataset)


def _ask(items: Sequence[Dataset], keyword: str) -> Any:
    return next(
        (item[keyword].value for item in items if keyword in item and item[keyword].value is not None), None
    )


def _frame(
    path: Path, dataset: Dataset, index: int, frame_number: int | None, items: Sequence[Dataset]
) -> FrameHeader:
    row, column = _directions(_ask(items, "ImageOrientationPatient"))
    slope, intercept = _rescale(items)
    image_type = _ask(items, "FrameType") or _ask(items, "ImageType") or ()
    content = _ask(items, "InStackPositionNumber") if frame_number else None
    return FrameHeader(
        path=path,
        dataset=index,
        sop_class_uid=str(dataset.SOPClassUID),
        sop_instance_uid=_uid(dataset, "SOPInstanceUID"),
        frame_number=frame_number,
        study_uid=_uid(dataset, "StudyInstanceUID"),
        series_uid=_uid(dataset, "SeriesInstanceUID"),
        frame_of_reference_uid=_uid(dataset, "FrameOfReferenceUID"),
        image_type=tuple(
            _safe(v).upper() for v in ([image_type] if isinstance(image_type, str) else image_type)
        ),
        rows=int(dataset.Rows),
        columns=int(dataset.Columns),
        position=_vector(_ask(items, "ImagePositionPatient"), "ImagePositionPatient"),
        row_direction=row,
        column_direction=column,
        pixel_spacing=_spacing(_ask(items, "PixelSpacing")),
        thickness=_positive(_ask(items, "SliceThickness")),
        slope=slope,
        intercept=intercept,
        kernel=_joined(_ask(items, "ConvolutionKernel")),
        acquisition_number=_integer(
            _ask(items, "FrameAcquisitionNumber") or dataset.get("AcquisitionNumber")
        ),
        instance_number=_integer(content or frame_number or dataset.get("InstanceNumber")),
        acquired=_acquired(dataset),
    )


def _uid(dataset: Dataset, keyword: str) -> str:
    """A UID that is safe in a path, in XML and in another object; raises for anything else (PS3.5 9.1)."""
    value = str(dataset.get(keyword) or "")
    if not value:
        raise _Unfit(f"no {keyword}")
    if len(value) > 64 or not set(value) <= set("0123456789."):
        raise _Unfit(f"{keyword} is not a UID")
    return value


def _safe(value: object) -> str:
    """Header text for a message: printable, short, without markup."""
    return "".join(c for c in str(value)[:32] if c.isalnum() or c in " _-./").strip()


def _joined(value: object) -> str:
    return "/".join(_safe(v) for v in ([value] if isinstance(value, str) else value or ()))  # type: ignore[attr-defined]


def _integer(value: object) -> int:
    return int(str(value)) if value not in (None, "") else 0


def _positive(value: object) -> float | None:
    number = float(str(value)) if value not in (None, "") else 0.0
    return number if math.isfinite(number) and number > 0 else None


def _vector(value: Any, keyword: str) -> Vector:
    if value is None or len(value) != 3:
        raise _Unfit(f"no {keyword}")
    x, y, z = (float(v) for v in value)
    if not all(math.isfinite(v) and abs(v) < 1e5 for v in (x, y, z)):
        raise _Unfit(f"{keyword} is not finite")
    return x, y, z


def _directions(value: Any) -> tuple[Vector, Vector]:
    if value is None or len(value) != 6:
        raise _Unfit("no ImageOrientationPatient")
    row = _unit(_vector(value[:3], "ImageOrientationPatient"))
    column = _unit(_vector(value[3:], "ImageOrientationPatient"))
    if abs(sum(a * b for a, b in zip(row, column, strict=True))) > 0.01:
        raise _Unfit("ImageOrientationPatient is not orthogonal")
    return row, column


def _unit(vector: Vector) -> Vector:
    length = math.hypot(*vector)
    if abs(length - 1) > 0.01:
        raise _Unfit("ImageOrientationPatient is not of unit length")
    return vector[0] / length, vector[1] / length, vector[2] / length


def _spacing(value: Any) -> tuple[float, float]:
    if value is None or len(value) != 2:
        raise _Unfit("no PixelSpacing")
    between_rows, between_columns = (float(v) for v in value)
    if not all(0.05 <= v <= 10 for v in (between_rows, between_columns)):
        raise _Unfit(f"PixelSpacing of {between_rows} x {between_columns} mm")
    return between_rows, between_columns


def _rescale(items: Sequence[Dataset]) -> tuple[float, float]:
    slope, intercept = _ask(items, "RescaleSlope"), _ask(items, "RescaleIntercept")
    if slope in (None, "") or intercept in (None, ""):
        raise _Unfit("no RescaleSlope or RescaleIntercept, so no Hounsfield units")
    kind = _safe(_ask(items, "RescaleType") or "HU").upper()
    if kind not in ("HU", "HU_MOD", "US"):
        raise _Unfit(f"RescaleType is {kind}, not HU")
    slope, intercept = float(slope), float(intercept)
    if not (math.isfinite(slope) and math.isfinite(intercept) and 0 < slope <= 100 and abs(intercept) <= 1e5):
        raise _Unfit(f"rescale slope {slope}, intercept {intercept}")
    return slope, intercept


def _acquired(dataset: Dataset) -> str:
    stamp = dataset.get("AcquisitionDateTime")
    if stamp:
        return _safe(stamp)
    date = dataset.get("AcquisitionDate") or dataset.get("SeriesDate") or dataset.get("StudyDate") or ""
    time = dataset.get("AcquisitionTime") or dataset.get("SeriesTime") or ""
    return _safe(f"{date}{time}")

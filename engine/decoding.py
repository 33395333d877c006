"""From encoded pixel data to Hounsfield units."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
)

from engine.errors import Undecodable
from engine.headers import MALFORMED, MAX_SIDE, FrameHeader

AIR_HU = -1024
"""Lowest value of a Volume: padding and everything below becomes this."""

_STREAM_HEADER_BYTES = 1 << 16

_CODECS = {RLELossless: "pydicom", JPEGLSLossless: "pyjpegls", JPEGLSNearLossless: "pyjpegls"}
"""Preferred codecs: pylibjpeg's RLE panics on a damaged stream, which no `except` catches; pyjpegls is fast."""

_NOT_DECODED = (RuntimeError, *MALFORMED)
"""RuntimeError: every codec has failed."""


def decode_frames(frames: Sequence[FrameHeader]) -> Iterator[npt.NDArray[np.int16]]:
    """HU int16 [Y, X] of each of `frames`, which all come from one file, in the order given.

    Stored values are rescaled with the frame's slope and intercept; PixelPaddingValue (and its range, PS3.3
    C.7.5.1.1.2) and everything below -1024 HU become -1024. Raises Undecodable.
    """
    path = frames[0].path
    indices = [(frame.frame_number or 1) - 1 for frame in frames]
    try:
        dataset = _read(path)
        padding = _padding_range(dataset)
        stored = _stored(dataset, (frames[0].rows, frames[0].columns), indices)
        for frame, pixels in zip(frames, stored, strict=True):
            yield to_hu(_of_frame(pixels, frame), frame.slope, frame.intercept, padding)
    except _NOT_DECODED as error:
        raise _undecodable(path, error) from error


def stored_frames(path: Path) -> Iterator[npt.NDArray[Any]]:
    """Stored values of each frame of one file, [Y, X] or [Y, X, sample], of images of any kind. Raises Undecodable."""
    try:
        dataset = _read(path)
        size = int(dataset.Rows), int(dataset.Columns)
        if max(size) > MAX_SIDE:
            raise ValueError(f"image of {size[0]} x {size[1]} pixels")
        yield from _stored(dataset, size, range(int(dataset.get("NumberOfFrames") or 1)))
    except _NOT_DECODED as error:
        raise _undecodable(path, error) from error


def _stored(
    dataset: Dataset, size: tuple[int, int], indices: Sequence[int]
) -> Iterator[npt.NDArray[np.integer[Any]]]:
    _refuse_other_size(dataset, size, indices)
    codec = _CODECS.get(dataset.file_meta.TransferSyntaxUID, "")
    yield from iter_pixels(dataset, indices=indices, raw=True, decoding_plugin=codec)


def _undecodable(path: Path, error: BaseException) -> Undecodable:
    return Undecodable(f"{path.name} cannot be decoded: {str(error).strip()[:200] or type(error).__name__}")


def to_hu(
    stored: npt.NDArray[np.integer[Any]], slope: float, intercept: float, padding: tuple[int, int] | None
) -> npt.NDArray[np.int16]:
    """HU int16 from stored values: stored * slope + intercept, rounded; padding (lowest, highest) becomes -1024."""
    if slope == 1 and float(intercept).is_integer():
        hu: npt.NDArray[Any] = stored.astype(np.int32)
        hu += np.int32(intercept)
    else:
        hu = np.rint(stored.astype(np.float64) * slope + intercept)
    np.clip(hu, AIR_HU, np.iinfo(np.int16).max, out=hu)
    result = hu.astype(np.int16)
    if padding is not None:
        lowest, highest = padding
        result[(stored >= lowest) & (stored <= highest)] = AIR_HU
    return result


def _read(path: Path) -> Dataset:
    dataset = pydicom.dcmread(path, force=True)
    if not dataset.file_meta.get("TransferSyntaxUID"):
        implicit, little = dataset.original_encoding
        native = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else native
    return dataset


def _padding_range(dataset: Dataset) -> tuple[int, int] | None:
    value = dataset.get("PixelPaddingValue")
    if value is None or isinstance(value, bytes):
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    ends = [_as_stored(v, dataset) for v in (value, value if limit is None else limit)]
    return min(ends), max(ends)


def _as_stored(value: object, dataset: Dataset) -> int:
    """Padding read with the wrong sign (US for SS and the reverse) brought to the sign of the pixels."""
    number, bits = int(str(value)), int(dataset.BitsAllocated)
    signed = int(dataset.PixelRepresentation) == 1
    if signed and number >= 1 << (bits - 1):
        return number - (1 << bits)
    return number + (1 << bits) if not signed and number < 0 else number


def _of_frame(pixels: npt.NDArray[np.integer[Any]], frame: FrameHeader) -> npt.NDArray[np.integer[Any]]:
    if pixels.shape != (frame.rows, frame.columns):
        raise ValueError(f"image of {pixels.shape} instead of {frame.rows} x {frame.columns} pixels")
    return pixels


def _refuse_other_size(dataset: Dataset, expected: tuple[int, int], indices: Sequence[int]) -> None:
    """A code stream of another size than `expected` (rows, columns) is refused before a codec takes memory for it."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax not in (*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes):
        return
    wanted = set(indices)
    count = int(dataset.get("NumberOfFrames") or 1)
    for index, stream in enumerate(generate_frames(dataset.PixelData, number_of_frames=count)):
        size = stream_size(stream[:_STREAM_HEADER_BYTES]) if index in wanted else None
        if size is not None and size != expected:
            raise ValueError(
                f"code stream of {size[0]} x {size[1]} pixels, header {expected[0]} x {expected[1]}"
            )


def stream_size(stream: bytes) -> tuple[int, int] | None:
    """(rows, columns) that a JPEG, JPEG-LS or JPEG 2000 code stream announces; None where no size is found."""
    if (
        stream[:4] == b"\xff\x4f\xff\x51"
    ):  # SOC, SIZ: Lsiz, Rsiz, Xsiz, Ysiz, XOsiz, YOsiz (ISO 15444-1 A.5.1)
        x, y, x0, y0 = (int.from_bytes(stream[i : i + 4], "big") for i in (8, 12, 16, 20))
        return y - y0, x - x0
    at = 2
    while stream[:2] == b"\xff\xd8" and at + 9 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):  # SOF
            return int.from_bytes(stream[at + 5 : at + 7], "big"), int.from_bytes(
                stream[at + 7 : at + 9], "big"
            )
        else:
            at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    return None

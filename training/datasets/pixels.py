"""Opening items: slices as HU, masks as booleans. Volumes are decoded once into a memory-mapped cache."""

from __future__ import annotations

import hashlib
import os
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import SimpleITK
from PIL import Image

from engine.errors import EngineError
from engine.facing import facing_as_trained
from engine.loading import load_series
from engine.volume import Volume
from training.datasets.items import DatasetError, Item, Plane

VOLUME_SUFFIXES = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")

Stored = npt.NDArray[Any]
Values = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def is_volume(path: Path) -> bool:
    """A volume file by its name, or a folder (taken as one DICOM series)."""
    return path.is_dir() or path.name.lower().endswith(VOLUME_SUFFIXES)


@dataclass(frozen=True)
class VolumeHeader:
    """Slices, rows and columns, and mm between rows and between columns, and between slices."""

    size: tuple[int, int, int]
    spacing: tuple[float, float]
    slice_mm: float


def volume_header(path: Path) -> VolumeHeader:
    """Header of a volume file of axial slices, or of a DICOM folder. Raises DatasetError."""
    if path.is_dir():
        volume = _dicom_volume(path)
        slices, rows, columns = volume.hu.shape
        return VolumeHeader(
            (slices, rows, columns), volume.geometry.pixel_spacing, volume.geometry.slice_spacing
        )
    reader: Any = SimpleITK.ImageFileReader()  # type: ignore[no-untyped-call]
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise DatasetError(f"{path} cannot be read as a volume") from error
    if reader.GetDimension() != 3:
        raise DatasetError(f"{path} has {reader.GetDimension()} dimensions, needs 3")
    x, y, z = reader.GetSize()
    column_mm, row_mm, slice_mm = reader.GetSpacing()
    return VolumeHeader((z, y, x), (row_mm, column_mm), slice_mm)


@dataclass(frozen=True)
class PixelSource:
    """Opens planes. `cache` is a folder for decoded volumes, shared by processes and kept between runs."""

    cache: Path

    def hu(self, item: Item) -> Values:
        """The slice in HU, float32 [H, W]; as good as the item's calibration. Raises DatasetError."""
        values = self._values(item.image, read_image)
        return np.asarray(values * item.calibration.slope + item.calibration.intercept, dtype=np.float32)

    def volume(self, item: Item) -> npt.NDArray[np.int16]:
        """All slices of the volume that the item is one of, int16 [Z, H, W] HU. Raises DatasetError."""
        stored = self.stored(item.image.path)
        hu = stored * item.calibration.slope + item.calibration.intercept
        return np.asarray(np.clip(np.rint(hu), -32768, 32767), dtype=np.int16)

    def mask(self, item: Item) -> Mask | None:
        """The lesion mask, bool [H, W], or None where the item has none. Raises DatasetError."""
        if item.mask is None:
            return None
        values = self._values(item.mask, read_mask)
        if item.mask_labels is None:
            return np.asarray(values > 0)
        return np.isin(values, item.mask_labels)

    def stored(self, path: Path) -> Stored:
        """All slices of a volume as `decode_volume` gives them, memory-mapped. Raises DatasetError."""
        volume: Stored = np.load(path if path.suffix == ".npy" else self._cached(path), mmap_mode="r")
        return volume

    def _values(self, plane: Plane, read_picture: Callable[[Path], Stored]) -> Stored:
        if plane.index is None:
            return read_picture(plane.path)
        volume = self.stored(plane.path)
        if plane.index >= len(volume):
            raise DatasetError(f"{plane.path} has {len(volume)} slices, no slice {plane.index}")
        return np.asarray(volume[plane.index])

    def _cached(self, path: Path) -> Path:
        stat = path.stat()
        key = hashlib.sha256(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:24]
        target = self.cache / f"{key}.npy"
        if target.exists():
            return target
        volume = decode_volume(path)
        self.cache.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.cache, suffix=".part")
        with os.fdopen(handle, "wb") as file:
            np.save(file, volume)
        Path(name).replace(target)
        return target


def read_image(path: Path) -> Stored:
    """A picture as stored, one channel [H, W]; colour becomes grey. Raises DatasetError with the reason."""
    return _read(path, ("L", "I", "F", "I;16", "I;16B"))


def read_mask(path: Path) -> Stored:
    """The label picture as stored [H, W]; of a picture with a palette the indices. Raises DatasetError."""
    return _read(path, ("1", "L", "I", "F", "I;16", "I;16B", "P"))


def _read(path: Path, as_stored: tuple[str, ...]) -> Stored:
    try:
        with Image.open(path) as picture:
            values = np.asarray(picture if picture.mode in as_stored else picture.convert("L"))
    except FileNotFoundError as error:
        raise DatasetError(f"{path} is missing") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read as a picture") from error
    if values.size == 0:
        raise DatasetError(f"{path} is empty")
    return values


def decode_volume(path: Path) -> Stored:
    """All slices [Z, H, W] as stored, feet to head, rows towards the back, columns towards the patient's left.

    Raises DatasetError.
    """
    if path.is_dir():
        volume = _dicom_volume(path)
        facing = facing_as_trained(volume.geometry)
        return facing.ordered(facing.turned(volume.hu))
    _require_whole(path)
    try:
        image = SimpleITK.DICOMOrient(SimpleITK.ReadImage(str(path)), "LPS")  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise DatasetError(f"{path} cannot be read as a volume") from error
    values: Stored = SimpleITK.GetArrayFromImage(image)
    if values.ndim != 3:
        raise DatasetError(f"{path} has {values.ndim} dimensions, needs 3")
    integral = np.issubdtype(values.dtype, np.integer) or bool(np.all(values == np.round(values)))
    return values.astype(np.int16 if integral else np.float32)


def _require_whole(path: Path) -> None:
    """Raises DatasetError for a NIfTI file that breaks off: SimpleITK fills what is missing with zeros, silently."""
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        return
    try:
        file: Any = nibabel.load(path)
        file.dataobj.get_unscaled()
    except (OSError, EOFError, ValueError, zlib.error, nibabel.filebasedimages.ImageFileError) as error:
        raise DatasetError(f"{path} cannot be read as a volume") from error


def _dicom_volume(path: Path) -> Volume:
    try:
        return load_series(sorted(p for p in path.rglob("*") if p.is_file()))
    except EngineError as error:
        raise DatasetError(f"{path}: {error}") from error

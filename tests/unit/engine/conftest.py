"""Small made-up series, a lung phantom and tiny model packages that keep the contract."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from tiny_packages import SYSTEMS, write_package

from engine.volume import Geometry, SourceSlice, Volume

STUDY, SERIES, FRAME = "1.2.3", "1.2.3.4", "1.2.3.5"

WriteSlice = Callable[..., Path]


@pytest.fixture
def write_slice(tmp_path: Path) -> WriteSlice:
    """Writes one CT file: write_slice(instance, position, stored=..., **attributes)."""

    def write(instance: int, position: tuple[float, ...], stored: Any = None, **attributes: Any) -> Path:
        pixels = np.full((8, 8), 1024 + instance, dtype=np.uint16) if stored is None else stored
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CTImageStorage
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = f"1.2.3.6.{instance}"
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = STUDY, SERIES, FRAME
        ds.Modality, ds.ImageType, ds.InstanceNumber = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"], instance
        ds.ImagePositionPatient = [f"{v:.6f}"[:16] for v in position]
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, ds.SliceThickness = [0.8, 0.8], 2
        ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
        ds.Rows, ds.Columns = pixels.shape
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
        ds.PixelRepresentation = int(np.issubdtype(pixels.dtype, np.signedinteger))
        ds.PixelData = pixels.tobytes()
        for keyword, value in attributes.items():
            if value is None:
                del ds[keyword]
            else:
                setattr(ds, keyword, value)
        path = tmp_path / f"{len(list(tmp_path.iterdir())):04d}.dcm"
        pydicom.dcmwrite(path, ds, enforce_file_format=True)
        return path

    return write


def make_volume(hu: np.ndarray, spacing: float = 5.0, pixel: float = 1.5) -> Volume:
    """A volume of straight axial slices `spacing` mm apart."""
    positions = np.array([[-100.0, -100.0, spacing * z] for z in range(len(hu))])
    geometry = Geometry(positions, np.array([1.0, 0, 0]), np.array([0.0, 1, 0]), (pixel, pixel), spacing)
    sources = tuple(SourceSlice(CTImageStorage, f"1.2.3.6.{z}", None, z) for z in range(len(hu)))
    return Volume(hu.astype(np.int16), geometry, sources, STUDY, SERIES, FRAME)


def make_chest(slices: int = 40, size: int = 192, lesion: bool = False) -> np.ndarray:
    """HU int16 of two lungs in a body, with a table below; a lesion of -450 HU in the right lung if wanted."""
    z, y, x = np.ogrid[:slices, :size, :size]
    body = ((y - size / 2) / (0.36 * size)) ** 2 + ((x - size / 2) / (0.45 * size)) ** 2 < 1
    hu = np.where(body, 40, -1000) + 0 * z
    height = np.sqrt(np.clip(1 - ((z - slices / 2) / (0.46 * slices)) ** 2, 0, None)) + 1e-6
    for centre in (0.3, 0.7):
        r = ((y - size / 2) / (0.24 * size)) ** 2 + ((x - centre * size) / (0.14 * size)) ** 2
        hu[r < height**2] = -850
    hu[:, int(0.9 * size) : int(0.93 * size), 5:-5] = 100
    if lesion:
        r = (z - slices / 2) ** 2 + ((y - size / 2) / 3) ** 2 + ((x - 0.3 * size) / 3) ** 2
        hu[r < (0.012 * size * slices / 10) ** 2] = -450
    rng = np.random.default_rng(7)
    return (hu + rng.normal(0, 12, hu.shape)).astype(np.int16)


@pytest.fixture
def volume_of() -> Callable[..., Volume]:
    return make_volume


@pytest.fixture
def chest_of() -> Callable[..., np.ndarray]:
    return make_chest


@pytest.fixture
def make_package() -> Callable[..., Path]:
    return write_package


@pytest.fixture
def package_paths(tmp_path: Path) -> list[Path]:
    """A tiny package of each system."""
    return [write_package(tmp_path / "packages" / system, system) for system in SYSTEMS]

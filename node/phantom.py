"""A simulated chest CT with lungs, vessels and ground glass, for showing and measuring the node without data.

It is built on a grid of half the size and enlarged, so that 300 slices take a few seconds. The lesions are
those of `training.simulation`.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from engine.findings import PneumoniaClass
from training.simulation import describe, insert_lesions, sample_lesions

Field = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

HEIGHT_MM = 300.0
WIDTH_MM = 360.0
DRAWS = 3
"""Draws of lesions in one phantom: one alone may be hardly ill."""

AIR, FAT, SOFT, BLOOD, BONE = -1000.0, -100.0, 45.0, 40.0, 450.0


@dataclass(frozen=True)
class Grid:
    """Open coordinate grids in mm: z from the feet; y to the back and x to the patient's left of the middle."""

    z: Field
    y: Field
    x: Field

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along z, y, x."""
        return self.z.size, self.y.size, self.x.size

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size along z, y, x, mm."""
        return HEIGHT_MM / self.z.size, WIDTH_MM / self.y.size, WIDTH_MM / self.x.size

    def voxels(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """Voxel indices int64 [N, 3] of points (z, y, x) in mm, kept inside the grid."""
        index = (points - [0.0, -WIDTH_MM / 2, -WIDTH_MM / 2]) / self.spacing
        return np.clip(np.rint(index - 0.5).astype(np.int64), 0, np.array(self.shape) - 1)

    @classmethod
    def of(cls, slices: int, size: int) -> Grid:
        """A grid of `slices` x `size` x `size` voxels over the phantom."""
        z = ((np.arange(slices) + 0.5) * HEIGHT_MM / slices).astype(np.float32)
        across = ((np.arange(size) + 0.5) * WIDTH_MM / size - WIDTH_MM / 2).astype(np.float32)
        return cls(z[:, None, None], across[None, :, None], across[None, None, :])


def phantom_volume(
    slices: int = 300, size: int = 512, seed: int = 1, ill: bool = True
) -> npt.NDArray[np.int16]:
    """Hounsfield units int16 [slices, size, size] of the phantom, feet first.

    `ill` adds lesions as `training.simulation` draws them for COVID-19. The same arguments give the same.
    """
    rng = np.random.default_rng(seed)
    grid = Grid.of(max(2, slices // 2), max(32, size // 2))
    hu, lungs = _healthy(grid, rng)
    if ill:
        anatomy = describe(lungs, grid.spacing, rng)
        lesions = [
            lesion for _ in range(DRAWS) for lesion in sample_lesions(PneumoniaClass.COVID19, anatomy, rng)
        ]
        whole = hu.astype(np.int16)
        hu = insert_lesions(whole, anatomy, PneumoniaClass.COVID19, lesions, rng).hu.astype(np.float32)
    return _enlarged(hu, slices, size, rng)


def _healthy(grid: Grid, rng: np.random.Generator) -> tuple[Field, Mask]:
    """Hounsfield units float32 and the lung mask of the body without lesions."""
    hu = np.full(grid.shape, AIR, np.float32)
    skin = _ellipse(grid.y, grid.x, (0, 0), (112, 168), power=2.6)
    hu[np.broadcast_to(skin < 1, grid.shape)] = FAT
    hu[np.broadcast_to(_ellipse(grid.y, grid.x, (0, 0), (99, 152), power=2.6) < 1, grid.shape)] = SOFT
    lungs = _lungs(grid)
    hu[_ribs(grid) & ~lungs] = BONE
    hu[_spine(grid) & ~lungs] = BONE * 0.5
    parenchyma = -870 + 45 * (grid.y + 90) / 180 + 12 * rng.standard_normal(grid.shape, dtype=np.float32)
    hu = np.where(lungs, parenchyma, hu).astype(np.float32)
    hila = np.array([[165.0, 8.0, -38.0], [165.0, 8.0, 38.0]])
    _draw_vessels(hu, lungs, grid, hila, rng)
    _draw_airways(hu, grid, hila)
    return hu, lungs


def _ellipse(
    y: Field, x: Field, centre: tuple[float, float], axes: tuple[float, float], power: float = 2.0
) -> Field:
    """Level of a superellipse in the slice: less than 1 inside."""
    level = (np.abs(y - centre[0]) / axes[0]) ** power + (np.abs(x - centre[1]) / axes[1]) ** power
    return np.asarray(level, dtype=np.float32)


def _lungs(grid: Grid) -> Mask:
    """Two lungs over the diaphragm's domes, hollowed by mediastinum, heart and aorta."""
    lungs = np.zeros(grid.shape, np.bool_)
    narrowing = np.clip((HEIGHT_MM - 12 - grid.z) / 110, 0, 1) ** 0.5
    for side in (-1.0, 1.0):
        axes_y, axes_x = 84 * narrowing + 1e-3, 58 * narrowing + 1e-3
        level = (np.abs(grid.y - 2) / axes_y) ** 2.3 + (np.abs(grid.x - side * 76) / axes_x) ** 2.3
        dome = 30 + (55 if side < 0 else 45) * (1 - _ellipse(grid.y, grid.x, (5, side * 72), (95, 70)))
        lungs |= (level < 1) & (grid.z > dome)
    lungs &= np.abs(grid.x) > 20 + 6 * np.sin(grid.z / 45)
    heart = ((grid.z - 110) / 62) ** 2 + ((grid.y + 32) / 50) ** 2 + ((grid.x - 22) / 60) ** 2
    aorta = ((grid.y - 42) / 14) ** 2 + ((grid.x - 24) / 14) ** 2
    return lungs & (heart > 1) & (aorta > 1)


def _ribs(grid: Grid) -> Mask:
    """Oblique hoops in the chest wall, lower in front than at the back, and the sternum."""
    wall = _ellipse(grid.y, grid.x, (0, 0), (95, 146), power=2.5)
    shell = (wall < 1) & (wall > 0.80)
    height = grid.z + 0.35 * grid.y
    hoops = shell & (np.cos(2 * np.pi * height / 27) > 0.45)
    sternum = (np.abs(grid.y + 93) < 6) & (np.abs(grid.x) < 16) & (grid.z > 110)
    return np.asarray(hoops | sternum, dtype=np.bool_)


def _spine(grid: Grid) -> Mask:
    """Vertebral bodies with discs between them, and arches around the canal."""
    body = (_ellipse(grid.y, grid.x, (66, 0), (17, 20)) < 1) & (np.cos(2 * np.pi * grid.z / 26) < 0.9)
    arch = _ellipse(grid.y, grid.x, (92, 0), (14, 24))
    return np.asarray(body | ((arch < 1) & (arch > 0.45)), dtype=np.bool_)


def _draw_vessels(
    hu: Field, lungs: Mask, grid: Grid, hila: npt.NDArray[np.float64], rng: np.random.Generator
) -> None:
    """A tree from either hilum: random lung voxels, nearest first, are joined to what has grown so far."""
    places = np.argwhere(lungs)
    for hilum in hila:
        mine = places[(grid.x.ravel()[places[:, 2]] > 0) == (hilum[2] > 0)]
        if not len(mine):
            continue
        chosen = mine[rng.integers(len(mine), size=420)]
        targets = np.stack(
            [g.ravel()[c] for g, c in zip((grid.z, grid.y, grid.x), chosen.T, strict=True)], axis=1
        )
        points, radii = _tree(hilum, targets[np.argsort(np.linalg.norm(targets - hilum, axis=1))], rng)
        _stamp(hu, lungs, grid, points, radii)


def _tree(
    root: npt.NDArray[np.float64], targets: npt.NDArray[np.float64], rng: np.random.Generator
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Points float64 [N, 3] and radii [N] in mm of a tree from `root` through all targets.

    A branch that feeds n ends has the radius 0.6 mm x n^0.4, near to Murray's law.
    """
    points, parents, ends = root[None, :], [-1], []
    for target in targets:
        nearest = int(np.argmin(np.linalg.norm(points - target, axis=1)))
        length = float(np.linalg.norm(target - points[nearest]))
        steps = np.linspace(0, 1, max(2, int(length)))[1:, None]
        bow = np.sin(np.pi * steps) * rng.normal(0, 0.08 * length, 3)
        parents += [nearest, *range(len(points), len(points) + len(steps) - 1)]
        points = np.concatenate([points, points[nearest] + steps * (target - points[nearest]) + bow])
        ends.append(len(points) - 1)
    fed = np.zeros(len(points))
    fed[ends] = 1
    for index in range(len(points) - 1, 0, -1):
        fed[parents[index]] += fed[index]
    return points, 0.6 * fed**0.4


def _stamp(
    hu: Field, inside: Mask, grid: Grid, points: npt.NDArray[np.float64], radii: npt.NDArray[np.float64]
) -> None:
    """Draw balls of blood; one that is smaller than a voxel fills it in part."""
    voxel = np.array(grid.spacing)
    for radius in np.unique(np.round(radii, 1)):
        reach = np.ceil(radius / voxel).astype(int)
        offsets = np.stack(
            np.meshgrid(*[np.arange(-r, r + 1) for r in reach], indexing="ij"), axis=-1
        ).reshape(-1, 3)
        offsets = offsets[np.linalg.norm(offsets * voxel, axis=1) <= max(radius, 0.1)]
        centres = grid.voxels(points[np.round(radii, 1) == radius])
        z, y, x = np.clip((centres[:, None] + offsets).reshape(-1, 3), 0, np.array(grid.shape) - 1).T
        keep = inside[z, y, x]
        z, y, x = z[keep], y[keep], x[keep]
        share = min(1.0, radius / float(voxel[1]))
        hu[z, y, x] = np.maximum(hu[z, y, x], -870 + share * (BLOOD + 870))


def _draw_airways(hu: Field, grid: Grid, hila: npt.NDArray[np.float64]) -> None:
    """Trachea from above to the carina, main bronchi from there to the hila."""
    carina = np.array([195.0, 6.0, 0.0])
    trachea = (_ellipse(grid.y, grid.x, (6, 0), (8.5, 8.5)) < 1) & (grid.z > carina[0])
    hu[trachea] = AIR
    for hilum in hila:
        steps = np.linspace(0, 0.8, 60)[:, None]
        for point in carina + steps * (hilum - carina):
            dz, dy, dx = grid.z - point[0], grid.y - point[1], grid.x - point[2]
            hu[dz**2 + dy**2 + dx**2 < 5.5**2] = AIR


def _enlarged(hu: Field, slices: int, size: int, rng: np.random.Generator) -> npt.NDArray[np.int16]:
    """Linear interpolation to the full grid, with the noise of a scanner."""
    place = (np.arange(slices) + 0.5) * len(hu) / slices - 0.5
    below = np.clip(np.floor(place).astype(int), 0, len(hu) - 1)
    above = np.minimum(below + 1, len(hu) - 1)
    share = np.clip(place - below, 0, 1).astype(np.float32)
    volume = np.empty((slices, size, size), np.int16)
    for k in range(slices):
        mixed = Image.fromarray((1 - share[k]) * hu[below[k]] + share[k] * hu[above[k]])
        slice_ = np.asarray(mixed.resize((size, size), Image.Resampling.BILINEAR))
        noise = 14 * rng.standard_normal((size, size), dtype=np.float32)
        volume[k] = np.clip(slice_ + noise, -1024, 3071).astype(np.int16)
    return volume


def phantom_study(
    volume: npt.NDArray[np.int16], now: datetime.datetime, study_uid: str | None = None
) -> Iterator[Dataset]:
    """The volume as CT Image Storage instances (PS3.3 A.3), feet first, of patient PHANTOM.

    UIDs are new at every call, but for `study_uid` where it is given.
    """
    study = study_uid or generate_uid()
    series, frame = generate_uid(), generate_uid()
    for index, hu in enumerate(volume):
        yield _instance(hu, index, len(volume), (study, series, frame), now)


def _instance(
    hu: npt.NDArray[np.int16], index: int, count: int, uids: tuple[str, str, str], now: datetime.datetime
) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.SOPClassUID = CTImageStorage
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = uids
    _describe(dataset, now)
    _place(dataset, hu.shape, index, count)
    dataset.PixelData = (hu.astype(np.int32) + 1024).astype("<u2").tobytes()
    return dataset


def _describe(dataset: Dataset, now: datetime.datetime) -> None:
    """Patient, study, series and equipment: plainly a simulation."""
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName = dataset.PatientID = "PHANTOM"
    dataset.PatientBirthDate = dataset.PatientSex = ""
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = f"{now:%Y%m%d}"
    dataset.StudyTime = dataset.SeriesTime = dataset.AcquisitionTime = dataset.ContentTime = f"{now:%H%M%S}"
    dataset.AccessionNumber = dataset.ReferringPhysicianName = ""
    dataset.StudyID, dataset.SeriesNumber, dataset.AcquisitionNumber = "1", 1, 1
    dataset.StudyDescription = "Chest CT, simulated phantom"
    dataset.SeriesDescription = "Lung 1.0, simulated phantom"
    dataset.ImageComments = "Simulated phantom, not a patient"
    dataset.Manufacturer = "Simulation"
    dataset.ManufacturerModelName = "Chest phantom"
    dataset.Modality = "CT"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.BodyPartExamined = "CHEST"
    dataset.PatientPosition = "HFS"
    dataset.KVP = 120
    dataset.ConvolutionKernel = "LUNG"
    dataset.WindowCenter, dataset.WindowWidth = -600, 1500


def _place(dataset: Dataset, shape: tuple[int, ...], index: int, count: int) -> None:
    """Geometry and pixel description (PS3.3 C.7.6.2, C.7.6.3): rows to the back, columns to the left."""
    pixel, gap = WIDTH_MM / shape[0], HEIGHT_MM / count
    corner = -WIDTH_MM / 2 + pixel / 2
    dataset.InstanceNumber = count - index
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = [f"{v:.6g}" for v in (corner, corner, gap * index)]
    dataset.SliceThickness = f"{gap:.6g}"
    dataset.PixelSpacing = [f"{pixel:.6g}"] * 2
    dataset.PositionReferenceIndicator = ""
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = -1024, 1, "HU"

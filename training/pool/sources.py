"""The real data that the compact models learn from, as int16 slices on one grid of 256 x 256.

Figures from papers are 8-bit pictures of an unknown window; they are taken for the usual lung window
(centre -600, width 1500 HU), so that one augmentation serves figures and Hounsfield slices alike.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from engine.findings import PneumoniaClass
from engine.loading import load_series
from engine.lungs import find_lungs
from engine.volume import Geometry
from training.datasets.items import Split
from training.datasets.pictures import paper_of, split_named

GRID = 256
"""Rows and columns of every slice here."""

MD, NLST, CT100, COVID_CT = "COVID-CT-MD", "NLST", "COVID-19-CT100", "COVID-CT"
"""Names of the sources in a pool."""

_AIR_HU = -1024
_OUTSIDE_HU = -1020
_BODY_HU = -400

_CASE_CLASS = {
    "COVID-19": PneumoniaClass.COVID19,
    "CAP": PneumoniaClass.CAP,
    "Healthy": PneumoniaClass.HEALTHY,
}


@dataclass(frozen=True, eq=False)
class Case:
    """One patient's series.

    hu: int16 [Z, 256, 256], feet to head, rows anterior to posterior. lungs: bool, same shape.
    infected: bool [Z] by radiologists; all False for a healthy patient. spacing: mm along z, y, x.
    """

    name: str
    disease: PneumoniaClass
    hu: npt.NDArray[np.int16]
    lungs: npt.NDArray[np.bool_]
    infected: npt.NDArray[np.bool_]
    spacing: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Figure:
    """One 8-bit picture as pseudo-HU int16 [256, 256], squeezed to a square.

    patient: whose picture it is, as far as its name tells. aspect: width / height before that. covid: whether it
    shows COVID-19. mask: bool [256, 256] or None. split: train, val or test of the source (CT100: its test list is
    `test`, all else `train`).
    """

    name: str
    patient: str
    pseudo_hu: npt.NDArray[np.int16]
    aspect: float
    covid: bool
    mask: npt.NDArray[np.bool_] | None
    split: Split


def read_volumes(data: Path) -> list[Case]:
    """The NIfTI series of `volumes/`, with the radiologists' slice labels of `slices.csv`."""
    with (data / "volumes" / "slices.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    cases = []
    for path in sorted((data / "volumes").glob("*.nii.gz")):
        name = path.name.removesuffix(".nii.gz")
        mine = [row for row in rows if row["case"] == name]
        image: Any = nibabel.load(path)
        # NIfTI axes are left, posterior, head; the table counts from the head.
        hu = np.asarray(image.dataobj).transpose(2, 1, 0).astype(np.int16)
        hu = _with_table(hu, data / "ct" / name)
        infected = np.zeros(len(hu), dtype=np.bool_)
        for row in mine:
            infected[len(hu) - 1 - int(row["index_cranial_to_caudal"])] = row["infected"] == "1"
        x, y, z = (float(step) for step in image.header.get_zooms()[:3])
        disease = _CASE_CLASS[mine[0]["patient_class"]]
        cases.append(_case(name, disease, np.ascontiguousarray(hu), infected, (z, y, x)))
    return cases


def read_healthy_series(folder: Path) -> Case:
    """A DICOM folder 512 x 512 without known pneumonia, halved in-plane by 2 x 2 means."""
    volume = load_series(sorted(folder.glob("*.dcm")))
    spacing = volume.geometry.pixel_spacing
    return _case(
        name=folder.name,
        disease=PneumoniaClass.HEALTHY,
        hu=_halved(volume.hu),
        infected=np.zeros(len(volume.hu), dtype=np.bool_),
        spacing=(volume.geometry.slice_spacing, 2 * spacing[0], 2 * spacing[1]),
    )


def read_ct100(data: Path) -> list[Figure]:
    """COVID-19-CT100 with masks: the 20 images of test.txt, and the 80 others for training.

    The shipped train.txt lists all test images too, so it is not used.
    """
    root = data / "slices" / "covid-19-ct100"
    test = {
        Path(line.split()[0]).name for line in (root / "test.txt").read_text().splitlines() if line.strip()
    }
    figures = []
    for path in sorted((root / "tr_im").glob("*.png")):
        mask_path = root / "tr_mask_new" / path.name.replace("tr_im", "tr_mask")
        mask = (
            np.asarray(Image.open(mask_path).convert("L").resize((GRID, GRID), Image.Resampling.NEAREST)) > 0
        )
        split: Split = "test" if path.name in test else "train"
        figures.append(_figure(path, path.name, covid=True, mask=mask, split=split))
    return figures


def read_covid_ct(data: Path) -> list[Figure]:
    """COVID-CT (UCSD) with its original split; no masks."""
    root = data / "slices" / "covid-ct"
    with (root / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        _figure(
            root / row["path"],
            paper_of(row.get("original_name") or row["path"]),
            covid=row["label"] == "COVID",
            mask=None,
            split=split_named(row["split"], root),
        )
        for row in rows
    ]


def pseudo_hu(grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.int16]:
    """HU of an 8-bit picture taken with the window -1350..150, int16, same shape."""
    return np.asarray(np.rint(grey.astype(np.float32) * (1500 / 255) - 1350), dtype=np.int16)


def _case(
    name: str,
    disease: PneumoniaClass,
    hu: npt.NDArray[np.int16],
    infected: npt.NDArray[np.bool_],
    spacing: tuple[float, float, float],
) -> Case:
    across = np.zeros((len(hu), 3))
    across[:, 2] = np.arange(len(hu)) * spacing[0]
    geometry = Geometry(
        across, np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0]), (spacing[1], spacing[2]), spacing[0]
    )
    lungs = find_lungs(hu, geometry)
    if lungs is None:
        raise ValueError(f"no lungs found in {name}")
    return Case(name, disease, hu, lungs.whole(), infected, spacing)


def _with_table(hu: npt.NDArray[np.int16], folder: Path) -> npt.NDArray[np.int16]:
    """The volume with what lies around the body, as in the patient's own DICOM slices.

    The volumes have air there; real series show table and clothes, which a network must have seen. The median over
    slices of what is outside of the body stands for all slices, since the table does not change along z.
    """
    halved = _halved(load_series(sorted(folder.glob("*.dcm"))).hu).astype(np.float32)
    inside = halved > _BODY_HU
    body = np.stack([ndimage.binary_fill_holes(ndimage.binary_opening(i, iterations=4)) for i in inside])
    around = np.ma.median(np.ma.array(halved, mask=body), axis=0).filled(_AIR_HU)  # type: ignore[no-untyped-call]
    return np.where(hu <= _OUTSIDE_HU, around.astype(np.int16), hu)


def _halved(hu: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    z, y, x = hu.shape
    means = hu.reshape(z, y // 2, 2, x // 2, 2).mean(axis=(2, 4))
    return np.asarray(np.rint(means), dtype=np.int16)


def _figure(
    path: Path, patient: str, covid: bool, mask: npt.NDArray[np.bool_] | None, split: Split
) -> Figure:
    picture = Image.open(path).convert("L")
    square = picture.resize(
        (GRID, GRID), Image.Resampling.BOX if min(picture.size) >= 2 * GRID else Image.Resampling.BILINEAR
    )
    return Figure(
        name=path.name,
        patient=patient,
        pseudo_hu=pseudo_hu(np.asarray(square)),
        aspect=picture.width / picture.height,
        covid=covid,
        mask=mask,
        split=split,
    )

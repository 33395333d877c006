"""Which data sets are known, and finding out which one a folder holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from training.datasets.items import Dataset, DatasetError, joined
from training.datasets.manifest import read_manifest
from training.datasets.pictures import (
    read_cc_ccii,
    read_covid_ct,
    read_covid_ctset,
    read_jcs_lists,
    read_sars_cov2,
)
from training.datasets.pool import read_pool
from training.datasets.volumes import (
    read_covid_ct_md,
    read_dicom_folders,
    read_medicalsegmentation,
    read_mosmed,
    read_zenodo,
)


@dataclass(frozen=True)
class Reader:
    """`read` gives None for a folder that does not look like this data set."""

    name: str
    use: str
    layout: str
    read: Callable[[Path], Dataset | None]


READERS = (
    Reader(
        "COVID-CT",
        "slice classification; no HU",
        "CT_COVID/ CT_NonCOVID/ Data-split/, or COVID/ NonCOVID/ manifest.csv",
        read_covid_ct,
    ),
    Reader(
        "SARS-CoV-2 CT-scan",
        "slice classification; no HU, no patient ids",
        "COVID/ non-COVID/",
        read_sars_cov2,
    ),
    Reader(
        "image and mask list",
        "segmentation (JCS list format, COVID-19-CT100)",
        "train.txt test.txt with 'image mask' lines",
        read_jcs_lists,
    ),
    Reader(
        "CC-CCII",
        "patients of three classes; no HU",
        "{NCP,CP,Normal}/patient/scan/*.png, lesions_slices.csv",
        read_cc_ccii,
    ),
    Reader(
        "COVID-CTset",
        "slices and patients of two classes in HU",
        "Patient_details.csv, PATIENT/SR_n/*.tif",
        read_covid_ctset,
    ),
    Reader(
        "COVID-19-CT-Seg",
        "segmentation (Zenodo 3757476)",
        "COVID-19-CT-Seg_20cases/ Infection_Mask/",
        read_zenodo,
    ),
    Reader(
        "medicalsegmentation",
        "segmentation",
        "tr_im.nii.gz tr_mask.nii.gz, or rp_im/ rp_msk/",
        read_medicalsegmentation,
    ),
    Reader("MosMedData", "patients of two classes; 50 masks", "studies/CT-0..CT-4/ masks/", read_mosmed),
    Reader(
        "pool",
        "real and simulated slices on one grid (`lungnode datasets simulate`)",
        "hu.npy mask.npy slices.csv",
        read_pool,
    ),
    Reader(
        "COVID-CT-MD", "patients of three classes, lesion slices", "slices.csv CASE.nii.gz", read_covid_ct_md
    ),
    Reader("DICOM folders", "patients", "one folder per series, named after its class", read_dicom_folders),
)

REFUSED = {
    "AIforCOVID": "it holds chest X-rays, not CT",
    "COVID-chestxray": "it holds chest X-rays; its 20 CT volumes can be given in a CSV manifest",
    "chest_xray": "it holds chest X-rays, not CT",
    "COVID-19_Radiography": "it holds chest X-rays, not CT",
}
"""Sets that the literature lists beside CT sets, recognised by the folder's name."""


def open_dataset(path: Path) -> Dataset:
    """The data set at a path: a CSV manifest, a known folder, or a folder of known folders.

    Raises DatasetError where nothing is recognised or the set is refused.
    """
    if not path.exists():
        raise DatasetError(f"{path} is missing")
    if path.is_file():
        if path.suffix.lower() != ".csv":
            raise DatasetError(f"{path} is no CSV manifest")
        return read_manifest(path)
    _refuse_xray(path)
    if (found := _recognised(path)) is not None:
        return found
    parts = [part for child in sorted(path.iterdir()) if child.is_dir() and (part := _recognised(child))]
    if not parts:
        raise DatasetError(
            f"{path} holds no known data set; `lungnode datasets list` shows the layouts, and a CSV manifest "
            "(path,patient,label) describes any other"
        )
    return joined(parts)


def _recognised(path: Path) -> Dataset | None:
    for reader in READERS:
        found = reader.read(path)
        if found is not None:
            return found
    return None


def _refuse_xray(path: Path) -> None:
    names = [path.name.lower(), *(child.name.lower() for child in path.iterdir())]
    for name, reason in REFUSED.items():
        if any(name.lower() in other for other in names):
            raise DatasetError(f"{path} looks like {name}: {reason}")

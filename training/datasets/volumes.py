"""Data sets of whole volumes: Zenodo COVID-19-CT-Seg, medicalsegmentation, MosMedData, COVID-CT-MD, DICOM folders.

Slices are counted feet to head, whatever order the file has.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from training.datasets.items import (
    HOUNSFIELD,
    Calibration,
    Dataset,
    DatasetError,
    Item,
    Notes,
    Plane,
    grey_window,
)
from training.datasets.pictures import parse_csv
from training.datasets.pixels import volume_header

LESION_OF_MEDICALSEGMENTATION = (1, 2)
"""Ground glass and consolidation; 3 is pleural effusion."""

LESION_OF_COMBINED_MASK = (3,)
"""In the combined masks of Zenodo 3757476: 1 left lung, 2 right lung, 3 infection."""

RADIOPAEDIA_GREY = grey_window(-500, 1500)
"""The ten radiopaedia cases of Zenodo 3757476 are stored windowed [-1250, 250] to 0..255."""

UNCALIBRATED_HU = Calibration(1.0, 0.0, False)
"""medicalsegmentation set 1: HU-like, not calibrated by its author's statement."""


def volume_items(
    source: str,
    patient: str,
    path: Path,
    *,
    calibration: Calibration = HOUNSFIELD,
    label: int | None = None,
    mask: Path | None = None,
    mask_labels: tuple[int, ...] | None = None,
    lesions: Sequence[bool] | None = None,
    series: str | None = None,
) -> list[Item]:
    """An item per slice of a volume. Raises DatasetError where slices, mask and lesion flags do not match."""
    header = volume_header(path)
    size = header.size
    if mask is not None and (other := volume_header(mask).size) != size:
        raise DatasetError(f"{mask} is {other}, its volume {path} is {size}")
    if lesions is not None and len(lesions) != size[0]:
        raise DatasetError(f"{path} has {size[0]} slices, but {len(lesions)} lesion flags")
    flags = lesions if lesions is not None else [False] * size[0] if label == 0 else None
    return [
        Item(
            source=source,
            patient=patient,
            series=series or path.name.split(".")[0],
            index=index,
            image=Plane(path, index),
            calibration=calibration,
            label=label,
            lesion=None if flags is None else bool(flags[index]),
            mask=None if mask is None else Plane(mask, index),
            mask_labels=mask_labels,
            spacing=header.spacing,
        )
        for index in range(size[0])
    ]


def read_zenodo(folder: Path) -> Dataset | None:
    """COVID-19-CT-Seg, Zenodo 3757476: `COVID-19-CT-Seg_20cases`, `Infection_Mask` or `Lung_and_Infection_Mask`."""
    cases = folder / "COVID-19-CT-Seg_20cases"
    if not cases.is_dir():
        return None
    notes = Notes()
    items: list[Item] = []
    for path in sorted(cases.glob("*.nii.gz")):
        radiopaedia = path.name.startswith("radiopaedia")
        mask, labels = _zenodo_mask(folder, path.name)
        if mask is None:
            notes.warn(f"{folder}: volumes have no infection mask, the first is {path.name}")
        items += volume_items(
            "COVID-19-CT-Seg",
            _zenodo_patient(path.name),
            path,
            calibration=RADIOPAEDIA_GREY if radiopaedia else HOUNSFIELD,
            label=1,
            mask=mask,
            mask_labels=labels,
        )
    return Dataset("COVID-19-CT-Seg", tuple(items), True, notes.problems())


def _zenodo_mask(folder: Path, name: str) -> tuple[Path | None, tuple[int, ...] | None]:
    alone = folder / "Infection_Mask" / name
    if alone.is_file():
        return alone, None
    combined = folder / "Lung_and_Infection_Mask" / name
    return (combined, LESION_OF_COMBINED_MASK) if combined.is_file() else (None, None)


def _zenodo_patient(name: str) -> str:
    """radiopaedia_10_85902_1 and _3 are one patient, so the last number of a radiopaedia case is no patient."""
    stem = name.split(".")[0]
    return re.sub(r"_\d+$", "", stem) if stem.startswith("radiopaedia") else stem


def read_medicalsegmentation(folder: Path) -> Dataset | None:
    """medicalsegmentation.com: set 1 `tr_im.nii.gz` + `tr_mask.nii.gz`; set 2 `rp_im/` + `rp_msk/`."""
    items: list[Item] = []
    for image in (*folder.glob("tr_im.nii*"), *sorted(folder.glob("rp_im/*.nii*"))):
        first = image.parent == folder
        mask = folder / ("tr_mask" + image.name[5:]) if first else folder / "rp_msk" / image.name
        if not mask.is_file():
            raise DatasetError(f"{mask} is missing, the mask of {image}")
        slices = volume_items(
            "medicalsegmentation set 1" if first else "medicalsegmentation set 2",
            image.name.split(".")[0],
            image,
            calibration=UNCALIBRATED_HU if first else HOUNSFIELD,
            label=1,
            mask=mask,
            mask_labels=LESION_OF_MEDICALSEGMENTATION,
        )
        if first:
            slices = [_own_patient(item) for item in slices]
        items += slices
    if not items:
        return None
    only_set_2 = all(item.source.endswith("2") for item in items)
    return Dataset("medicalsegmentation", tuple(items), patients_known=only_set_2)


def _own_patient(item: Item) -> Item:
    """Set 1 stacks 100 slices of more than 40 patients without saying which is whose."""
    name = f"slice{item.index}"
    return Item(**{**item.__dict__, "patient": name, "series": name})


def read_mosmed(folder: Path) -> Dataset | None:
    """MosMedData: `studies/CT-0..CT-4/study_XXXX.nii.gz`, `masks/study_XXXX_mask.nii.gz`; CT-0 is normal."""
    studies = next((f for f in (folder / "studies", folder / "COVID19_1110/studies") if f.is_dir()), None)
    if studies is None or not any(studies.glob("CT-*/")):
        return None
    items: list[Item] = []
    for path in sorted(studies.glob("CT-[0-4]/study_*.nii*")):
        name = path.name.split(".")[0]
        mask = next(iter((studies.parent / "masks").glob(f"{name}_mask.nii*")), None)
        items += volume_items("MosMedData", name, path, label=int(path.parent.name != "CT-0"), mask=mask)
    return Dataset("MosMedData", tuple(items))


COVID_CT_MD_CLASSES = {"normal": 0, "healthy": 0, "covid-19": 1, "cap": 3}


def read_covid_ct_md(folder: Path) -> Dataset | None:
    """COVID-CT-MD as NIfTI: `CASE.nii.gz` and `slices.csv` (case, index_cranial_to_caudal, class, infected)."""
    listing = folder / "slices.csv"
    if not listing.is_file():
        return None
    infected: dict[str, dict[int, bool]] = defaultdict(dict)
    labels: dict[str, int] = {}
    columns = ("case", "index_cranial_to_caudal", "patient_class", "infected")
    for case, label, index, flag in parse_csv(listing, columns, _covid_ct_md_slice):
        labels[case] = label
        infected[case][index] = flag
    items: list[Item] = []
    for case, flags in infected.items():
        feet_to_head = [flags[index] for index in sorted(flags, reverse=True)]
        path = next(iter(folder.glob(f"{case}.nii*")), None)
        if path is None:
            raise DatasetError(f"{folder / case}.nii.gz is missing; {listing} lists it")
        items += volume_items("COVID-CT-MD", case, path, label=labels[case], lesions=feet_to_head)
    return Dataset("COVID-CT-MD", tuple(items))


def _covid_ct_md_slice(row: dict[str, str]) -> tuple[str, int, int, bool]:
    """Case, label, number from head to feet, and whether the slice shows a lesion."""
    kind = row["patient_class"].strip().lower()
    if kind not in COVID_CT_MD_CLASSES:
        raise DatasetError(f"class must be one of {sorted(COVID_CT_MD_CLASSES)}, not {kind!r}")
    index = int(row["index_cranial_to_caudal"])
    return row["case"], COVID_CT_MD_CLASSES[kind], index, row["infected"].strip() == "1"


FOLDER_CLASSES = {"normal": 0, "healthy": 0, "covid": 1, "h1n1": 2, "cap": 3}


def read_dicom_folders(folder: Path) -> Dataset | None:
    """Sub-folders with one DICOM series each; the label is what the folder's name begins with, if it says."""
    homes = sorted(f for f in folder.iterdir() if f.is_dir() and _holds_dicom(f))
    if not homes:
        return None
    notes = Notes()
    items: list[Item] = []
    for home in homes:
        label = next((v for k, v in FOLDER_CLASSES.items() if home.name.lower().startswith(k)), None)
        if label is None:
            notes.warn(f"{folder}: series have no label in their folder's name, the first is {home.name}")
        try:
            items += volume_items("DICOM folders", home.name, home, label=label)
        except DatasetError as error:
            notes.fail(str(error))
    return Dataset("DICOM folders", tuple(items), True, notes.problems())


def _holds_dicom(folder: Path) -> bool:
    first = next((p for p in sorted(folder.iterdir()) if p.is_file()), None)
    if first is None:
        return False
    with first.open("rb") as file:
        return file.read(132)[128:] == b"DICM"

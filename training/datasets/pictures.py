"""Data sets of single pictures: COVID-CT, SARS-CoV-2 CT-scan, lists of image and mask (JCS), CC-CCII, COVID-CTset.

All but COVID-CTset are 8-bit pictures without HU.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from training.datasets.items import (
    GREY_UNKNOWN_WINDOW,
    Calibration,
    Dataset,
    DatasetError,
    Item,
    Notes,
    Plane,
    Split,
    grey_window,
)
from training.datasets.pixels import IMAGE_SUFFIXES

JCS_GREY = grey_window(-600, 1500)
"""The lists of JCS hold slices shown at centre -600, width 1500."""

CTSET_CALIBRATION = Calibration(1.0, -1024.0, True)
"""COVID-CTset stores HU + 1024."""

Parsed = TypeVar("Parsed")


def pictures_in(folder: Path) -> list[Path]:
    """The picture files directly in a folder, sorted by name; numbers in names sort as numbers."""
    found = (p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    return sorted(found, key=lambda p: natural_key(p.name))


def natural_key(name: str) -> list[tuple[int, int | str]]:
    """Sort key under which `im2` comes before `im10`."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part]


def read_csv(path: Path, columns: Iterable[str]) -> Iterator[dict[str, str]]:
    """Rows of a CSV that must have these columns; a cell that a row lacks is empty. Raises DatasetError."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            missing = sorted(set(columns) - set(reader.fieldnames or ()))
            if missing:
                raise DatasetError(f"{path} has no column {missing[0]!r}; it has {reader.fieldnames}")
            for row in reader:
                if None in row:
                    raise DatasetError(
                        f"{path}, line {reader.line_num}: more cells than columns; quote what holds a comma"
                    )
                yield row
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path} is not a readable CSV file: {error}") from error


def parse_csv(path: Path, columns: Iterable[str], parse: Callable[[dict[str, str]], Parsed]) -> list[Parsed]:
    """What `parse` makes of every row of `read_csv`. Raises DatasetError with the line where it raises ValueError."""
    parsed = []
    for number, row in enumerate(read_csv(path, columns), start=2):
        try:
            parsed.append(parse(row))
        except ValueError as error:
            raise DatasetError(f"{path}, line {number}: {error}") from error
    return parsed


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, stripped. Raises DatasetError."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not a readable text file: {error}") from error


def _picture(
    source: str, path: Path, patient: str, label: int, split: Split | None = None, series: str | None = None
) -> Item:
    return Item(
        source=source,
        patient=patient,
        series=series or path.stem,
        index=0,
        image=Plane(path),
        calibration=GREY_UNKNOWN_WINDOW,
        label=label,
        split=split,
    )


def paper_of(name: str) -> str:
    """COVID-CT figures are named after the paper and page they come from; one paper is taken as one patient."""
    return re.split(r"-p\d+|%", Path(name).stem)[0]


def read_covid_ct(folder: Path) -> Dataset | None:
    """COVID-CT (UCSD): `CT_COVID`, `CT_NonCOVID`, `Data-split`; or a `manifest.csv` of path,label,split."""
    if (folder / "CT_COVID").is_dir() and (folder / "CT_NonCOVID").is_dir():
        return _covid_ct_original(folder)
    manifest = folder / "manifest.csv"
    if manifest.is_file() and (folder / "COVID").is_dir() and (folder / "NonCOVID").is_dir():
        items = tuple(
            _picture(
                "COVID-CT",
                folder / row["path"],
                paper_of(row.get("original_name") or row["path"]),
                int(row["label"] == "COVID"),
                split_named(row["split"], manifest),
            )
            for row in read_csv(manifest, ("path", "label", "split"))
        )
        return Dataset("COVID-CT", items, patients_known=False)
    return None


def _covid_ct_original(folder: Path) -> Dataset:
    notes = Notes()
    items: list[Item] = []
    for label, (pictures, lists) in enumerate((("CT_NonCOVID", "NonCOVID"), ("CT_COVID", "COVID"))):
        splits: dict[str, Split] = {}
        for listing in sorted((folder / "Data-split" / lists).glob("*CT_*.txt")):
            split = split_named(listing.name.split("CT_")[0], listing)
            splits |= dict.fromkeys(filter(None, read_lines(listing)), split)
        present = {p.name for p in pictures_in(folder / pictures)}
        for name in sorted(set(splits) - present):
            notes.warn(f"{folder / pictures}: listed pictures are missing, the first is {name}")
        items += [
            _picture("COVID-CT", folder / pictures / name, paper_of(name), label, splits.get(name))
            for name in sorted(present, key=natural_key)
        ]
    return Dataset("COVID-CT", tuple(items), False, notes.problems())


def split_named(name: str, where: Path) -> Split:
    """train, val or test by any of their usual names; `where` is for the message. Raises DatasetError."""
    splits: dict[str, Split] = {
        "train": "train",
        "val": "val",
        "valid": "val",
        "validation": "val",
        "test": "test",
    }
    try:
        return splits[name.strip().lower()]
    except KeyError:
        raise DatasetError(f"{where}: split must be train, val or test, not {name!r}") from None


def read_sars_cov2(folder: Path) -> Dataset | None:
    """SARS-CoV-2 CT-scan: folders `COVID` and `non-COVID` of PNG files, no patient ids."""
    if not ((folder / "COVID").is_dir() and (folder / "non-COVID").is_dir()):
        return None
    items = [
        _picture("SARS-CoV-2 CT-scan", path, path.stem, label)
        for label, name in enumerate(("non-COVID", "COVID"))
        for path in pictures_in(folder / name)
    ]
    return Dataset("SARS-CoV-2 CT-scan", tuple(items), patients_known=False)


def read_jcs_lists(folder: Path) -> Dataset | None:
    """`train.txt` / `test.txt` with "image mask" (relative paths, a blank between), as JCS and COVID-19-CT100."""
    lists = [folder / f"{split}.txt" for split in ("train", "val", "test")]
    for path in filter(Path.is_file, lists):
        if _first_line(path)[:1] and _first_line(path)[0].lower().endswith(".mat"):
            raise DatasetError(
                f"{path} lists .mat files as COVID-CS has them: features of its authors' networks, not images, so no "
                "encoder can be trained on them; list pictures and masks instead"
            )
    if not any(path.is_file() and _is_pair_list(path) for path in lists):
        return None
    notes = Notes()
    chosen: dict[str, Item] = {}
    for listing in filter(Path.is_file, lists):
        for image, mask in _pairs(listing):
            if image in chosen:
                notes.warn(
                    f"{folder}: pictures are in more than one list; the later of train, val, test counts"
                )
            chosen[image] = Item(
                source="image and mask list",
                patient=Path(image).stem,
                series=Path(image).stem,
                index=0,
                image=Plane(folder / image),
                calibration=JCS_GREY,
                label=1,
                mask=Plane(folder / mask),
                split=split_named(listing.stem, listing),
            )
    folders = {Path(image).parent for image in chosen}
    listed = {folder / image for image in chosen}
    unlisted = [p for f in folders if (folder / f).is_dir() for p in pictures_in(folder / f)]
    if left := len(set(unlisted) - listed):
        notes.warn(f"{folder}: pictures are in no list and left out", left)
    return Dataset("image and mask list", tuple(chosen.values()), False, notes.problems())


def _is_pair_list(path: Path) -> bool:
    first = _first_line(path)
    return len(first) == 2 and all(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in first)


def _first_line(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").strip().partition("\n")[0].split()


def _pairs(listing: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(read_lines(listing), start=1):
        parts = line.split()
        if not parts:
            continue
        if len(parts) != 2:
            raise DatasetError(f"{listing}, line {number}: needs an image and a mask, has {len(parts)} words")
        yield parts[0], parts[1]


CC_CCII_CLASSES = {"Normal": 0, "NCP": 1, "CP": 3}


def read_cc_ccii(folder: Path) -> Dataset | None:
    """CC-CCII: `{NCP,CP,Normal}/patient/scan/*.png|jpg`; `lesions_slices.csv` lists the slices with lesions."""
    if not (folder / "NCP").is_dir() or not any((folder / c).is_dir() for c in ("CP", "Normal")):
        return None
    notes = Notes()
    lesions = _lesion_slices(folder / "lesions_slices.csv")
    excluded = _excluded(folder / "exclude.txt")
    items: list[Item] = []
    for name, label in CC_CCII_CLASSES.items():
        for scan in sorted((folder / name).glob("*/*/")):
            key = f"{name}/{scan.parent.name}/{scan.name}"
            if key in excluded:
                notes.warn(f"{folder}: scans are left out by exclude.txt")
                continue
            items += _cc_ccii_scan(scan, key, label, lesions)
    return Dataset("CC-CCII", tuple(items), True, notes.problems())


def _cc_ccii_scan(scan: Path, key: str, label: int, lesions: set[str] | None) -> list[Item]:
    found: list[Item] = []
    for index, path in enumerate(pictures_in(scan)):
        lesion: bool | None = None
        if label == 0:
            lesion = False
        elif lesions is not None:
            lesion = f"{key}/{path.name}" in lesions
        found.append(
            Item(
                source="CC-CCII",
                patient=f"{label}/{scan.parent.name}",
                series=scan.name,
                index=index,
                image=Plane(path),
                calibration=GREY_UNKNOWN_WINDOW,
                label=label,
                lesion=lesion,
            )
        )
    return found


def _lesion_slices(path: Path) -> set[str] | None:
    return {line.strip(",") for line in read_lines(path)[1:] if line} if path.is_file() else None


def _excluded(path: Path) -> set[str]:
    return set(" ".join(read_lines(path)).split()) if path.is_file() else set()


def read_covid_ctset(folder: Path) -> Dataset | None:
    """COVID-CTset: patient folders with `SR_2`, `SR_3`, `SR_4` of 16-bit TIFF, `Patient_details.csv`."""
    details = folder / "Patient_details.csv"
    if not details.is_file():
        return None
    notes = Notes()
    items: list[Item] = []
    homes = {series.parent.name: series.parent for series in sorted(folder.rglob("SR_*/"))}
    for row in read_csv(details, ("Patient ID", "COVID-19 Infection")):
        patient = row["Patient ID"].strip()
        home = homes.get(patient)
        if home is None:
            notes.warn(f"{folder}: patients of Patient_details.csv have no folder, the first is {patient}")
            continue
        label = int(row["COVID-19 Infection"].strip().lower() == "positive")
        items += [
            Item("COVID-CTset", patient, series.name, index, Plane(path), CTSET_CALIBRATION, label)
            for series in sorted(home.glob("SR_*/"))
            for index, path in enumerate(pictures_in(series))
        ]
    return Dataset("COVID-CTset", tuple(items), True, notes.problems())

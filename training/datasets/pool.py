"""A pool: slices of many sources on one grid in two memory-mapped arrays, with what is known of each in a CSV.

hu.npy      int16 [N, H, W]; of pictures what a usual lung window makes of their grey
mask.npy    bool [N, H, W]
slices.csv  a line per slice, see `PoolRow`
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.datasets.items import (
    CLASSES,
    HOUNSFIELD,
    Calibration,
    Dataset,
    DatasetError,
    Item,
    Plane,
    Split,
)
from training.datasets.pictures import parse_csv, read_csv, split_named

HU_FILE, MASK_FILE, TABLE_FILE = "hu.npy", "mask.npy", "slices.csv"

PSEUDO_HU = Calibration(1.0, 0.0, exact=False)
"""Pictures of unknown window, stored in HU as if it were the usual one."""

COLUMNS = (
    "source",
    "patient",
    "series",
    "index",
    "label",
    "lesion",
    "masked",
    "exact",
    "row_mm",
    "column_mm",
    "top",
    "left",
    "bottom",
    "right",
    "split",
)


@dataclass(frozen=True, eq=False)
class PoolRow:
    """One slice.

    hu: int16 [H, W]. mask: bool [H, W], None where it is not known. label: class of the patient, None unknown.
    lesion: whether the slice shows one, None unknown. exact: HU of a scanner. spacing: mm between rows and between
    columns, of a picture 1 and its width by its height before it was squeezed. box: lungs of the series, shares.
    """

    hu: npt.NDArray[np.int16]
    mask: npt.NDArray[np.bool_] | None
    source: str
    patient: str
    series: str
    index: int
    label: int | None
    lesion: bool | None
    exact: bool
    spacing: tuple[float, float]
    box: tuple[float, float, float, float]
    split: Split = "train"


def write_pool(folder: Path, rows: Iterable[PoolRow]) -> int:
    """Write a pool of slices of one size; gives how many they are."""
    kept = list(rows)
    folder.mkdir(parents=True, exist_ok=True)
    no_mask = np.zeros(kept[0].hu.shape, dtype=np.bool_)
    np.save(folder / HU_FILE, np.stack([row.hu for row in kept]))
    np.save(folder / MASK_FILE, np.stack([no_mask if row.mask is None else row.mask for row in kept]))
    _write_table(folder, [_cells(row) for row in kept])
    return len(kept)


def add_masks(
    folder: Path, places: npt.NDArray[np.int64], masks: npt.NDArray[np.bool_], least_pixels: int = 30
) -> int:
    """Give slices of a pool that have no mask those of `masks`, bool [n, H, W]; gives how many were taken.

    Masks of fewer than `least_pixels` are left out: an ill slice with an empty mask would teach the wrong thing.
    """
    taken = masks.sum(axis=(1, 2)) >= least_pixels
    stored = np.load(folder / MASK_FILE, mmap_mode="r+")
    stored[places[taken]] = masks[taken]
    stored.flush()
    lines = [[row[column] for column in COLUMNS] for row in read_csv(folder / TABLE_FILE, COLUMNS)]
    for place in places[taken]:
        lines[place][COLUMNS.index("masked")] = "1"
    _write_table(folder, lines)
    return int(taken.sum())


def read_pool(folder: Path) -> Dataset | None:
    """The pool in a folder. Raises DatasetError where its table and its arrays do not match."""
    table = folder / TABLE_FILE
    if not ((folder / HU_FILE).is_file() and (folder / MASK_FILE).is_file() and table.is_file()):
        return None
    places = itertools.count()
    items = tuple(parse_csv(table, COLUMNS, lambda row: _item(folder, next(places), row)))
    for file in (HU_FILE, MASK_FILE):
        if len(np.load(folder / file, mmap_mode="r")) != len(items):
            raise DatasetError(f"{folder / file} has other slices than the {len(items)} lines of {table}")
    # Whose a figure is is guessed from its name, and its source has put figures of one paper into several splits.
    return Dataset("pool", items, patients_known=all(item.calibration.exact for item in items))


def _item(folder: Path, place: int, row: dict[str, str]) -> Item:
    box = tuple(float(row[side]) for side in ("top", "left", "bottom", "right"))
    return Item(
        source=row["source"],
        patient=row["patient"],
        series=row["series"],
        index=int(row["index"]),
        image=Plane(folder / HU_FILE, place),
        calibration=HOUNSFIELD if row["exact"] == "1" else PSEUDO_HU,
        label=CLASSES.index(row["label"]) if row["label"] else None,
        lesion=row["lesion"] == "1" if row["lesion"] else None,
        mask=Plane(folder / MASK_FILE, place) if row["masked"] == "1" else None,
        split=split_named(row["split"], folder / TABLE_FILE),
        spacing=(float(row["row_mm"]), float(row["column_mm"])),
        lung_box=(box[0], box[1], box[2], box[3]),
    )


def _cells(row: PoolRow) -> list[str]:
    return [
        row.source,
        row.patient,
        row.series,
        str(row.index),
        "" if row.label is None else CLASSES[row.label],
        "" if row.lesion is None else str(int(row.lesion)),
        str(int(row.mask is not None)),
        str(int(row.exact)),
        *(f"{value:.6g}" for value in (*row.spacing, *row.box)),
        row.split,
    ]


def _write_table(folder: Path, lines: list[list[str]]) -> None:
    partial = folder / f".{TABLE_FILE}.part"
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(lines)
    partial.replace(folder / TABLE_FILE)

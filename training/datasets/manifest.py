"""Own data: a CSV manifest of pictures, volumes and DICOM folders.

Columns: `path` (picture, volume file or DICOM folder, relative to the manifest), `patient`, `label` (0..3 or
healthy, covid19, h1n1, cap; empty where unknown), and if wanted `mask`, `split` (train, val, test), `series`,
`window` ("centre width" in HU for 8-bit pictures, "hu" where values are HU), `slice_labels` (for a volume: 0 or
1 per slice, feet to head, without blanks).
"""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path
from typing import get_args

from training.datasets.items import (
    CLASSES,
    GREY_UNKNOWN_WINDOW,
    HOUNSFIELD,
    Calibration,
    Dataset,
    DatasetError,
    Item,
    Plane,
    Split,
    grey_window,
)
from training.datasets.pictures import parse_csv
from training.datasets.pixels import is_volume
from training.datasets.volumes import volume_items


def read_manifest(path: Path) -> Dataset:
    """The data set that a manifest lists. Raises DatasetError with the line."""
    parsed = parse_csv(path, ("path", "patient", "label"), partial(_row_items, path.parent))
    if not parsed:
        raise DatasetError(f"{path} lists nothing")
    return Dataset(path.stem, tuple(itertools.chain.from_iterable(parsed)))


def _row_items(home: Path, cells: dict[str, str]) -> list[Item]:
    row = {name: cell.strip() for name, cell in cells.items()}
    image = home / row["path"]
    mask = home / row["mask"] if row.get("mask") else None
    for file in filter(None, (image, mask)):
        if not file.exists():
            raise DatasetError(f"{file} is missing")
    if not row["patient"]:
        raise DatasetError("patient is empty")
    label, split = _label(row["label"]), _split(row.get("split", ""))
    if is_volume(image):
        flags = _flags(row["slice_labels"]) if row.get("slice_labels") else None
        slices = volume_items(
            "manifest", row["patient"], image, label=label, mask=mask, lesions=flags, series=row.get("series")
        )
        return [Item(**{**item.__dict__, "split": split}) for item in slices]
    return [
        Item(
            source="manifest",
            patient=row["patient"],
            series=row.get("series") or image.stem,
            index=0,
            image=Plane(image),
            calibration=_calibration(row.get("window", "")),
            label=label,
            lesion=False if label == 0 else None,
            mask=None if mask is None else Plane(mask),
            split=split,
        )
    ]


def _flags(text: str) -> list[bool]:
    if set(text) - {"0", "1"}:
        raise DatasetError(f"slice_labels must be a 0 or a 1 per slice without blanks, not {text[:20]!r}")
    return [flag == "1" for flag in text]


def _label(text: str) -> int | None:
    if not text:
        return None
    if text.lower() in CLASSES:
        return CLASSES.index(text.lower())
    if text in {str(i) for i in range(len(CLASSES))}:
        return int(text)
    raise DatasetError(f"label must be one of {', '.join(CLASSES)} or 0..{len(CLASSES) - 1}, not {text!r}")


def _split(text: str) -> Split | None:
    for split in get_args(Split):
        if text.lower() == split:
            return split  # type: ignore[no-any-return]
    if text:
        raise DatasetError(f"split must be train, val or test, not {text!r}")
    return None


def _calibration(text: str) -> Calibration:
    if not text:
        return GREY_UNKNOWN_WINDOW
    if text.lower() == "hu":
        return HOUNSFIELD
    try:
        centre, width = (float(part) for part in text.split())
    except ValueError:
        raise DatasetError(f"window must be 'hu' or 'centre width' in HU, not {text!r}") from None
    return grey_window(centre, width)

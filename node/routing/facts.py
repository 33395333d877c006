"""What rules look at: a series by its attributes, who sent it and when."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import Tag

from engine.headers import MALFORMED

LONGEST_VALUE = 256
"""Characters of a value that conditions see: a hostile value must not keep a regular expression busy."""


@dataclass(frozen=True)
class SeriesFacts:
    """One series. sample: its first legible instance. calling_ae: None for files. arrived_at: in local time."""

    series_instance_uid: str
    sample: Dataset
    instances: int
    calling_ae: str | None
    arrived_at: datetime


def values_at(dataset: Dataset, path: str) -> tuple[str, ...]:
    """The values at an attribute path as text, over all items of the sequences on the way; empty for none."""
    name, _, rest = path.partition(".")
    try:
        element = dataset.get(Tag(name))
        if element is None or element.value is None:
            return ()
        if rest:
            items = element.value if element.VR == "SQ" else ()
            return tuple(text for item in items for text in values_at(item, rest))
        several = isinstance(element.value, MultiValue | list)
        return tuple(t for v in (element.value if several else [element.value]) if (t := _shown(v)))
    except MALFORMED:
        return ()


def read_series(
    paths: Iterable[Path], *, calling_ae: str | None, arrived_at: datetime
) -> tuple[SeriesFacts, ...]:
    """The series among files, by UID; what is no DICOM is left out.

    One header is read for each file and one data set kept for each series.
    """
    samples: dict[str, Dataset] = {}
    counts: dict[str, int] = {}
    for path in sorted(paths):
        header = _header(path)
        uid = str(header.get("SeriesInstanceUID", "")) if header else ""
        if header is None or not uid:
            continue
        samples.setdefault(uid, header)
        counts[uid] = counts.get(uid, 0) + 1
    return tuple(
        SeriesFacts(uid, samples[uid], counts[uid], calling_ae, arrived_at) for uid in sorted(samples)
    )


def _header(path: Path) -> Dataset | None:
    try:
        return pydicom.dcmread(path, stop_before_pixels=True)
    except MALFORMED:
        return None


def _shown(value: object) -> str:
    return "" if isinstance(value, bytes) else str(value)[:LONGEST_VALUE].strip(" \0")

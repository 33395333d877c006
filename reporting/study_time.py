"""A time for results that have no store to remember when they were first made."""

from __future__ import annotations

from datetime import datetime

from pydicom.dataset import Dataset

from engine.volume import Volume

UNKNOWN = datetime(1900, 1, 1)
"""Where no header has a usable date: an impossible time that says so."""

_MOMENTS = (
    ("AcquisitionDate", "AcquisitionTime"),
    ("ContentDate", "ContentTime"),
    ("StudyDate", "StudyTime"),
)


def last_acquisition(volume: Volume) -> datetime:
    """The latest time of acquisition in the source headers, wall-clock time of the scanner.

    Two runs over the same instances then give the same bytes, on any machine and at any time.
    """
    return max((_moment(header) for header in volume.headers), default=UNKNOWN)


def _moment(header: Dataset) -> datetime:
    for date, time in _MOMENTS:
        day = _digits(header, date)
        if len(day) != 8:
            continue
        clock = _digits(header, time)[:6].ljust(6, "0")
        try:
            return datetime.strptime(day + clock, "%Y%m%d%H%M%S")
        except ValueError:  # such as month 13: the next pair may be better
            continue
    return UNKNOWN


def _digits(header: Dataset, keyword: str) -> str:
    """The digits before a decimal point; scanners write dates as 2020.01.02 and times as 10:15:00 too."""
    element = header.get(keyword)
    text = "" if element is None else str(element)
    if keyword.endswith("Time"):
        text = text.split(".")[0]
    return "".join(c for c in text if c.isdigit())

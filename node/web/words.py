"""Values as people read them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from store.states import DeliveryState, StudyState

STATE_KINDS = {
    StudyState.RECEIVING: "busy",
    StudyState.COMPLETE: "waiting",
    StudyState.SCREENING: "busy",
    StudyState.DELIVERING: "busy",
    StudyState.DELIVERED: "good",
    StudyState.SKIPPED: "quiet",
    StudyState.FAILED: "bad",
    DeliveryState.PENDING: "waiting",
    DeliveryState.STORED: "waiting",
    DeliveryState.DELIVERED: "good",
    DeliveryState.REFUSED: "bad",
    DeliveryState.NOT_ACCEPTED: "quiet",
}

OBJECT_NAMES = {
    "seg": "Segmentation of the lesions",
    "gsps": "Contours (GSPS)",
    "pm": "Heatmap of JCS",
    "pm_m3": "Heatmap of M3Lung-Sys",
    "sr": "Structured report",
    "sr_enhanced": "Enhanced SR",
    "kos": "Key images",
    "sc": "Summary picture",
    "pdf": "Report (PDF)",
    "lung_seg": "Segmentation of the lungs",
}


def ago(at: datetime | None, now: datetime) -> str:
    """How long ago, in one unit."""
    if at is None:
        return "never"
    seconds = (now - at).total_seconds()
    return "just now" if seconds < 2 else f"{duration(seconds)} ago"


def duration(seconds: float) -> str:
    """A time span in the largest fitting unit."""
    value = max(0.0, seconds)
    if 0 < value < 10:
        return f"{value:.1f} s"
    for limit, unit, size in ((100, "s", 1), (100 * 60, "min", 60), (48 * 3600, "h", 3600)):
        if value < limit:
            return f"{value / size:.0f} {unit}"
    return f"{value / 86400:.0f} d"


def size(count: float) -> str:
    """Bytes in the largest fitting unit."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def moment(at: datetime | None) -> str:
    """A moment in local time, to the second."""
    return "" if at is None else f"{at.astimezone():%Y-%m-%d %H:%M:%S}"


def percent(share: float) -> str:
    """A share of 1 in percent."""
    return f"{share * 100:.1f} %"


def number(value: float) -> str:
    """A count with spaces between thousands."""
    return f"{value:,.0f}".replace(",", "\u202f")


def kind(state: StudyState | DeliveryState) -> str:
    """What a state means at a glance: good, bad, busy, waiting or quiet."""
    return STATE_KINDS[state]


def object_name(object_kind: str) -> str:
    """What a result object is."""
    return OBJECT_NAMES.get(object_kind, object_kind)


def unbroken(text: str) -> str:
    """The name of the disease stays on one line, and arrows are arrows."""
    return text.replace("COVID-19", "COVID\u201119").replace("->", "\u2192")


def dimse(status: int | None) -> str:
    """A DIMSE status as DICOM writes it."""
    return "" if status is None else f"0x{status:04X}"


FILTERS: dict[str, Callable[..., Any]] = {
    "ago": ago,
    "duration": duration,
    "size": size,
    "moment": moment,
    "percent": percent,
    "number": number,
    "kind": kind,
    "object_name": object_name,
    "dimse": dimse,
    "unbroken": unbroken,
}

"""Output profiles: which objects a destination gets, and what it gets instead of one that it does not take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal

from reporting.context import OBJECT_KINDS, ObjectKind

ProfileName = Literal["modern", "legacy", "everything"]

WantedObject = Literal[ObjectKind, ProfileName]
"""What a destination's list may hold: kinds of object, and names of profiles."""

PROFILES: Mapping[ProfileName, tuple[ObjectKind, ...]] = MappingProxyType(
    {
        "modern": ("seg", "pm", "pm_m3", "sr", "gsps", "kos"),
        "legacy": ("sr_enhanced", "gsps", "kos", "sc", "pdf"),
        "everything": tuple(kind for kind in OBJECT_KINDS if kind != "sr_enhanced"),
    }
)
"""modern: for viewers that read SEG, Parametric Map and TID 1500. legacy: for archives that show pictures, contours
and documents. everything: all objects, for trying out what an archive takes."""

FALLBACKS: Mapping[str, ObjectKind] = MappingProxyType({"sr": "sr_enhanced"})
"""What stands in where a destination does not accept an object's SOP class. Other objects have no equal: what they
show is in the report as well, so they are recorded as not accepted."""


def expanded(wanted: Iterable[WantedObject]) -> tuple[ObjectKind, ...]:
    """The kinds of object that a list of kinds and profile names means, each once, in the order of OBJECT_KINDS."""
    kinds: set[ObjectKind] = set()
    for name in wanted:
        if name == "modern" or name == "legacy" or name == "everything":
            kinds.update(PROFILES[name])
        else:
            kinds.add(name)
    return tuple(kind for kind in OBJECT_KINDS if kind in kinds)


def with_fallbacks(kinds: Iterable[ObjectKind]) -> tuple[ObjectKind, ...]:
    """The kinds that must be built so that each of `kinds` has its stand-in ready, in the order of OBJECT_KINDS."""
    wanted = set(kinds)
    wanted |= {FALLBACKS[kind] for kind in tuple(wanted) if kind in FALLBACKS}
    return tuple(kind for kind in OBJECT_KINDS if kind in wanted)

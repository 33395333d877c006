"""Make highdicom remember what it has looked up in the DICOM standard's tables.

highdicom asks, for every image that an object refers to, whether that image's IOD has pixel data or several frames,
and searches the tables anew each time: for a study of 300 slices that is most of the time spent. The answers depend
on the arguments only, so they can be kept. Results are the same without; only slower.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import ModuleType


def remember_lookups(tables: ModuleType) -> None:
    """Give `tables` (`highdicom._standard_utils`) a lookup that keeps its answers; a second call changes nothing."""
    search = tables.is_attribute_in_iod
    if hasattr(search, "cache"):
        return

    @functools.cache
    def answer(attribute: str, sop_class_uid: str, excluded: tuple[str, ...] | None) -> bool:
        return bool(search(attribute, sop_class_uid, excluded))

    def is_attribute_in_iod(
        attribute: str, sop_class_uid: str, exclude_path_elements: Sequence[str] | None = None
    ) -> bool:
        excluded = None if exclude_path_elements is None else tuple(exclude_path_elements)
        return answer(attribute, str(sop_class_uid), excluded)

    is_attribute_in_iod.cache = answer  # type: ignore[attr-defined]
    tables.is_attribute_in_iod = is_attribute_in_iod  # type: ignore[attr-defined]

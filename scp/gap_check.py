"""Reading slice positions and instance numbers of a study from its files, to see whether one is missing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from engine.headers import MALFORMED
from scp.evidence import Evidence, Slice, gap_free_evidence, gap_in
from store import holdings
from store.database import Database
from store.revisions import ReceivingStudy

_TAGS = ["ImagePositionPatient", "ImageOrientationPatient", "InstanceNumber", "NumberOfFrames"]


class GapCheck:
    """Looks at each study once for each number of instances that it has."""

    def __init__(self, database: Database, storage: Path) -> None:
        self._database = database
        self._storage = storage
        self._found: dict[int, Evidence] = {}

    def evidence(self, study: ReceivingStudy) -> Evidence:
        """Whether positions and instance numbers have a gap. Reads every header of the study: some ms an image."""
        known = self._found.get(study.study_id)
        if known is not None and known.instance_count == study.instance_count:
            return known
        with self._database.read() as session:
            paths = holdings.screenable_paths(session, study.study_id)
        gaps = {series: _gap(self._storage, of_series) for series, of_series in paths.items()}
        found = gap_free_evidence(gaps, study.instance_count)
        self._found[study.study_id] = found
        return found

    def forget_all_but(self, receiving: set[int]) -> None:
        """Drop what is known of studies that are no longer received."""
        for study_id in set(self._found) - receiving:
            del self._found[study_id]


def _gap(storage: Path, paths: Sequence[str]) -> str | None:
    slices = []
    for path in paths:
        found = read_slice(storage / path)
        if found is None:
            return "an image without a position"
        slices.append(found)
    return gap_in(slices)


def read_slice(path: Path) -> Slice | None:
    """Position along the normal (PS3.3 C.7.6.2.1.1) and instance number; None where the header does not tell."""
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
        return Slice(_along_normal(header), int(header.get("InstanceNumber") or 0))
    except MALFORMED:
        return None


def _along_normal(header: Dataset) -> float:
    if int(header.get("NumberOfFrames") or 1) != 1:
        raise ValueError("a multi-frame image has no single position")
    rx, ry, rz, cx, cy, cz = (float(v) for v in header.ImageOrientationPatient)
    x, y, z = (float(v) for v in header.ImagePositionPatient)
    along = x * (ry * cz - rz * cy) + y * (rz * cx - rx * cz) + z * (rx * cy - ry * cx)
    if not math.isfinite(along):
        raise ValueError("position is not finite")
    return along

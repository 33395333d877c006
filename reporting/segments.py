"""Which segments the lesion mask has: the plan that SEG and SR share.

The largest lesions get a segment each, so that the report can measure each; the rest share the last one, since
viewers choke on hundreds of segments.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.findings import Findings, Lesion
from engine.label_volume import LabelVolume
from reporting.uids import ResultUids


@dataclass(frozen=True)
class LesionSegment:
    """One segment of the lesion SEG (PS3.3 C.8.20.2).

    number: Segment Number, from 1. lesions: those that it holds, one except in the shared segment.
    """

    number: int
    label: str
    tracking_id: str
    tracking_uid: str
    lesions: tuple[Lesion, ...]

    @property
    def volume_ml(self) -> float:
        """Volume of all its lesions, ml."""
        return sum(lesion.volume_ml for lesion in self.lesions)

    @property
    def mean_hu(self) -> float:
        """Mean of its voxels in HU: the lesions' means weighted by their volumes."""
        if self.volume_ml == 0:
            return float(np.mean([lesion.mean_hu for lesion in self.lesions]))
        return sum(lesion.mean_hu * lesion.volume_ml for lesion in self.lesions) / self.volume_ml


def lesion_segments(findings: Findings, uids: ResultUids, individual: int = 20) -> tuple[LesionSegment, ...]:
    """The segments of the lesion mask, none where there is no lesion."""
    lesions = findings.lesions
    segments = [
        _segment(i + 1, f"Lesion {i + 1}", (lesion,), uids) for i, lesion in enumerate(lesions[:individual])
    ]
    rest = lesions[individual:]
    if rest:
        first, last = individual + 1, len(lesions)
        segments.append(_segment(individual + 1, f"Lesions {first} to {last}", rest, uids))
    return tuple(segments)


def _segment(number: int, label: str, lesions: tuple[Lesion, ...], uids: ResultUids) -> LesionSegment:
    tracking_id = label.upper().replace(" ", "-")
    return LesionSegment(number, label, tracking_id, str(uids.tracking("lesion", tracking_id)), lesions)


def segment_map(findings: Findings, segments: tuple[LesionSegment, ...]) -> LabelVolume[np.uint8]:
    """The Segment Number of each voxel [Z, Y, X], 0 in the background."""
    numbers = {lesion.label: segment.number for segment in segments for lesion in segment.lesions}
    table = np.zeros(max(numbers, default=0) + 1, np.uint8)
    table[list(numbers)] = list(numbers.values())
    return findings.lesion_labels.relabelled(table)

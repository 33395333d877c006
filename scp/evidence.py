"""Grounds for a study's completeness besides silence: counts that agree, announcements, slices without a gap. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from scp.pacs_query.source import SeriesStatement

GAP = 1.5
"""Two neighbouring slices further apart than this times the usual distance have one missing between them."""
FEWEST_SLICES = 10
"""A series with fewer is not judged by its positions: two or three slices have no usual distance."""


class Strength(enum.Enum):
    """What evidence allows."""

    SURE = "sure"
    """Complete at once, while nobody is sending it."""
    LIKELY = "likely"
    """Complete after a short quiet time."""
    NONE = "none"
    """Wait, and say this when the waiting ends."""


@dataclass(frozen=True)
class Evidence:
    """What speaks for a study being complete with `instance_count` instances; more or fewer make it void."""

    strength: Strength
    why: str
    instance_count: int


@dataclass(frozen=True)
class Agreement:
    """What a PACS states, against what is held, over the series that count.

    missing: Series Instance UIDs of which it states more than is held. behind: whether it states less than is held, or
    nothing. words: the counts, for people.
    """

    missing: tuple[str, ...]
    behind: bool
    words: str

    @property
    def agrees(self) -> bool:
        """Whether all that the PACS states is here, and it knows all that is here."""
        return not self.missing and not self.behind


def compare(stated: Sequence[SeriesStatement], held: Mapping[str, int], *, whole_study: bool) -> Agreement:
    """Compare counts by series. A series without a count must be counted by its caller before.

    whole_study: CT series that nobody sent are missing too; else only the series of which something is held count.
    Results (SEG, SR and the like) that the PACS holds beside the images never count.
    """
    counts = {
        s.series_instance_uid: s.count or 0
        for s in stated
        if s.series_instance_uid in held or (whole_study and s.modality == "CT")
    }
    missing = tuple(sorted(uid for uid, count in counts.items() if count > held.get(uid, 0)))
    behind = not counts or any(held[uid] > counts.get(uid, 0) for uid in held)
    here = sum(held.get(uid, 0) for uid in set(counts) | set(held))
    words = f"states {sum(counts.values())} instances in {len(counts)} series, {here} are here"
    return Agreement(missing, behind, words)


def announced_evidence(
    announcements: Sequence[tuple[str, str, frozenset[str]]], held: frozenset[str]
) -> Evidence | None:
    """Whether an announcement names nothing that is not here. announcements: kind, who, SOP Instance UIDs."""
    for kind, who, instances in announcements:
        if instances and instances <= held:
            why = f"{kind} of {who} names {len(instances)} instances, all here"
            return Evidence(Strength.SURE, why, len(held))
    return None


@dataclass(frozen=True)
class Slice:
    """Where an image lies along the normal of its stack, in mm, and its instance number, 0 for none."""

    position: float
    instance_number: int


def gap_in(slices: Sequence[Slice]) -> str | None:
    """What is missing in a series; None where positions and instance numbers have no gap."""
    if len(slices) < FEWEST_SLICES:
        return f"{len(slices)} slices are too few to tell"
    numbers = sorted({s.instance_number for s in slices})
    if numbers[-1] - numbers[0] + 1 != len(numbers):
        return f"instance numbers {numbers[0]} to {numbers[-1]} have {len(numbers)} values"
    positions = sorted({round(s.position, 2) for s in slices})
    steps = [b - a for a, b in pairwise(positions)]
    if not steps:
        return "all slices have one position"
    usual, widest = median(steps), max(steps)
    if widest > GAP * usual:
        return f"slices {widest:g} mm apart where {usual:g} mm is usual"
    return None


def gap_free_evidence(gaps: Mapping[str, str | None], instance_count: int) -> Evidence:
    """Evidence from `gap_in` of every series of a study."""
    found = [gap for gap in gaps.values() if gap is not None]
    if gaps and not found:
        why = f"positions and instance numbers of {len(gaps)} series have no gap"
        return Evidence(Strength.LIKELY, why, instance_count)
    return Evidence(Strength.NONE, found[0] if found else "no image", instance_count)

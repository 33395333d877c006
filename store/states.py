"""The states of a study, and which change may follow which.

    receiving -> complete -> screening -> delivering -> delivered
                                 \\-> skipped, failed

Late instances take a study back to receiving from anywhere; an administrator takes one back to complete (screen
again) or delivering (send again).
"""

from __future__ import annotations

import enum


class StudyState(enum.StrEnum):
    """Where a study stands; each change is one transaction and one row in `transitions`."""

    RECEIVING = "receiving"
    COMPLETE = "complete"
    SCREENING = "screening"
    DELIVERING = "delivering"
    DELIVERED = "delivered"
    SKIPPED = "skipped"
    FAILED = "failed"


LEGAL: dict[StudyState | None, frozenset[StudyState]] = {
    None: frozenset({StudyState.RECEIVING}),
    StudyState.RECEIVING: frozenset(
        {
            StudyState.COMPLETE,
            StudyState.DELIVERING,  # back, because the instance set is the one already screened
            StudyState.SKIPPED,
            StudyState.FAILED,
        }
    ),
    StudyState.COMPLETE: frozenset(
        {StudyState.SCREENING, StudyState.RECEIVING, StudyState.SKIPPED, StudyState.FAILED}
    ),
    StudyState.SCREENING: frozenset(
        {
            StudyState.DELIVERING,
            StudyState.COMPLETE,  # given back, or taken from a lost worker
            StudyState.RECEIVING,
            StudyState.SKIPPED,
            StudyState.FAILED,
        }
    ),
    StudyState.DELIVERING: frozenset(
        {
            StudyState.DELIVERED,
            StudyState.RECEIVING,
            StudyState.COMPLETE,
            StudyState.SKIPPED,
            StudyState.FAILED,
        }
    ),
    StudyState.DELIVERED: frozenset({StudyState.RECEIVING, StudyState.COMPLETE, StudyState.DELIVERING}),
    StudyState.SKIPPED: frozenset({StudyState.RECEIVING, StudyState.COMPLETE, StudyState.DELIVERING}),
    StudyState.FAILED: frozenset(
        {StudyState.RECEIVING, StudyState.COMPLETE, StudyState.DELIVERING, StudyState.SKIPPED}
    ),
}
"""Which states may follow a state; None stands for a study that the store has not seen."""


class IllegalTransition(Exception):
    """A change of state that `LEGAL` does not allow: a mistake of the caller, nothing was changed."""

    def __init__(self, study_instance_uid: str, before: StudyState | None, after: StudyState) -> None:
        super().__init__(f"study {study_instance_uid} cannot go from {before or 'unknown'} to {after}")


class DeliveryState(enum.StrEnum):
    """Where one object stands on its way to one destination."""

    PENDING = "pending"
    STORED = "stored"
    """The destination answered success, and has yet to commit to keeping it."""
    DELIVERED = "delivered"
    REFUSED = "refused"
    """The destination will never take it, or holds something else under its UID, or an admin gave it up."""
    NOT_ACCEPTED = "not_accepted"
    """The destination takes no objects of this SOP class; another object may stand in. The study goes on."""


class PriorState(enum.StrEnum):
    """Where the search for the prior of a study stands."""

    SEEKING = "seeking"
    """The query source is to be asked."""
    FETCHING = "fetching"
    """The prior is known; it is on its way, or waits to be screened."""
    REVISING = "revising"
    """The prior was screened after the study: the study is screened once more, to be compared."""
    ENDED = "ended"


class WorkitemState(enum.StrEnum):
    """Where a workitem of a worklist stands with us."""

    CLAIMING = "claiming"
    CLAIMED = "claimed"
    ENDED = "ended"
    """Completed, canceled, or not ours after all."""


UNDERWAY = (DeliveryState.PENDING, DeliveryState.STORED)
"""States of a delivery that has not ended."""
IN_VAIN = (DeliveryState.REFUSED, DeliveryState.NOT_ACCEPTED)
"""States of a delivery that has ended without the object at its destination."""

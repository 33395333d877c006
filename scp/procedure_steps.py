"""Procedure steps that a listener was told of (MPPS, PS3.4 F.7.2): which have begun, and which have ended."""

from __future__ import annotations

from typing import TypeVar

from pydicom.dataset import Dataset

Kept = TypeVar("Kept")
MAX_STEPS = 1000
"""Steps in progress that are remembered; the oldest is forgotten, its completion is then of an unknown step."""
DUPLICATE = 0x0111
"""PS3.7 C.5.8: duplicate SOP instance."""
UNKNOWN = 0x0112
"""PS3.7 C.5.10: no such SOP instance."""
PROCESSING_FAILURE = 0x0110
MAY_NO_LONGER_BE_UPDATED = 0xA710
"""PS3.4 table F.7.2-2: the Error ID beside 0110."""
ENDS = ("COMPLETED", "DISCONTINUED")


class StepRefused(Exception):
    """A request about a step that is answered with a failure; error_id: Error ID (0000,0903), None for none."""

    def __init__(self, status: int, why: str, error_id: int | None = None) -> None:
        super().__init__(why)
        self.status = status
        self.why = why
        self.error_id = error_id

    def as_status(self) -> Dataset:
        """The elements of the answer that tell of it."""
        answer = Dataset()
        answer.Status = self.status
        answer.ErrorComment = self.why
        if self.error_id is not None:
            answer.ErrorID = self.error_id
        return answer


class ProcedureSteps:
    """Steps in memory, by SOP Instance UID: of one in progress all that was said, of one that has ended just that."""

    def __init__(self, limit: int = MAX_STEPS) -> None:
        self._limit = limit
        self._running: dict[str, Dataset] = {}
        self._ended: dict[str, None] = {}

    def check_new(self, uid: str) -> None:
        """A step is begun once, and a second N-CREATE changes nothing. Raises StepRefused."""
        if uid in self._running or uid in self._ended:
            raise duplicate()

    def changed(self, uid: str, changes: Dataset) -> Dataset:
        """What a step in progress would be with `changes`; it stays as it is until `keep`. Raises StepRefused."""
        if uid in self._ended:
            raise ended()
        if uid not in self._running:
            raise StepRefused(UNKNOWN, "no such procedure step")
        step = Dataset()  # Dataset(other) would share the elements with the other
        step.update(self._running[uid])
        step.update(changes)
        return step

    def keep(self, uid: str, step: Dataset) -> None:
        """From now on this is the step."""
        if step.get("PerformedProcedureStepStatus") in ENDS:
            self._running.pop(uid, None)
            _put(self._ended, uid, None, self._limit)
        else:
            _put(self._running, uid, step, self._limit)


def duplicate() -> StepRefused:
    """The answer to N-CREATE of a step that there is already."""
    return StepRefused(DUPLICATE, "this procedure step was begun before")


def ended() -> StepRefused:
    """The answer to N-SET of a step that has ended."""
    return StepRefused(
        PROCESSING_FAILURE,
        "Performed Procedure Step Object may no longer be updated",
        MAY_NO_LONGER_BE_UPDATED,
    )


def _put(steps: dict[str, Kept], uid: str, step: Kept, limit: int) -> None:
    steps[uid] = step
    while len(steps) > limit:
        del steps[next(iter(steps))]

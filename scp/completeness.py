"""When is a study complete? Quiet for a while, and no open association that has brought an instance of it.

Nobody tells (Orthanc's answer to its users is "there is no reliable way to know"), so there is a maximum wait, and late
instances make a new revision.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from store import revisions
from store.database import Database
from store.revisions import ReceivingStudy
from store.states import StudyState

WHO = "completeness"


@dataclass(frozen=True)
class CompletenessPolicy:
    """quiet: time after the last instance. max_wait: after the first one; then the study counts as complete anyway."""

    quiet: timedelta
    max_wait: timedelta


@dataclass(frozen=True)
class Decision:
    """Whether a study is complete, and on what grounds; look again at `again_at` where it is not."""

    complete: bool
    why: str
    again_at: datetime


@dataclass(frozen=True)
class CompletedStudy:
    """A study whose reception ended, and the state that it went to: complete, skipped, or where it was."""

    study_instance_uid: str
    state: StudyState
    why: str


def decide(study: ReceivingStudy, policy: CompletenessPolicy, now: datetime) -> Decision:
    """Decide on one study. Pure. A clock that was set back counts as no time passed."""
    waited = max(now - study.receiving_since, timedelta(0))
    quiet = max(now - study.last_received_at, timedelta(0))
    if waited >= policy.max_wait:
        why = f"maximum wait of {policy.max_wait.total_seconds():g} s is over"
        return Decision(True, why, now)
    if study.open_associations:
        why = f"{study.open_associations} open associations carry it"
        return Decision(False, why, min(now + policy.quiet, study.receiving_since + policy.max_wait))
    if quiet >= policy.quiet:
        why = f"no instance for {policy.quiet.total_seconds():g} s, no open association carries it"
        return Decision(True, why, now)
    again_at = now + min(policy.quiet - quiet, policy.max_wait - waited)
    return Decision(False, "instances came a moment ago", again_at)


def complete_due(database: Database, policy: CompletenessPolicy, now: datetime) -> list[CompletedStudy]:
    """Complete every study that is due, each in a transaction of its own."""
    with database.read() as session:
        receiving = revisions.receiving_studies(session)
    completed = []
    for study in receiving:
        if not decide(study, policy, now).complete:
            continue
        done = _complete(database, study.study_id, policy, now)
        if done is not None:
            completed.append(done)
    return completed


def _complete(
    database: Database, study_id: int, policy: CompletenessPolicy, now: datetime
) -> CompletedStudy | None:
    """Decide again inside the transaction: an instance may have come since."""
    with database.write() as session:
        study = revisions.receiving_study(session, study_id)
        if study is None:
            return None
        decision = decide(study, policy, now)
        if not decision.complete:
            return None
        state = revisions.complete_study(session, study_id, who=WHO, why=decision.why, now=now)
    return CompletedStudy(study.study_instance_uid, state, decision.why)

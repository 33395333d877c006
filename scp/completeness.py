"""When is a study complete? When the PACS or an announcement says so, else when it was quiet for a while.

Never while an association is open that has brought an instance of it, but for the maximum wait. Where nobody tells, a
study without a gap in its slices has a shorter quiet time. Late instances make a new revision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from scp.evidence import Evidence, Strength
from store import revisions
from store.database import Database
from store.revisions import ReceivingStudy
from store.routing import Routing
from store.states import StudyState

WHO = "completeness"


@dataclass(frozen=True)
class CompletenessPolicy:
    """quiet: time after the last instance. max_wait: after the first one; then the study counts as complete anyway.

    short_quiet: instead of `quiet` where slices and instance numbers have no gap; None where that is not looked at.
    """

    quiet: timedelta
    max_wait: timedelta
    short_quiet: timedelta | None = None


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


class OutOfReach(Exception):
    """A study's headers cannot be read on this machine now; they may be later."""


Route = Callable[[ReceivingStudy], Routing | None]
"""What the routing rules decide for a study; None for no restriction. May raise OutOfReach."""


class Witness(Protocol):
    """Whoever can say more of a study than how long it has been quiet."""

    def evidence(self, study: ReceivingStudy) -> Evidence | None:
        """What speaks for it being complete; None for nothing."""
        ...

    def forget_all_but(self, receiving: set[int]) -> None:
        """Only these studies (by their numbers) are being received now."""
        ...


def decide(
    study: ReceivingStudy, policy: CompletenessPolicy, now: datetime, evidence: Evidence | None = None
) -> Decision:
    """Decide on one study. Pure. A clock that was set back counts as no time passed.

    evidence: counts only where it was given for as many instances as the study has now.
    """
    if evidence is not None and evidence.instance_count != study.instance_count:
        evidence = None
    said = f"; {evidence.why}" if evidence is not None else ""
    waited = max(now - study.receiving_since, timedelta(0))
    quiet = max(now - study.last_received_at, timedelta(0))
    if waited >= policy.max_wait:
        why = f"maximum wait of {policy.max_wait.total_seconds():g} s is over{said}"
        return Decision(True, why, now)
    if study.open_associations:
        why = f"{study.open_associations} open associations carry it"
        return Decision(False, why, min(now + policy.quiet, study.receiving_since + policy.max_wait))
    if evidence is not None and evidence.strength is Strength.SURE:
        return Decision(True, evidence.why, now)
    needed = policy.quiet
    if evidence is not None and evidence.strength is Strength.LIKELY:
        needed = min(policy.quiet, policy.short_quiet or policy.quiet)
    if quiet >= needed:
        why = f"no instance for {needed.total_seconds():g} s, no open association carries it{said}"
        return Decision(True, why, now)
    again_at = now + min(needed - quiet, policy.max_wait - waited)
    return Decision(False, f"instances came a moment ago{said}", again_at)


def complete_due(
    database: Database,
    policy: CompletenessPolicy,
    now: datetime,
    witness: Witness | None = None,
    route: Route = lambda study: None,
) -> list[CompletedStudy]:
    """Complete every study that is due, each in a transaction of its own; one that is out of reach waits."""
    with database.read() as session:
        receiving = revisions.receiving_studies(session)
    if witness is not None:
        witness.forget_all_but({study.study_id for study in receiving})
    completed = []
    for study in receiving:
        evidence = None if witness is None else witness.evidence(study)
        if not decide(study, policy, now, evidence).complete:
            continue
        try:
            done = _complete(database, study, policy, now, evidence, route(study))
        except OutOfReach:
            continue
        if done is not None:
            completed.append(done)
    return completed


def _complete(
    database: Database,
    before: ReceivingStudy,
    policy: CompletenessPolicy,
    now: datetime,
    evidence: Evidence | None,
    routing: Routing | None,
) -> CompletedStudy | None:
    """Decide again inside the transaction: an instance may have come since, which makes evidence void."""
    with database.write() as session:
        study = revisions.receiving_study(session, before.study_id)
        if study is None or (routing is not None and study.instance_count != before.instance_count):
            return None
        decision = decide(study, policy, now, evidence)
        if not decision.complete:
            return None
        state = revisions.complete_study(
            session, study.study_id, who=WHO, why=decision.why, now=now, routing=routing
        )
    return CompletedStudy(study.study_instance_uid, state, decision.why)

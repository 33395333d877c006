"""Instance Availability Notification and MPPS as SCP: what they say a study consists of counts for its completeness.

IAN: PS3.4 R, N-CREATE. MPPS: PS3.4 F.7, N-CREATE and N-SET; only its completion goes into the store.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import evt
from pynetdicom.presentation import PresentationContext, build_context
from sqlalchemy.exc import SQLAlchemyError

from engine.headers import MALFORMED
from scp.contexts import TRANSFER_SYNTAXES
from scp.instances import valid_uid
from scp.procedure_steps import ProcedureSteps, StepRefused, duplicate, ended
from scp.services import FurtherService
from store import holdings
from store.database import Database
from store.receipts import Peer

LOGGER = structlog.get_logger(__name__)

INSTANCE_AVAILABILITY = "1.2.840.10008.5.1.4.33"
MODALITY_PERFORMED_PROCEDURE_STEP = "1.2.840.10008.3.1.2.3.3"
MAX_INSTANCES = 100_000


@dataclass(frozen=True)
class Statement:
    """One study as a notification describes it. instances: SOP Instance UIDs that can be had."""

    study_instance_uid: str
    instances: tuple[str, ...]


def availability(notification: Dataset) -> Statement:
    """Content of an Instance Availability Notification (PS3.4 table R.3.2-1). Raises ValueError."""
    study = str(notification.get("StudyInstanceUID") or "")
    found = tuple(
        str(item.ReferencedSOPInstanceUID)
        for series in notification.get("ReferencedSeriesSequence") or ()
        for item in series.get("ReferencedSOPSequence") or ()
        if item.get("InstanceAvailability", "ONLINE") in ("ONLINE", "NEARLINE")
    )
    return _checked(study, found)


def performed(step: Dataset) -> Statement:
    """The study of a completed procedure step (PS3.4 table F.7.2-1). Raises ValueError."""
    studies = {
        str(item.get("StudyInstanceUID") or "") for item in step.get("ScheduledStepAttributesSequence") or ()
    }
    if len(studies) != 1:
        raise ValueError("the step does not name one study")
    found = tuple(
        str(item.ReferencedSOPInstanceUID)
        for series in step.get("PerformedSeriesSequence") or ()
        for key in ("ReferencedImageSequence", "ReferencedNonImageCompositeSOPInstanceSequence")
        for item in series.get(key) or ()
    )
    return _checked(studies.pop(), found)


class AnnouncementService:
    """Takes notifications in a listener. Steps in progress are kept in memory: a completion repeats what counts."""

    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        self._database = database
        self._now = now
        # Two requests about one step take turns, to the end of what they record
        self._lock = threading.Lock()
        self._steps = ProcedureSteps()

    def as_service(self) -> FurtherService:
        """What a listener offers."""
        return FurtherService(_contexts, ((evt.EVT_N_CREATE, self.on_create), (evt.EVT_N_SET, self.on_set)))

    def on_create(self, event: evt.Event, peer: Peer) -> tuple[int | Dataset, Dataset | None]:
        """N-CREATE: a notification, or a step that begins."""
        request: Any = event.request
        uid = str(request.AffectedSOPInstanceUID or generate_uid(prefix=None))
        answer = Dataset()
        answer.AffectedSOPInstanceUID = uid

        def take() -> None:
            if request.AffectedSOPClassUID == INSTANCE_AVAILABILITY:
                self._keep("IAN", uid, availability(event.attribute_list), peer)
            else:
                self._begin(uid, event.attribute_list, peer)

        return _answered(take, answer, peer)

    def on_set(self, event: evt.Event, peer: Peer) -> tuple[int | Dataset, Dataset | None]:
        """N-SET: a step goes on or ends."""
        request: Any = event.request
        uid = str(request.RequestedSOPInstanceUID)
        return _answered(lambda: self._change(uid, event.modification_list, peer), Dataset(), peer)

    def _begin(self, uid: str, step: Dataset, peer: Peer) -> None:
        with self._lock:
            self._steps.check_new(uid)
            if self._completed_before(uid):
                raise duplicate()
            self._take(uid, step, peer)

    def _change(self, uid: str, changes: Dataset, peer: Peer) -> None:
        with self._lock:
            try:
                step = self._steps.changed(uid, changes)
            except StepRefused:
                if self._completed_before(uid):
                    raise ended() from None
                raise
            self._take(uid, step, peer)

    def _take(self, uid: str, step: Dataset, peer: Peer) -> None:
        """Record what a step says once it is completed, and only then keep it: what is refused may come again."""
        if step.get("PerformedProcedureStepStatus") == "COMPLETED":
            self._keep("MPPS", uid, performed(step), peer)
        self._steps.keep(uid, step)

    def _completed_before(self, uid: str) -> bool:
        """Whether a step was completed that this process knows nothing of: before its start, at another listener."""
        with self._database.read() as session:
            return holdings.is_announced(session, kind="MPPS", sop_instance_uid=uid)

    def _keep(self, kind: str, uid: str, statement: Statement, peer: Peer) -> None:
        with self._database.write() as session:
            holdings.announce(
                session,
                kind=kind,
                sop_instance_uid=uid if valid_uid(uid) else "",
                study_instance_uid=statement.study_instance_uid,
                instances=statement.instances,
                who=peer.calling_ae,
                now=self._now(),
            )
        LOGGER.info("announced", kind=kind, calling_ae=peer.calling_ae, instances=len(statement.instances))


def _answered(take: Callable[[], None], answer: Dataset, peer: Peer) -> tuple[int | Dataset, Dataset | None]:
    """Status and content of the answer to a request that `take` takes in."""
    try:
        take()
    except StepRefused as refusal:
        LOGGER.warning("procedure step refused", calling_ae=peer.calling_ae, why=refusal.why)
        return refusal.as_status(), None
    except MALFORMED as error:
        LOGGER.warning("notification refused", calling_ae=peer.calling_ae, why=str(error))
        return 0x0106, None  # invalid attribute value
    except SQLAlchemyError as error:
        LOGGER.error("store does not answer", why=type(error).__name__)
        return 0x0213, None  # resource limitation
    return 0x0000, answer


def _contexts() -> tuple[PresentationContext, ...]:
    syntaxes = list(TRANSFER_SYNTAXES[-3:])
    return (
        build_context(INSTANCE_AVAILABILITY, syntaxes),
        build_context(MODALITY_PERFORMED_PROCEDURE_STEP, syntaxes),
    )


def _checked(study: str, found: tuple[str, ...]) -> Statement:
    if not valid_uid(study):
        raise ValueError("Study Instance UID is no valid UID")
    if len(found) > MAX_INSTANCES or not all(valid_uid(uid) for uid in found):
        raise ValueError("a referenced SOP Instance UID is no valid UID, or there are too many")
    return Statement(study, found)

"""Instance Availability Notification and MPPS as SCP: what they say a study consists of counts for its completeness.

IAN: PS3.4 R, N-CREATE. MPPS: PS3.4 F.7, N-CREATE and N-SET; only its completion is kept.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
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
from scp.services import FurtherService
from store import holdings
from store.database import Database
from store.receipts import Peer

LOGGER = structlog.get_logger(__name__)

INSTANCE_AVAILABILITY = "1.2.840.10008.5.1.4.33"
MODALITY_PERFORMED_PROCEDURE_STEP = "1.2.840.10008.3.1.2.3.3"
MAX_STEPS = 1000
"""Steps in progress that are remembered; the oldest is forgotten, its completion then says too little."""
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


def performed(step: Dataset) -> Iterator[Statement]:
    """The studies of a completed procedure step (PS3.4 table F.7.2-1). Raises ValueError."""
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
    yield _checked(studies.pop(), found)


class AnnouncementService:
    """Takes notifications in a listener. Steps in progress are kept in memory: a completion repeats what counts."""

    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        self._database = database
        self._now = now
        self._lock = threading.Lock()
        self._steps: dict[str, Dataset] = {}

    def as_service(self) -> FurtherService:
        """What a listener offers."""
        return FurtherService(_contexts, ((evt.EVT_N_CREATE, self.on_create), (evt.EVT_N_SET, self.on_set)))

    def on_create(self, event: evt.Event, peer: Peer) -> tuple[int, Dataset | None]:
        """N-CREATE: a notification, or a step that begins."""
        request: Any = event.request
        uid = str(request.AffectedSOPInstanceUID or generate_uid(prefix=None))
        try:
            content = event.attribute_list
            if request.AffectedSOPClassUID == INSTANCE_AVAILABILITY:
                self._keep("IAN", uid, availability(content), peer)
            else:
                self._begin(uid, content, peer)
        except MALFORMED as error:
            LOGGER.warning("notification refused", calling_ae=peer.calling_ae, why=str(error))
            return 0x0106, None  # invalid attribute value
        except SQLAlchemyError as error:
            LOGGER.error("store does not answer", why=type(error).__name__)
            return 0x0213, None  # resource limitation
        answer = Dataset()
        answer.AffectedSOPInstanceUID = uid
        return 0x0000, answer

    def on_set(self, event: evt.Event, peer: Peer) -> tuple[int, Dataset | None]:
        """N-SET: a step goes on or ends."""
        request: Any = event.request
        uid = str(request.RequestedSOPInstanceUID)
        with self._lock:
            step = self._steps.get(uid)
        if step is None:
            return 0x0112, None  # no such SOP instance
        try:
            step.update(event.modification_list)
            self._complete(uid, step, peer)
        except MALFORMED as error:
            LOGGER.warning("procedure step refused", calling_ae=peer.calling_ae, why=str(error))
            return 0x0106, None
        except SQLAlchemyError as error:
            LOGGER.error("store does not answer", why=type(error).__name__)
            return 0x0213, None
        return 0x0000, Dataset()

    def _begin(self, uid: str, step: Dataset, peer: Peer) -> None:
        with self._lock:
            while len(self._steps) >= MAX_STEPS:
                del self._steps[next(iter(self._steps))]
            self._steps[uid] = step
        self._complete(uid, step, peer)

    def _complete(self, uid: str, step: Dataset, peer: Peer) -> None:
        state = str(step.get("PerformedProcedureStepStatus") or "")
        if state == "COMPLETED":
            for statement in performed(step):
                self._keep("MPPS", uid, statement, peer)
        if state in ("COMPLETED", "DISCONTINUED"):
            with self._lock:
                self._steps.pop(uid, None)

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

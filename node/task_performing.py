"""The node as Task Performer of IHE AI Workflow for Imaging: claims workitems from a worklist and performs them.

A workitem is claimed by UPS-RS, the study of its input is fetched where it is not here, the worklist is told how far it
is, and in the end the workitem is completed with references to the results, or canceled with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from sqlalchemy.exc import SQLAlchemyError

from reporting.delivery.loop import Stop
from scp.pacs_query.source import QueryFailed, QuerySource, Receive
from scp.pacs_query.worklist import (
    Workitem,
    WorkitemCode,
    WorkitemTaken,
    Worklist,
    WorklistFailed,
    progress,
)
from store import workitems
from store.database import Database
from store.states import StudyState, WorkitemState
from store.workitems import OpenWorkitem, Output

_PROGRESS = {
    StudyState.RECEIVING: (10, "images are being received"),
    StudyState.COMPLETE: (20, "waits for screening"),
    StudyState.SCREENING: (40, "is being screened"),
    StudyState.DELIVERING: (80, "results are being sent"),
}

log: structlog.stdlib.BoundLogger = structlog.get_logger("worklist")


@dataclass(frozen=True)
class Performer:
    """How the node presents itself. retrieve_ae_title: where the results can be had, empty for unknown."""

    code: WorkitemCode
    station: str
    retrieve_ae_title: str
    patience: timedelta


@dataclass(frozen=True)
class Fetcher:
    """What brings a study that is not here."""

    source: QuerySource
    fetching: Callable[[], AbstractContextManager[Receive]]

    def fetch(self, study_instance_uid: str) -> None:
        """Fetch its CT series. Raises QueryFailed."""
        with self.fetching() as receive:
            for series in self.source.series(study_instance_uid):
                if series.modality == "CT":
                    uid = series.series_instance_uid
                    wanted = self.source.instances(study_instance_uid, uid)
                    self.source.fetch(study_instance_uid, uid, wanted, receive)


class TaskPerformer:
    """Performs the workitems of one worklist. fetcher: None where studies are only ever sent to us."""

    def __init__(
        self,
        database: Database,
        worklist: Worklist,
        performer: Performer,
        fetcher: Fetcher | None,
        now: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._worklist = worklist
        self._performer = performer
        self._fetcher = fetcher
        self._now = now

    def run(self, stop: Stop, poll_seconds: float) -> None:
        """Perform until told to stop. That the worklist is away is said once, until it is back."""
        said = ""
        while not stop.wait(poll_seconds):
            try:
                self.step()
                said = ""
            except WorklistFailed as error:
                if str(error) != said:
                    log.warning("worklist away", why=str(error))
                said = str(error)
            except SQLAlchemyError as error:  # the store is away for a moment; the workitems are in it
                log.error("store does not answer", why=type(error).__name__)

    def step(self) -> None:
        """Tell how far what was claimed is, then claim what is scheduled. Raises WorklistFailed."""
        with self._database.read() as session:
            open_ones = workitems.under_way(session)
        for one in open_ones:
            try:
                self._follow(one)
            except WorkitemTaken as error:
                self._record(one.workitem_uid, WorkitemState.ENDED, f"is no longer ours: {error}")
        for item in self._worklist.scheduled(self._performer.code):
            self._claim(item)

    def _claim(self, item: Workitem) -> None:
        if len(item.studies) != 1:
            log.warning("not claimed", workitem=item.uid, why=f"its input names {len(item.studies)} studies")
            return
        transaction = str(generate_uid(prefix=None))  # a random UUID: whoever knows it owns the workitem
        with self._database.write() as session:
            if workitems.is_known(session, item.uid) or not workitems.begin(
                session,
                workitem_uid=item.uid,
                transaction_uid=transaction,
                study_instance_uid=item.studies[0],
                now=self._now(),
            ):
                return
        try:
            self._worklist.change_state(item.uid, transaction, "IN PROGRESS")
        except WorkitemTaken as error:
            self._record(item.uid, WorkitemState.ENDED, f"not claimed: {error}")
            return
        self._record(item.uid, WorkitemState.CLAIMED, "claimed")
        self._fetch_if_absent(item)

    def _fetch_if_absent(self, item: Workitem) -> None:
        with self._database.read() as session:
            (here,) = [w for w in workitems.under_way(session) if w.workitem_uid == item.uid]
        if here.study_state is not None or self._fetcher is None:
            return
        try:
            self._fetcher.fetch(item.studies[0])
        except QueryFailed as error:
            self._cancel(here, f"the images could not be fetched: {error}")

    def _follow(self, one: OpenWorkitem) -> None:
        """Tell the worklist where the study stands. Raises WorklistFailed."""
        if (
            one.state is WorkitemState.CLAIMING
        ):  # the process ended in between: ours if our transaction is taken
            self._worklist.update(one.workitem_uid, one.transaction_uid, progress(0, "claimed"))
            self._record(one.workitem_uid, WorkitemState.CLAIMED, "claimed")
        elif one.study_state is StudyState.DELIVERED:
            self._complete(one)
        elif one.study_state in (StudyState.SKIPPED, StudyState.FAILED):
            self._cancel(one, f"{one.study_state}: {one.study_reason}")
        elif one.study_state is not None:
            percent, what = _PROGRESS[one.study_state]
            if what != one.told:
                self._worklist.update(one.workitem_uid, one.transaction_uid, progress(percent, what))
                self._record(one.workitem_uid, WorkitemState.CLAIMED, what)
        elif self._now() - one.since > self._performer.patience:
            self._cancel(one, "no image of the study has come")

    def _complete(self, one: OpenWorkitem) -> None:
        with self._database.read() as session:
            made = workitems.outputs(session, one.study_instance_uid)
        changes = progress(100, "results are delivered")
        changes.UnifiedProcedureStepPerformedProcedureSequence = [self._performed(one, made)]
        self._worklist.update(one.workitem_uid, one.transaction_uid, changes)
        self._worklist.change_state(one.workitem_uid, one.transaction_uid, "COMPLETED")
        self._record(one.workitem_uid, WorkitemState.ENDED, "completed")

    def _cancel(self, one: OpenWorkitem, why: str) -> None:
        changes = progress(100, "canceled")
        item = changes.ProcedureStepProgressInformationSequence[0]
        item.ReasonForCancellation = why[:10240]
        item.ProcedureStepDiscontinuationReasonCodeSequence = [
            _code("110514", "DCM", "Incorrect worklist entry selected")
            if one.study_state is StudyState.SKIPPED
            else _code("110501", "DCM", "Equipment failure")
        ]
        changes.UnifiedProcedureStepPerformedProcedureSequence = [self._performed(one, [])]
        self._worklist.update(one.workitem_uid, one.transaction_uid, changes)
        self._worklist.change_state(one.workitem_uid, one.transaction_uid, "CANCELED")
        self._record(one.workitem_uid, WorkitemState.ENDED, f"canceled: {why}")

    def _performed(self, one: OpenWorkitem, made: list[Output]) -> Dataset:
        """What was done (PS3.3 C.30.3)."""
        item = Dataset()
        code = self._performer.code
        item.PerformedWorkitemCodeSequence = [_code(code.value, code.scheme, code.meaning)]
        item.PerformedStationNameCodeSequence = [_code(self._performer.station, "L", self._performer.station)]
        item.PerformedProcedureStepStartDateTime = _with_offset(one.since)
        item.PerformedProcedureStepEndDateTime = _with_offset(self._now())
        item.OutputInformationSequence = [self._output(one.study_instance_uid, output) for output in made]
        return item

    def _output(self, study_instance_uid: str, output: Output) -> Dataset:
        reference = Dataset()
        reference.ReferencedSOPClassUID = output.sop_class_uid
        reference.ReferencedSOPInstanceUID = output.sop_instance_uid
        item = Dataset()
        item.TypeOfInstances = "DICOM"
        item.StudyInstanceUID = study_instance_uid
        item.SeriesInstanceUID = output.series_instance_uid
        item.ReferencedSOPSequence = [reference]
        where = Dataset()
        where.RetrieveAETitle = self._performer.retrieve_ae_title
        item.DICOMRetrievalSequence = [where]
        return item

    def _record(self, workitem_uid: str, state: WorkitemState, told: str) -> None:
        with self._database.write() as session:
            workitems.record(session, workitem_uid, state, told, self._now())
        log.info("workitem", workitem=workitem_uid, state=state.value, what=told)


def _with_offset(at: datetime) -> str:
    """A moment as DT (PS3.5 6.2): without its offset from UTC the worklist would take it for its own local time."""
    return f"{at:%Y%m%d%H%M%S%z}"


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value[:16], scheme, meaning[:64]
    return item

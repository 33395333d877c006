"""IAN and MPPS: what they name counts for completeness, what is malformed is refused."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.presentation import build_context

from scp.announcements import INSTANCE_AVAILABILITY, MODALITY_PERFORMED_PROCEDURE_STEP, AnnouncementService
from scp.completeness import CompletenessPolicy, complete_due
from scp.gap_check import GapCheck
from scp.grounds import Grounds
from scp.listener import Listener
from scp.policy import ListenerPolicy
from scp.procedure_steps import ProcedureSteps, StepRefused
from store import holdings
from store.database import Database

STUDY, CT = "1.2.3", "1.2.840.10008.5.1.4.1.1.2"
POLICY = CompletenessPolicy(timedelta(minutes=5), timedelta(minutes=30))


def items(*uids: str) -> list[Dataset]:
    made = []
    for uid in uids:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CT, uid
        item.InstanceAvailability = "ONLINE"
        made.append(item)
    return made


def notification(*uids: str, study: str = STUDY) -> Dataset:
    series = Dataset()
    series.SeriesInstanceUID, series.ReferencedSOPSequence = f"{STUDY}.1", items(*uids)
    dataset = Dataset()
    dataset.StudyInstanceUID, dataset.ReferencedSeriesSequence = study, [series]
    return dataset


def step(state: str, *uids: str) -> Dataset:
    dataset = Dataset()
    dataset.PerformedProcedureStepStatus = state
    scheduled = Dataset()
    scheduled.StudyInstanceUID = STUDY
    dataset.ScheduledStepAttributesSequence = [scheduled]
    if uids:
        series = Dataset()
        series.SeriesInstanceUID, series.ReferencedImageSequence = f"{STUDY}.1", items(*uids)
        dataset.PerformedSeriesSequence = [series]
    return dataset


@pytest.fixture
def association(database: Database, tmp_path: Path, clock: Any) -> Iterator[Association]:
    listener = Listener(
        ListenerPolicy("LUNGNODE", port=0, reserve_bytes=0, grace_seconds=0.2),
        database,
        tmp_path,
        clock,
        services=[AnnouncementService(database, clock).as_service()],
    )
    listener.start()
    contexts = [build_context(u) for u in (INSTANCE_AVAILABILITY, MODALITY_PERFORMED_PROCEDURE_STEP)]
    opened = AE(ae_title="CT1").associate("127.0.0.1", listener.port, contexts, ae_title="LUNGNODE")
    assert opened.is_established
    yield opened
    opened.release()
    listener.stop()


@pytest.fixture
def completed(database: Database, tmp_path: Path, clock: Any) -> Any:
    grounds = Grounds(database, GapCheck(database, tmp_path), None, timedelta(minutes=5), clock)
    return lambda: [done.why for done in complete_due(database, POLICY, clock(), grounds)]


def test_a_notification_completes_the_study_that_is_here(
    association: Association, record: Any, completed: Any
) -> None:
    first, second = record(1), record(2)
    status, _ = association.send_n_create(
        notification(first, second, "1.2.3.1.3"), INSTANCE_AVAILABILITY, "1.9.1"
    )
    assert status.Status == 0x0000
    assert completed() == [], "it names an instance that is not here"
    record(3)
    assert completed() == ["IAN of CT1 names 3 instances, all here"]


def test_a_completed_step_completes_the_study(association: Association, record: Any, completed: Any) -> None:
    uid = record(1)
    mpps = MODALITY_PERFORMED_PROCEDURE_STEP
    status, _ = association.send_n_create(step("IN PROGRESS"), mpps, "1.9.2")
    assert status.Status == 0x0000
    assert completed() == []
    status, _ = association.send_n_set(step("COMPLETED", uid), mpps, "1.9.2")
    assert status.Status == 0x0000
    assert completed() == ["MPPS of CT1 names 1 instances, all here"]


def test_a_discontinued_step_completes_nothing(association: Association, record: Any, completed: Any) -> None:
    uid = record(1)
    mpps = MODALITY_PERFORMED_PROCEDURE_STEP
    association.send_n_create(step("IN PROGRESS"), mpps, "1.9.3")
    association.send_n_set(step("DISCONTINUED", uid), mpps, "1.9.3")
    assert completed() == []


def test_a_step_is_begun_once(association: Association, record: Any, completed: Any) -> None:
    uid = record(1)
    mpps = MODALITY_PERFORMED_PROCEDURE_STEP
    association.send_n_create(step("IN PROGRESS", uid), mpps, "1.9.5")
    again = step("IN PROGRESS", uid, "1.2.3.1.77")
    again.ScheduledStepAttributesSequence[0].StudyInstanceUID = "1.2.99"
    status, _ = association.send_n_create(again, mpps, "1.9.5")
    assert status.Status == 0x0111
    ending = Dataset()
    ending.PerformedProcedureStepStatus = "COMPLETED"
    status, _ = association.send_n_set(ending, mpps, "1.9.5")
    assert status.Status == 0x0000
    assert completed() == ["MPPS of CT1 names 1 instances, all here"], "the second N-CREATE changed nothing"
    status, _ = association.send_n_create(step("IN PROGRESS"), mpps, "1.9.5")
    assert status.Status == 0x0111, "an ended step is there, too"


@pytest.mark.parametrize("end", ["COMPLETED", "DISCONTINUED"])
def test_a_step_that_has_ended_is_not_changed(association: Association, end: str) -> None:
    mpps = MODALITY_PERFORMED_PROCEDURE_STEP
    association.send_n_create(step("IN PROGRESS"), mpps, "1.9.6")
    assert association.send_n_set(step(end), mpps, "1.9.6")[0].Status == 0x0000
    status, _ = association.send_n_set(step("COMPLETED", "1.2.3.1.78"), mpps, "1.9.6")
    assert (status.Status, status.ErrorID) == (0x0110, 0xA710)
    assert status.ErrorComment == "Performed Procedure Step Object may no longer be updated"


def test_a_step_that_was_completed_before_a_restart_is_known(
    association: Association, database: Database, clock: Any
) -> None:
    mpps = MODALITY_PERFORMED_PROCEDURE_STEP
    with database.write() as session:
        holdings.announce(
            session,
            kind="MPPS",
            sop_instance_uid="1.9.7",
            study_instance_uid=STUDY,
            instances=(),
            who="CT1",
            now=clock(),
        )
    assert association.send_n_create(step("IN PROGRESS"), mpps, "1.9.7")[0].Status == 0x0111
    status, _ = association.send_n_set(step("COMPLETED"), mpps, "1.9.7")
    assert (status.Status, status.ErrorID) == (0x0110, 0xA710)


def test_a_refused_change_leaves_the_step_as_it_was(
    association: Association, record: Any, completed: Any
) -> None:
    uid = record(1)
    mpps = MODALITY_PERFORMED_PROCEDURE_STEP
    association.send_n_create(step("IN PROGRESS", uid), mpps, "1.9.8")
    nameless = step("COMPLETED", "1.2.3.1.79")
    nameless.ScheduledStepAttributesSequence[0].StudyInstanceUID = "no uid"
    assert association.send_n_set(nameless, mpps, "1.9.8")[0].Status == 0x0106
    ending = Dataset()
    ending.PerformedProcedureStepStatus = "COMPLETED"
    assert association.send_n_set(ending, mpps, "1.9.8")[0].Status == 0x0000
    assert completed() == ["MPPS of CT1 names 1 instances, all here"]


def test_the_oldest_steps_are_forgotten() -> None:
    steps = ProcedureSteps(limit=2)
    for number in range(3):
        steps.keep(f"1.{number}", step("IN PROGRESS"))
    with pytest.raises(StepRefused) as refused:
        steps.changed("1.0", step("COMPLETED"))
    assert refused.value.status == 0x0112
    assert steps.changed("1.2", step("COMPLETED")).PerformedProcedureStepStatus == "COMPLETED"


def test_what_is_malformed_is_refused(association: Association) -> None:
    bad = notification("1.2", study="no uid")
    status, _ = association.send_n_create(bad, INSTANCE_AVAILABILITY, "1.9.4")
    assert status.Status == 0x0106
    status, _ = association.send_n_set(step("COMPLETED"), MODALITY_PERFORMED_PROCEDURE_STEP, "1.9.9")
    assert status.Status == 0x0112

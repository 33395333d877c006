"""Storage commitment with Orthanc as both sides: it commits to our results, and asks us to commit to its images."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from reporting.delivery.commitment import CommitmentPolicy, Committer
from reporting.delivery.confirmation import Comparison, Reply, compare_kept, request_commitment, source
from reporting.delivery.loop import Destination
from reporting.delivery.scu import parcel
from store import claims, deliveries, queries, receipts, results, revisions
from store.states import DeliveryState, StudyState

pytestmark = pytest.mark.orthanc

OURS = "LUNGNODE"


@pytest.fixture
def node(orthanc: Any, start_node: Callable[..., Any]) -> Any:
    return start_node(orthanc)


def _now() -> datetime:
    return datetime.now(UTC)


def test_orthanc_commits_to_what_it_has_and_fails_what_it_has_not(
    orthanc: Any, node: Any, written: Callable[[int], Path], until: Any
) -> None:
    kept, never_sent = parcel(written(1)), parcel(written(2))
    orthanc.keep(kept.path)
    study = _waiting(node, [kept.path, never_sent.path])
    committer = Committer(
        database=node.database,
        storage=Path("/"),
        destination=Destination("pacs", orthanc.peer),
        who="test",
        calling_ae_title=OURS,
        policy=CommitmentPolicy(compare=True, answer=timedelta(seconds=30)),
        backoff=deliveries.Backoff(timedelta(seconds=5), timedelta(seconds=60)),
        clock=_now,
    )
    assert committer.commit_due() == 2

    def settled() -> bool:
        return DeliveryState.STORED not in _states(node, study)

    until(settled, 20, "Orthanc did not report")
    assert _states(node, study) == [DeliveryState.DELIVERED, DeliveryState.PENDING]
    with node.database.read() as session:
        account = queries.why(session, study)
    assert account.study.state is StudyState.DELIVERING
    assert "no such object instance" in account.deliveries[1].last_error


def test_orthanc_keeps_the_old_object_silently_and_it_is_noticed(
    orthanc: Any, node: Any, written: Callable[[int], Path], ct: Callable[..., Dataset]
) -> None:
    path = written(1)
    orthanc.keep(path)
    changed = ct(1)
    changed.SeriesDescription = "another result under the same UID"
    changed.save_as(path, enforce_file_format=True)
    orthanc.keep(path)  # answered 0x0000, and the old one is kept
    about = {"study_instance_uid": changed.StudyInstanceUID, "series_instance_uid": changed.SeriesInstanceUID}
    assert compare_kept(orthanc.peer, OURS, path, **about) is Comparison.DIFFERENT
    assert compare_kept(orthanc.peer, OURS, written(1), **about) is Comparison.SAME
    asking = source(orthanc.peer, OURS)
    assert asking.holds(changed.StudyInstanceUID, changed.SeriesInstanceUID, changed.SOPInstanceUID)
    assert not asking.holds(changed.StudyInstanceUID, changed.SeriesInstanceUID, "1.2.3")


def test_orthanc_without_our_address_offers_no_commitment(orthanc: Any) -> None:
    request = request_commitment(
        orthanc.peer, "STRANGER", generate_uid(), [("1.2.840.10008.5.1.4.1.1.2", "1.2")], [].append
    )
    assert request.reply is Reply.NOT_OFFERED, request


def test_the_node_commits_to_what_orthanc_sent(
    orthanc: Any, node: Any, written: Callable[[int], Path], until: Any
) -> None:
    paths = [written(n) for n in (1, 2, 3)]
    orthanc.keep(*paths)
    instances = orthanc.ask("/instances")
    job = orthanc.ask(
        "/modalities/node/store", {"Resources": instances, "StorageCommitment": True, "Synchronous": True}
    )
    transaction = job["StorageCommitmentTransactionUID"]

    def reported() -> bool:
        node.service.report_due()
        return orthanc.ask(f"/storage-commitment/{transaction}")["Status"] != "Pending"

    until(reported, 30, "the node did not report")
    report = orthanc.ask(f"/storage-commitment/{transaction}")
    assert report["Status"] == "Success", report
    assert len(report["Success"]) == 3


def test_the_node_fails_what_it_never_got(
    orthanc: Any, node: Any, written: Callable[[int], Path], until: Any
) -> None:
    uid = parcel(written(9)).sop_instance_uid
    answer = orthanc.ask(
        "/modalities/node/storage-commitment", {"DicomInstances": [["1.2.840.10008.5.1.4.1.1.2", uid]]}
    )
    transaction = answer["ID"]

    def reported() -> bool:
        node.service.report_due()
        return orthanc.ask(f"/storage-commitment/{transaction}")["Status"] != "Pending"

    until(reported, 30, "the node did not report")
    report = orthanc.ask(f"/storage-commitment/{transaction}")
    assert report["Status"] == "Failure"
    (failure,) = report["Failures"]
    assert (failure["SOPInstanceUID"], failure["FailureReason"]) == (uid, 0x0112), failure


def _waiting(node: Any, paths: list[Path]) -> str:
    """A study whose results are `paths`, stored at `pacs` and not committed to."""
    study = "1.2.826.0.1.99.1"
    now = _now()
    with node.database.write() as session:
        source_image = receipts.ReceivedInstance(
            study_instance_uid=study,
            series_instance_uid="1.2.9",
            sop_instance_uid="1.2.9.1",
            sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            modality="CT",
            patient_digest="0" * 64,
            sha256="0" * 64,
            size=1,
            path="spool/1.dcm",
        )
        receipt = receipts.record_instance(session, source_image, association_id=None, now=now)
        revisions.complete_study(session, receipt.study_id, who="test", why="test", now=now)
        claim = claims.claim_next(session, worker="w", lease=timedelta(minutes=1), max_attempts=3, now=_now())
        assert claim is not None
        objects = [
            results.ResultObject(
                "sr", p.sop_class_uid, p.sop_instance_uid, f"{study}.1", str(p.path).lstrip("/")
            )
            for p in map(parcel, paths)
        ]
        results.record_results(
            session,
            claim,
            objects,
            destinations={"pacs": ("sr",)},
            settings_digest="a" * 64,
            summary={},
            now=_now(),
        )
        due = deliveries.claim_due(
            session, who="d", lease=timedelta(minutes=1), now=_now(), destinations=["pacs"]
        )
        for item in due:
            before = _now() - deliveries.TOGETHER
            deliveries.record_stored(session, item, who="d", status=0, now=before)
    return study


def _states(node: Any, study: str) -> list[DeliveryState]:
    with node.database.read() as session:
        return [d.state for d in queries.why(session, study).deliveries]

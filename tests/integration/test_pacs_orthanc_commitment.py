"""Storage commitment with Orthanc as both sides: it commits to our results, and asks us to commit to its images."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from node.configuration import Configuration
from node.pacs_services import commitment_service, report_handler
from node.stand_in_pacs import find_orthanc, free_port
from reporting.delivery.commitment import CommitmentPolicy, Committer
from reporting.delivery.confirmation import Comparison, Reply, compare_kept, request_commitment, source
from reporting.delivery.loop import Destination
from reporting.delivery.scu import Peer, parcel, store
from scp.commitment import CommitmentService
from scp.listener import Listener
from scp.policy import ListenerPolicy
from store import claims, deliveries, queries, receipts, results, revisions
from store.database import Database, open_database
from store.migrations import upgrade
from store.states import DeliveryState, StudyState

pytestmark = pytest.mark.orthanc

OURS = "LUNGNODE"


@dataclass(frozen=True)
class RealPACS:
    """Orthanc on loopback that knows the node by AE title and port."""

    peer: Peer
    http: str

    def ask(self, path: str, question: Any = None) -> Any:
        """Orthanc's REST interface."""
        body = None if question is None else json.dumps(question).encode()
        with urllib.request.urlopen(
            urllib.request.Request(self.http + path, data=body), timeout=30
        ) as answer:
            return json.load(answer)


@pytest.fixture
def node_port() -> int:
    return free_port()


@pytest.fixture
def orthanc(tmp_path: Path, node_port: int) -> Iterator[RealPACS]:
    program = find_orthanc()
    if program is None:
        pytest.skip("Orthanc is not installed; on Debian: apt install orthanc")
    port, http = free_port(), free_port()
    settings = tmp_path / "orthanc.json"
    settings.write_text(
        json.dumps(
            {
                "StorageDirectory": str(tmp_path / "orthanc"),
                "IndexDirectory": str(tmp_path / "orthanc"),
                "Plugins": [],
                "HttpPort": http,
                "HttpBindAddresses": ["127.0.0.1"],
                "RemoteAccessAllowed": False,
                "AuthenticationEnabled": False,
                "DicomAet": "ORTHANC",
                "DicomPort": port,
                "DicomModalities": {
                    "node": {
                        "AET": OURS,
                        "Host": "127.0.0.1",
                        "Port": node_port,
                        "AllowStorageCommitment": True,
                        "AllowGet": True,
                        "AllowFind": True,
                    }
                },
            }
        )
    )
    with (tmp_path / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([program, str(settings)], stdout=log, stderr=subprocess.STDOUT)
    pacs = RealPACS(Peer("ORTHANC", "127.0.0.1", port), f"http://127.0.0.1:{http}")
    _await(lambda: _answers(pacs), 30, "Orthanc did not start")
    yield pacs
    process.kill()
    process.wait()


def _answers(pacs: RealPACS) -> bool:
    try:
        return bool(pacs.ask("/system"))
    except OSError:
        return False


def _await(condition: Callable[[], Any], seconds: float, message: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, message
        time.sleep(0.05)


@dataclass(frozen=True)
class Node:
    """The node's listener with its store."""

    database: Database
    storage: Path
    service: CommitmentService


@pytest.fixture
def node(tmp_path: Path, node_port: int, orthanc: RealPACS) -> Iterator[Node]:
    url = f"sqlite:///{tmp_path / 'lungnode.db'}"
    upgrade(url)
    database = open_database(url)
    port = orthanc.peer.port
    configuration = Configuration(
        destinations=[{"name": "pacs", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": port}],
        peers=[{"ae_title": "ORTHANC", "host": "127.0.0.1", "port": port}],
        storage={"path": tmp_path / "storage"},
    )
    service = commitment_service(configuration, database, _now)
    listener = Listener(
        ListenerPolicy(OURS, port=node_port, reserve_bytes=0, grace_seconds=1.0),
        database,
        tmp_path / "storage",
        _now,
        services=[service.as_service(report_handler(configuration, database, _now))],
    )
    listener.start()
    yield Node(database, tmp_path / "storage", service)
    listener.stop()
    database.close()


def _now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def written(tmp_path: Path, ct: Callable[..., Dataset]) -> Callable[[int], Path]:
    def write(number: int) -> Path:
        path = tmp_path / f"{number}.dcm"
        ct(number).save_as(path, enforce_file_format=True)
        return path

    return write


def _send(pacs: RealPACS, *paths: Path) -> None:
    outcomes = list(store(pacs.peer, [parcel(path) for path in paths], OURS))
    assert all(o.status == 0x0000 for o in outcomes), outcomes


def test_orthanc_commits_to_what_it_has_and_fails_what_it_has_not(
    orthanc: RealPACS, node: Node, written: Callable[[int], Path]
) -> None:
    kept, never_sent = parcel(written(1)), parcel(written(2))
    _send(orthanc, kept.path)
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

    _await(settled, 20, "Orthanc did not report")
    assert _states(node, study) == [DeliveryState.DELIVERED, DeliveryState.PENDING]
    with node.database.read() as session:
        account = queries.why(session, study)
    assert account.study.state is StudyState.DELIVERING
    assert "no such object instance" in account.deliveries[1].last_error


def test_orthanc_keeps_the_old_object_silently_and_it_is_noticed(
    orthanc: RealPACS, node: Node, written: Callable[[int], Path], ct: Callable[..., Dataset]
) -> None:
    path = written(1)
    _send(orthanc, path)
    changed = ct(1)
    changed.SeriesDescription = "another result under the same UID"
    changed.save_as(path, enforce_file_format=True)
    _send(orthanc, path)  # answered 0x0000, and the old one is kept
    about = {"study_instance_uid": changed.StudyInstanceUID, "series_instance_uid": changed.SeriesInstanceUID}
    assert compare_kept(orthanc.peer, OURS, path, **about) is Comparison.DIFFERENT
    assert compare_kept(orthanc.peer, OURS, written(1), **about) is Comparison.SAME
    asking = source(orthanc.peer, OURS)
    assert asking.holds(changed.StudyInstanceUID, changed.SeriesInstanceUID, changed.SOPInstanceUID)
    assert not asking.holds(changed.StudyInstanceUID, changed.SeriesInstanceUID, "1.2.3")


def test_orthanc_without_our_address_offers_no_commitment(orthanc: RealPACS) -> None:
    request = request_commitment(
        orthanc.peer, "STRANGER", generate_uid(), [("1.2.840.10008.5.1.4.1.1.2", "1.2")]
    )
    assert request.reply is Reply.NOT_OFFERED, request


def test_the_node_commits_to_what_orthanc_sent(
    orthanc: RealPACS, node: Node, written: Callable[[int], Path]
) -> None:
    paths = [written(n) for n in (1, 2, 3)]
    _send(orthanc, *paths)
    instances = orthanc.ask("/instances")
    job = orthanc.ask(
        "/modalities/node/store", {"Resources": instances, "StorageCommitment": True, "Synchronous": True}
    )
    transaction = job["StorageCommitmentTransactionUID"]

    def reported() -> bool:
        node.service.report_due()
        return orthanc.ask(f"/storage-commitment/{transaction}")["Status"] != "Pending"

    _await(reported, 30, "the node did not report")
    report = orthanc.ask(f"/storage-commitment/{transaction}")
    assert report["Status"] == "Success", report
    assert len(report["Success"]) == 3


def test_the_node_fails_what_it_never_got(
    orthanc: RealPACS, node: Node, written: Callable[[int], Path]
) -> None:
    uid = parcel(written(9)).sop_instance_uid
    answer = orthanc.ask(
        "/modalities/node/storage-commitment", {"DicomInstances": [["1.2.840.10008.5.1.4.1.1.2", uid]]}
    )
    transaction = answer["ID"]

    def reported() -> bool:
        node.service.report_due()
        return orthanc.ask(f"/storage-commitment/{transaction}")["Status"] != "Pending"

    _await(reported, 30, "the node did not report")
    report = orthanc.ask(f"/storage-commitment/{transaction}")
    assert report["Status"] == "Failure"
    (failure,) = report["Failures"]
    assert (failure["SOPInstanceUID"], failure["FailureReason"]) == (uid, 0x0112), failure


def _waiting(node: Node, paths: list[Path]) -> str:
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


def _states(node: Node, study: str) -> list[DeliveryState]:
    with node.database.read() as session:
        return [d.state for d in queries.why(session, study).deliveries]

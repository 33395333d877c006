"""SIGKILL during commitment and during STOW-RS: nothing is lost, doubled, or waits for ever."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import evt
from pynetdicom.presentation import build_context
from sqlalchemy import select

from node.stand_in_pacs import free_port
from scp.commitment_content import STORAGE_COMMITMENT
from scp.pacs_query.dimse import FIND
from store import queries
from store.database import Database
from store.models import Instance
from store.states import DeliveryState, StudyState

PROGRAM = Path(__file__).parents[2] / "kill" / "dying_part.py"
SEG, SR = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.34"
PATIENCE_S = 200.0


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a part of the node as a process, to be killed at an edge where one is given."""
    running = []

    def start(part: str, *edge: str) -> subprocess.Popen[bytes]:
        arguments = [*edge, str(int(signal.SIGKILL))] if edge else []
        with (tmp_path / "part.log").open("ab") as log:
            command = [sys.executable, str(PROGRAM), part, str(tmp_path / "config.yaml"), *arguments]
            process = subprocess.Popen(command, stdout=log, stderr=log)
        running.append(process)
        ready = tmp_path / f"{part}-{process.pid}.ready"
        _until(lambda: ready.exists() or process.poll() is not None, tmp_path)
        return process

    yield start
    for process in running:
        process.kill()
        process.wait()


def _until(condition: Callable[[], Any], folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, (folder / "part.log").read_text(errors="replace")[-3000:]
        time.sleep(0.02)


def _configure(folder: Path, **sections: Any) -> None:
    settings = {
        "storage": {"path": str(folder), "reserve_mb": 0},
        "database": {"url": f"sqlite:///{folder / 'lungnode.db'}"},
        "delivery": {"first_retry_seconds": 0.2, "max_retry_seconds": 1, "poll_seconds": 0.05},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings | sections))


def committing_pacs(start: Any, held: dict[str, Dataset]) -> Any:
    """A PACS that commits to what it holds, on the association of the request."""

    def store(event: evt.Event) -> int:
        held[str(event.request.AffectedSOPInstanceUID)] = event.dataset
        return 0x0000

    def action(event: evt.Event) -> tuple[int, None]:
        threading.Timer(0.05, report, (event.assoc, event.action_information)).start()
        return 0x0000, None

    def report(association: Any, asked: Dataset) -> None:
        if not association.is_established:
            return
        information = Dataset()
        information.TransactionUID = asked.TransactionUID
        information.ReferencedSOPSequence = [
            i for i in asked.ReferencedSOPSequence if i.ReferencedSOPInstanceUID in held
        ]
        association.send_n_event_report(information, 1, STORAGE_COMMITMENT, "1.2.840.10008.1.20.1.1")

    def find(event: evt.Event) -> Any:
        if event.identifier.get("SOPInstanceUID") in held:
            yield 0xFF00, event.identifier
        yield 0x0000, None

    contexts = [build_context(u) for u in (SEG, SR, STORAGE_COMMITMENT, FIND)]
    handlers = [(evt.EVT_C_STORE, store), (evt.EVT_N_ACTION, action), (evt.EVT_C_FIND, find)]
    return start(contexts, handlers)


COMMITMENT_EDGES = {
    "stored, before the commit": ("store.deliveries:record_stored", "after", "1"),
    "asked, before the commit": ("store.commitment:record_asked", "after", "1"),
    "before N-ACTION": ("reporting.delivery.commitment:request_commitment", "before", "1"),
    "after the report": ("reporting.delivery.commitment:request_commitment", "after", "1"),
    "noted, before the commit": ("store.commitment:record_answer", "after", "1"),
}
STOW_EDGES = {
    "before the rename": ("scp.spool:Spool.keep", "before"),
    "before the row": ("scp.receipt:Receiver._record", "before"),
    "after the row": ("scp.receipt:Receiver._record", "after"),
}
FEW = ("after the report", "before the row")
"""What every run of the tests tries; the others take their time in `make test-all`."""


def _edges(edges: dict[str, tuple[str, ...]]) -> list[Any]:
    slow = pytest.mark.slow
    return [pytest.param(edge, id=name, marks=() if name in FEW else slow) for name, edge in edges.items()]


@pytest.mark.parametrize("edge", _edges(COMMITMENT_EDGES))
def test_killed_while_a_destination_commits(
    run: Any, outbox: Any, database: Database, start_server: Any, tmp_path: Path, edge: tuple[str, ...]
) -> None:
    held: dict[str, Dataset] = {}
    peer = committing_pacs(start_server, held).peer
    commitment = {"answer_seconds": 1, "compare": False}
    where = {"name": "pacs", "ae_title": peer.ae_title, "host": peer.host, "port": peer.port}
    _configure(tmp_path, destinations=[where | {"commitment": commitment}])
    dying = run("delivery", *edge)
    _until(lambda: dying.poll() is not None, tmp_path)
    assert dying.returncode == -signal.SIGKILL
    run("delivery")

    def account() -> Any:
        with database.read() as session:
            return queries.why(session, outbox.study_instance_uid)

    _until(lambda: account().study.state is StudyState.DELIVERED, tmp_path)
    assert {d.state for d in account().deliveries} == {DeliveryState.DELIVERED}
    assert set(held) == set(outbox.uids)


def _file(number: int) -> bytes:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, UID(f"1.2.7.1.{number}")
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.7", "1.2.7.1"
    dataset.Modality, dataset.PatientID, dataset.InstanceNumber = "CT", "P1", number
    into = BytesIO()
    dataset.save_as(into, enforce_file_format=True)
    return into.getvalue()


@pytest.mark.parametrize("edge", _edges(STOW_EDGES))
def test_killed_while_instances_come_by_stow(
    run: Any, database: Database, tmp_path: Path, edge: tuple[str, str]
) -> None:
    port = free_port()
    _configure(
        tmp_path,
        listener={"port": free_port()},
        stow_listener={"port": port},
        completeness={"quiet_seconds": 600, "short_quiet_seconds": 600},
    )
    body = b"".join(b"--b\r\nContent-Type: application/dicom\r\n\r\n" + _file(n) + b"\r\n" for n in (1, 2, 3))
    kind = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}

    def post() -> requests.Response | None:
        try:
            url = f"http://127.0.0.1:{port}/studies"
            return requests.post(url, data=body + b"--b--", headers=kind, timeout=60)
        except requests.ConnectionError:
            return None

    dying = run("listener", *edge, "2")
    _until(lambda: post() is None and dying.poll() is not None, tmp_path)
    assert dying.returncode == -signal.SIGKILL
    run("listener")
    answers: list[requests.Response] = []

    def answered() -> bool:
        answer = post()
        if answer is not None:
            answers.append(answer)
        return answer is not None

    _until(answered, tmp_path)
    assert answers[0].status_code == 200
    with database.read() as session:
        rows = list(session.execute(select(Instance.sop_instance_uid, Instance.path)))
    assert sorted(uid for uid, _ in rows) == [f"1.2.7.1.{n}" for n in (1, 2, 3)]
    assert all((tmp_path / path).is_file() for _, path in rows)
    assert list((tmp_path / "incoming").iterdir()) == []

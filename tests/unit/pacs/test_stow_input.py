"""Instances by STOW-RS: the same receipt as by C-STORE, whatever the pieces that the body comes in."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian
from sqlalchemy.exc import OperationalError
from starlette.testclient import TestClient

from scp.listener import Listener
from scp.multipart import Malformed, MultipartReader, boundary_of
from scp.policy import ListenerPolicy
from scp.stow_server import StowCannotStart, StowPolicy, StowServer
from store import queries, receipts, revisions
from store.database import Database
from store.models import AssociationRecord
from store.states import StudyState

STUDY = "1.2.3"
KIND = 'multipart/related; type="application/dicom"; boundary=xyz'


class Collected:
    """Parts as bytes."""

    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.bodies: list[bytes] = []
        self.whole = 0

    def __call__(self, kind: str) -> Collected:
        self.kinds.append(kind)
        self.bodies.append(b"")
        return self

    def write(self, data: bytes) -> None:
        self.bodies[-1] += data

    def finish(self) -> None:
        self.whole += 1


def body_of(*contents: bytes, boundary: bytes = b"xyz") -> bytes:
    parts = (
        b"--" + boundary + b"\r\nContent-Type: application/dicom\r\n\r\n" + c + b"\r\n" for c in contents
    )
    return b"".join(parts) + b"--" + boundary + b"--\r\n"


@given(
    contents=st.lists(
        st.binary(max_size=60) | st.sampled_from([b"\r\n--xy", b"\r\n", b"--xyz", b"\r\n--"]), max_size=4
    ),
    piece=st.integers(1, 50),
)
def test_parts_come_out_as_they_went_in(contents: list[bytes], piece: int) -> None:
    if any(b"\r\n--xyz" in b"\r\n" + c for c in contents):
        return  # a sender must choose a boundary that its content has not (RFC 2046 5.1.1)
    collected = Collected()
    reader = MultipartReader("xyz", collected)
    whole = body_of(*contents)
    for start in range(0, len(whole), piece):
        reader.feed(whole[start : start + piece])
    reader.finish()
    assert collected.bodies == contents
    assert collected.whole == len(contents)


@pytest.mark.parametrize("body", [b"", b"--xyz", b"nonsense", body_of(b"a")[:-6], b"--xyz\r\n\r\nabc"])
def test_a_body_without_its_end_is_malformed(body: bytes) -> None:
    reader = MultipartReader("xyz", Collected())
    reader.feed(body)
    with pytest.raises(Malformed):
        reader.finish()


def test_a_header_without_end_takes_no_memory() -> None:
    reader = MultipartReader("xyz", Collected())
    with pytest.raises(Malformed, match="too long"):
        for _ in range(100):
            reader.feed(b"--xyz\r\n" + b"x" * 1000)


@pytest.mark.parametrize(
    "kind", ["application/dicom", "multipart/related", 'multipart/related; type="text/xml"; boundary=x', ""]
)
def test_other_media_types_are_refused(kind: str) -> None:
    with pytest.raises(Malformed):
        boundary_of(kind)


@pytest.fixture
def server_with(database: Database, tmp_path: Path, clock: Any) -> Iterator[Any]:
    listener = Listener(
        ListenerPolicy("LUNGNODE", port=0, reserve_bytes=0, grace_seconds=0.2, max_instance_bytes=100_000),
        database,
        tmp_path / "storage",
        clock,
    )
    listener.start()

    def make(**policy: Any) -> TestClient:
        settings = StowPolicy("127.0.0.1", 0, **policy)
        return TestClient(StowServer(settings, listener.receiver, database, clock).app())

    yield make
    listener.stop()


@pytest.fixture
def client(server_with: Any) -> TestClient:
    return server_with()


@pytest.fixture
def file() -> Any:
    """A DICOM file's bytes, by instance number."""

    def file(number: int, **changes: Any) -> bytes:
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID = UID(changes.pop("sop_class", CTImageStorage))
        dataset.SOPInstanceUID = UID(f"{STUDY}.1.{number}")
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = STUDY, f"{STUDY}.1"
        dataset.Modality, dataset.PatientID, dataset.InstanceNumber = "CT", "P1", number
        for keyword, value in changes.items():
            setattr(dataset, keyword, value)
        into = BytesIO()
        dataset.save_as(into, enforce_file_format=True)
        return into.getvalue()

    return file


def post(client: TestClient, *contents: bytes, to: str = "/studies", **headers: str) -> Any:
    return client.post(to, content=body_of(*contents), headers={"Content-Type": KIND} | headers)


def test_instances_are_received_as_by_c_store(client: TestClient, file: Any, database: Database) -> None:
    answer = post(client, file(1), file(2))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/dicom+json"
    stored = [i["00081155"]["Value"][0] for i in answer.json()["00081199"]["Value"]]
    assert stored == [f"{STUDY}.1.1", f"{STUDY}.1.2"]
    with database.read() as session:
        (study,) = revisions.receiving_studies(session)
        assert (study.instance_count, study.open_associations) == (2, 0)
        (association,) = session.query(AssociationRecord)
        assert (association.calling_ae, association.end) == ("STOW-RS", "received")


def test_the_same_again_is_success_and_other_content_is_not(client: TestClient, file: Any) -> None:
    assert post(client, file(1)).status_code == 200
    assert post(client, file(1)).status_code == 200
    assert post(client, file(1, SeriesDescription="other")).status_code == 409


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no DICOM at all" * 20, 0xC000),
        (b"", 0xC000),
        (bytes(128) + b"DICM" + b"\x02\x00\x00\x00UL\x04\x00\xff\xff\xff\xff", 0xC000),
    ],
)
def test_what_is_no_dicom_fails_alone(client: TestClient, file: Any, content: bytes, reason: int) -> None:
    answer = post(client, file(1), content)
    assert answer.status_code == 202
    said = answer.json()
    assert "00081198" not in said, "failures of instances name one (PS3.18 table I.2-1)"
    (failed,) = said["0008119A"]["Value"]
    assert failed["00081197"]["Value"][0] & 0xF000 == reason & 0xF000
    assert "00081155" not in failed


def test_an_unknown_sop_class_and_one_that_is_too_large_fail(client: TestClient, file: Any) -> None:
    answer = post(client, file(1, sop_class="1.2.3.4"))
    assert answer.status_code == 409
    assert answer.json()["00081198"]["Value"][0]["00081197"]["Value"][0] == 0x0122
    assert post(client, file(2, BitsAllocated=8, PixelData=bytes(200_000))).status_code == 409


def test_a_body_that_breaks_off_keeps_what_was_whole(
    client: TestClient, file: Any, database: Database, tmp_path: Path
) -> None:
    cut = body_of(file(1), file(2))[:-200]
    assert client.post("/studies", content=cut, headers={"Content-Type": KIND}).status_code == 400
    with database.read() as session:
        account = queries.why(session, STUDY)
        assert (account.study.state, account.study.instance_count) == (StudyState.RECEIVING, 1)
    assert list((tmp_path / "storage" / "incoming").iterdir()) == []


def test_a_token_is_asked_for(server_with: Any, file: Any) -> None:
    client = server_with(token_sha256=hashlib.sha256(b"secret").hexdigest())
    assert post(client, file(1)).status_code == 401
    assert post(client, file(1), Authorization="Bearer wrong").status_code == 401
    assert post(client, file(1), Authorization="Bearer secret").status_code == 200


def test_a_study_in_the_address_takes_only_its_own_instances(client: TestClient, file: Any) -> None:
    assert post(client, file(1), to=f"/studies/{STUDY}").status_code == 200
    answer = post(client, file(2), file(3, StudyInstanceUID="1.2.99"), to=f"/studies/{STUDY}")
    assert answer.status_code == 202
    (failed,) = answer.json()["00081198"]["Value"]
    assert failed["00081155"]["Value"] == [f"{STUDY}.1.3"]
    assert post(client, file(4), to="/studies/1.2.98").status_code == 409


def test_a_port_in_use_is_one_clear_line(database: Database, clock: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = StowServer(StowPolicy("127.0.0.1", port), None, database, clock)  # type: ignore[arg-type]
        with pytest.raises(
            StowCannotStart, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"
        ):
            server.start()


def test_a_certificate_that_is_not_there_is_one_clear_line(
    database: Database, clock: Any, tmp_path: Path
) -> None:
    policy = StowPolicy("127.0.0.1", 0, certificate=tmp_path / "none.pem", key=tmp_path / "none.key")
    server = StowServer(policy, None, database, clock)  # type: ignore[arg-type]
    with pytest.raises(StowCannotStart, match=r"none\.pem with key .* cannot be used: .*No such file"):
        server.start()


def test_the_end_of_a_request_is_recorded_once_the_store_takes_it(
    client: TestClient, file: Any, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then the study counts as being sent; what was stored is answered as stored."""

    def away(*_: Any, **__: Any) -> None:
        raise OperationalError("", {}, Exception("the store is away"))

    with monkeypatch.context() as patched:
        patched.setattr(receipts, "close_association", away)
        assert post(client, file(1)).status_code == 200
    with database.read() as session:
        assert revisions.receiving_studies(session)[0].open_associations == 1
    assert post(client, file(2)).status_code == 200
    with database.read() as session:
        assert revisions.receiving_studies(session)[0].open_associations == 0


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=400))
def test_any_body_gets_an_answer(client: TestClient, body: bytes) -> None:
    for content in (body, b"--xyz\r\n\r\n" + body + b"\r\n--xyz--"):
        answer = client.post("/studies", content=content, headers={"Content-Type": KIND})
        assert answer.status_code in (400, 409)

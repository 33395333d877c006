"""C-STORE: what is answered with success is on disk and in the store, byte for byte; what is not leaves nothing."""

from __future__ import annotations

import gc
import hashlib
import os
import shutil
import subprocess
import threading
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)
from sqlalchemy import select

from node.inspection import node_status
from scp.spool import Spool
from store import queries
from store.models import Instance, Series
from store.states import StudyState

MakeCT = Callable[..., Dataset]


def test_an_acknowledged_instance_is_on_disk_byte_for_byte(listener, ct: MakeCT) -> None:
    dataset = ct(1, size=512)  # several PDUs
    assert listener.send(dataset) == [0x0000]
    (row,) = listener.instances()
    (file,) = listener.files()
    assert listener.storage / row.path == file
    content = file.read_bytes()
    assert hashlib.sha256(content).hexdigest() == row.sha256
    stored = pydicom.dcmread(file)
    assert stored.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert stored.PixelData == dataset.PixelData
    assert content.endswith(encoded(dataset))
    assert row.size == len(encoded(dataset))
    assert listener.unfinished() == []
    assert {p.stat().st_mode & 0o777 for p in (file, listener.storage / "spool")} == {0o600, 0o700}


def encoded(dataset: Dataset) -> bytes:
    buffer = BytesIO()
    bare = Dataset(dataset)
    pydicom.dcmwrite(buffer, bare, implicit_vr=False, little_endian=True, enforce_file_format=False)
    return buffer.getvalue()


def test_the_same_instance_again_is_success_and_no_work(listener, ct: MakeCT) -> None:
    assert listener.send(ct(1), ct(1), ct(2)) == [0, 0, 0]
    assert len(listener.instances()) == len(listener.files()) == 2


def test_the_same_uid_with_other_content_is_refused_and_recorded(listener, ct: MakeCT) -> None:
    other = ct(1)
    other.PixelData = ct(2).PixelData
    assert listener.send(ct(1), other) == [0x0000, 0x0111]
    (file,) = listener.files()
    assert pydicom.dcmread(file).PixelData == ct(1).PixelData
    (refusal,) = listener.refusals()
    assert (refusal.status, refusal.sop_instance_uid) == (0x0111, other.SOPInstanceUID)
    assert "other content" in refusal.why


def test_the_same_instance_in_other_transfer_syntaxes_is_success_and_no_work(listener, ct: MakeCT) -> None:
    first, compressed, implicit = ct(1), ct(1), ct(1)
    compressed.compress(JPEGLSLossless, generate_instance_uid=False)
    compressed.DerivationDescription = "compressed without loss"
    implicit.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    assert listener.send(first, compressed, ct(2), implicit) == [0, 0, 0, 0]
    assert len(listener.instances()) == len(listener.files()) == 2
    assert {row.transfer_syntax_uid for row in listener.instances()} == {ExplicitVRLittleEndian}
    assert listener.refusals() == []


@pytest.mark.parametrize("change", [{"PatientName": "Doe^John"}, {"PixelData": bytes(64 * 64 * 2)}])
def test_other_content_in_another_transfer_syntax_is_refused(
    listener, ct: MakeCT, change: dict[str, object]
) -> None:
    other = ct(1)
    for keyword, value in change.items():
        setattr(other, keyword, value)
    other.compress(RLELossless, generate_instance_uid=False)
    assert listener.send(ct(1), other) == [0x0000, 0x0111]
    assert len(listener.files()) == 1


def test_a_conflict_does_not_lead_what_comes_after_it_into_another_series(listener, ct: MakeCT) -> None:
    """The UID of a held instance comes in a new series, and is refused; that series is still one of its own."""
    conflicting, fresh = ct(1), ct(2)
    conflicting.SeriesInstanceUID = fresh.SeriesInstanceUID = "1.2.826.0.1.99.7"
    assert listener.send(ct(1), conflicting, fresh) == [0x0000, 0x0111, 0x0000]
    with listener.database.read() as session:
        rows = session.execute(
            select(Instance.sop_instance_uid, Series.series_instance_uid).join(Series)
        ).all()
    assert dict(map(tuple, rows)) == {one.SOPInstanceUID: one.SeriesInstanceUID for one in (ct(1), fresh)}


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"StudyInstanceUID": "../../../etc/cron.d/x"}, 0xC000),
        ({"SeriesInstanceUID": "<script>alert(1)</script>"}, 0xC000),
        ({"StudyInstanceUID": ""}, 0xC000),
        ({"PatientID": "x" * 3000}, 0xC000),
    ],
)
def test_a_data_set_that_cannot_be_filed_is_refused(
    listener, ct: MakeCT, change: dict[str, str], status: int
) -> None:
    dataset = ct(1)
    for keyword, value in change.items():
        dataset[keyword]._value = value
    assert listener.send(dataset, ct(2)) == [status, 0x0000]
    assert len(listener.files()) == 1
    assert len(listener.refusals()) == 1
    assert listener.unfinished() == []


def test_a_data_set_of_another_instance_than_announced_is_refused(listener, ct: MakeCT) -> None:
    association = listener.associate()
    statuses = []
    for dataset, announced in ((ct(1), "1.2.3.4"), (ct(2), "1.2.3/../4"), (ct(3), ct(3).SOPInstanceUID)):
        statuses.append(raw_store(association, dataset, announced))
    association.release()
    assert statuses == [0xA900, 0xC000, 0x0000]
    assert len(listener.files()) == 1


def raw_store(association, dataset: Dataset, announced: str) -> int:
    """A C-STORE whose request names another instance than its data set."""
    from pynetdicom.dimse_primitives import C_STORE

    request = C_STORE()
    request.MessageID = 7
    request.AffectedSOPClassUID = dataset.SOPClassUID
    request._affected_sop_instance_uid = pydicom.uid.UID(announced)
    request.Priority = 2
    request.DataSet = BytesIO(encoded(dataset))
    association._reactor_checkpoint.clear()
    association.dimse.send_msg(request, 1)
    _, response = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    return int(response.Status)


def test_other_storage_classes_are_kept_and_not_screened(listener, ct: MakeCT) -> None:
    report = ct(1)
    report.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    report.Modality = "SR"
    localizer = ct(2)
    localizer.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    assert listener.send(report, localizer) == [0, 0]
    assert [row.kept_out for row in listener.instances()] == [
        "Basic Text SR Storage is not screened",
        "localizer",
    ]


def test_a_full_disk_is_answered_with_a700_and_recovers(
    listener, ct: MakeCT, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener.listener._receiver.__dict__["reserve_bytes"] = 10**18
    assert listener.send(ct(1)) == [0xA700]
    assert "free disk space" in listener.refusals()[0].why
    listener.listener._receiver.__dict__["reserve_bytes"] = 0
    assert listener.send(ct(1)) == [0x0000]


@pytest.mark.parametrize("place", ["scp.spool.os.write", "scp.spool.os.fsync"])
def test_a_disk_that_fills_while_writing_is_answered_with_a700(
    listener, ct: MakeCT, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(place, full)
        assert listener.send(ct(1)) == [0xA700]
    assert listener.unfinished() == []
    assert listener.send(ct(1)) == [0x0000]
    assert len(listener.instances()) == 1


def test_an_instance_above_the_limit_is_refused_and_its_bytes_are_gone(start_listener, ct: MakeCT) -> None:
    listener = start_listener(max_instance_bytes=100_000)
    assert listener.send(ct(1, size=512), ct(2)) == [0xA700, 0x0000]
    assert len(listener.files()) == 1
    assert listener.unfinished() == []


def test_a_deflate_bomb_is_refused(start_listener, ct: MakeCT) -> None:
    listener = start_listener(max_inflated_bytes=10 * 2**20)
    bomb = ct(1)
    bomb.PixelData = bytes(64 * 2**20)
    deflated = DeflatedExplicitVRLittleEndian
    association = listener.associate((CTImageStorage, deflated))
    statuses = [deflated_store(association, instance) for instance in (bomb, ct(2))]
    association.release()
    assert statuses == [0xA700, 0x0000]
    assert len(listener.files()) == 1
    assert "unfolds to more than 10 MiB" in listener.refusals()[0].why


def test_what_is_deflated_wrongly_is_not_understood(start_listener, ct: MakeCT) -> None:
    """Sent again it would be as wrong: the status must not be one after which senders try again."""
    listener = start_listener()
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    begun = compressor.compress(encoded(ct(1, size=512))) + compressor.flush(zlib.Z_FULL_FLUSH)
    association = listener.associate((CTImageStorage, DeflatedExplicitVRLittleEndian))
    assert raw_messages(association, raw_command(ct(1)), begun + b"\xff" * 1000) == 0xC000
    association.release()
    assert "not a deflated data set" in listener.refusals()[0].why


def deflated_store(association, dataset: Dataset) -> int:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    data = compressor.compress(encoded(dataset)) + compressor.flush()
    return raw_messages(association, raw_command(dataset), data)


def raw_messages(association, command: bytes, data: bytes) -> int:
    """The status that a command and a data set get, as they are."""
    association._reactor_checkpoint.clear()
    pieces = [data[at : at + 16000] for at in range(0, len(data), 16000)]
    messages = [pdu(1, 0x00, piece) for piece in pieces[:-1]] + [pdu(1, 0x02, pieces[-1])]
    association.dul.socket.socket.sendall(pdu(1, 0x03, command) + b"".join(messages))
    _, response = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    return int(response.Status)


def test_a_study_above_the_limit_takes_no_more(start_listener, ct: MakeCT) -> None:
    listener = start_listener(max_study_bytes=20_000)
    assert listener.send(ct(1), ct(2), ct(3), ct(1, study="1.2.7")) == [0x0000, 0x0000, 0xA700, 0x0000]
    assert len(listener.files()) == len(listener.instances()) == 3
    assert "reached its limit" in listener.refusals()[0].why


def test_a_store_that_is_away_is_answered_with_a700(
    listener, ct: MakeCT, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy.exc import OperationalError

    association = listener.associate()
    assert association.send_c_store(ct(1)).Status == 0x0000

    def away(*_: object, **__: object) -> None:
        raise OperationalError("", {}, Exception("database is locked"))

    with monkeypatch.context() as patch:
        patch.setattr("scp.receipt.receipts.record_instance", away)
        patch.setattr("scp.receipt.RepeatedReceipts.record", lambda *_, **__: False)
        assert association.send_c_store(ct(2)).Status == 0xA700
    assert association.send_c_store(ct(2)).Status == 0x0000
    association.release()
    assert len(listener.instances()) == 2


def test_parallel_associations_share_a_study(listener, ct: MakeCT) -> None:
    statuses: list[list[int | None]] = []

    def send(first: int) -> None:
        mine = [ct(n, study=f"1.2.9.{n % 2}") for n in range(first, 40, 4)]
        statuses.append(listener.send(*mine))

    senders = [threading.Thread(target=send, args=(n,)) for n in range(4)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    assert statuses == [[0] * 10] * 4
    assert len(listener.instances()) == len(listener.files()) == 40
    with listener.database.read() as session:
        lines = queries.list_studies(session)
    assert sorted((line.study_instance_uid, line.instance_count) for line in lines) == [
        ("1.2.9.0", 20),
        ("1.2.9.1", 20),
    ]


def test_what_was_refused_is_told_by_status_and_in_the_account_of_its_study(listener, ct: MakeCT) -> None:
    assert listener.send(ct(1), ct(1, size=32)) == [0x0000, 0x0111]
    now = datetime.now(UTC)
    (told,) = node_status(listener.database, now).data["refusals"]
    assert told["who"] == "SENDER@127.0.0.1"
    assert told["what"].endswith("refused with 0x0111: an instance with this UID and other content is held")
    assert node_status(listener.database, now + timedelta(days=2)).data["refusals"] == []
    with listener.database.read() as session:
        history = queries.why(session, ct(1).StudyInstanceUID).history
    assert told["what"] in [entry.what for entry in history]


def test_one_study_comes_from_several_hosts(listener, ct: MakeCT) -> None:
    for number, host in enumerate(("127.0.0.1", "127.0.0.2", "127.0.0.3")):
        association = listener.associate(calling=f"CT{number}", host=host)
        assert association.send_c_store(ct(number)).Status == 0x0000
        association.release()
    with listener.database.read() as session:
        (study,) = queries.list_studies(session)
        history = " ".join(entry.what for entry in queries.why(session, study.study_instance_uid).history)
    assert study.instance_count == 3
    assert history.count("brought 1 instances") == 3


def test_the_store_knows_the_associations(listener, ct: MakeCT) -> None:
    listener.send(ct(1), ct(2))

    def account() -> queries.StudyAccount:
        with listener.database.read() as session:
            return queries.why(session, ct(1).StudyInstanceUID)

    end = "association 1 brought 2 instances, released"
    wait_for(lambda: end in [entry.what for entry in account().history])
    assert account().study.state is StudyState.RECEIVING


def test_an_association_that_breaks_off_leaves_nothing_unacknowledged(listener, ct: MakeCT) -> None:
    association = listener.associate()
    assert association.send_c_store(ct(1)).Status == 0
    whole = encoded(ct(2, size=512))
    half = whole[: len(whole) // 2]
    command = raw_command(ct(2))
    sock = association.dul.socket.socket
    sock.sendall(pdu(1, 0x03, command) + pdu(1, 0x00, half[:16000]) + pdu(1, 0x00, half[16000:32000]))
    association.abort()
    wait_for(lambda: listener.unfinished() == [] and listener.listener.open_associations == 0)
    assert len(listener.instances()) == len(listener.files()) == 1


def raw_command(dataset: Dataset) -> bytes:
    from pynetdicom.dimse_messages import C_STORE_RQ
    from pynetdicom.dimse_primitives import C_STORE
    from pynetdicom.dsutils import encode

    primitive = C_STORE()
    primitive.MessageID = 1
    primitive.AffectedSOPClassUID = dataset.SOPClassUID
    primitive.AffectedSOPInstanceUID = dataset.SOPInstanceUID
    primitive.Priority = 2
    primitive.DataSet = BytesIO(b"\0\0")
    message = C_STORE_RQ()
    message.primitive_to_message(primitive)
    return encode(message.command_set, True, True) or b""


def pdu(context: int, control: int, data: bytes) -> bytes:
    pdv = (len(data) + 2).to_bytes(4, "big") + bytes([context, control]) + data
    return b"\x04\0" + len(pdv).to_bytes(4, "big") + pdv


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    import time

    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


@pytest.mark.parametrize("fragment", [1000, 16_000, 200_000])
def test_any_fragmentation_gives_the_same_file(listener, ct: MakeCT, fragment: int) -> None:
    """A command in pieces, several PDVs in a PDU, odd sizes: PS3.8 annex E allows all of it."""
    association = listener.associate()
    association._reactor_checkpoint.clear()
    sock = association.dul.socket.socket
    dataset = ct(3, size=300)
    command, data = raw_command(dataset), encoded(dataset)
    sock.sendall(pdu(1, 0x01, command[:50]) + pdu(1, 0x03, command[50:]))
    pieces = [data[at : at + fragment] for at in range(0, len(data), fragment)]
    for number, piece in enumerate(pieces):
        sock.sendall(pdu(1, 0x02 if number == len(pieces) - 1 else 0x00, piece))
    _, response = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    association.release()
    assert response.Status == 0
    (file,) = listener.files()
    assert file.read_bytes().endswith(data)


@pytest.mark.real_data
@pytest.mark.dcmtk
@pytest.mark.skipif(shutil.which("dcmsend") is None, reason="DCMTK's dcmsend is not installed")
def test_every_odd_file_gets_an_answer_and_the_next_study_is_served(
    listener, ct: MakeCT, real_data: Path
) -> None:
    for path in sorted((real_data / "odd").iterdir()):
        subprocess.run(
            ["dcmsend", "-ll", "off", "-aec", "LUNGNODE", "127.0.0.1", str(listener.port), str(path)],
            timeout=60,
            check=False,
            capture_output=True,
        )
    assert listener.send(ct(1)) == [0x0000]
    assert len(listener.instances()) == len(listener.files())
    assert {row.transfer_syntax_uid for row in listener.instances()} <= {
        "1.2.840.10008.1.2.1",
        "1.2.840.10008.1.2",
        "1.2.840.10008.1.2.1.99",
        "1.2.840.10008.1.2.4.70",
    }
    assert len(listener.instances()) >= 8
    assert listener.unfinished() == []


@pytest.mark.real_data
@pytest.mark.dcmtk
@pytest.mark.skipif(shutil.which("storescu") is None, reason="DCMTK's storescu is not installed")
@pytest.mark.parametrize(
    "name",
    [
        "ct_implicit_le",
        "ct_explicit_le",
        "ct_explicit_be",
        "ct_deflated",
        "ct_jpeg_lossless_sv1",
        "ct_jpegls",
        "ct_rle",
        "ct_j2k_lossless",
    ],
)
def test_a_compressed_image_stays_as_it_is(listener, real_data: Path, name: str) -> None:
    path = real_data / "odd" / f"{name}.dcm"
    sender = "/usr/bin/storescu" if Path("/usr/bin/storescu").exists() else "storescu"
    offer = {
        "ct_implicit_le": "-xi",
        "ct_explicit_le": "-xe",
        "ct_explicit_be": "-xb",
        "ct_deflated": "-xd",
        "ct_jpeg_lossless_sv1": "-xs",
        "ct_jpegls": "-xt",
        "ct_rle": "-xr",
        "ct_j2k_lossless": "-xv",
    }[name]
    done = subprocess.run(
        [sender, offer, "-aec", "LUNGNODE", "127.0.0.1", str(listener.port), str(path)],
        timeout=60,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (file,) = listener.files()
    sent, stored = pydicom.dcmread(path), pydicom.dcmread(file)
    assert stored.file_meta.TransferSyntaxUID == sent.file_meta.TransferSyntaxUID
    assert stored.PixelData == sent.PixelData


def test_no_patient_reaches_the_log(listener, ct: MakeCT, capsys: pytest.CaptureFixture[str]) -> None:
    other = ct(1)
    other.InstanceNumber = 99
    listener.send(ct(1), other)
    wrong = ct(2)
    wrong.StudyInstanceUID = "Doe^Jane"
    listener.send(wrong)
    output = "".join(capsys.readouterr())
    assert "Doe" not in output
    assert "4711" not in output
    assert "instance refused" in output


def test_what_was_never_acknowledged_is_swept_at_start(start_listener, ct: MakeCT) -> None:
    first = start_listener()
    first.send(ct(1))
    first.listener.stop()
    spool = Spool(first.storage)
    left = spool.begin(CTImageStorage, "1.2.3", ImplicitVRLittleEndian, 10**6)
    left.finish()
    whole = spool.begin(CTImageStorage, "1.2.4", ImplicitVRLittleEndian, 10**6)
    whole.write(b"content")
    whole.finish()
    spool.keep(whole, "1.2")
    assert (len(first.files()), len(first.unfinished())) == (2, 1)
    second = start_listener()
    assert (len(second.files()), len(second.unfinished())) == (1, 0)
    assert pydicom.dcmread(second.files()[0]).SOPInstanceUID == ct(1).SOPInstanceUID


def test_a_start_looks_only_into_folders_that_changed(
    start_listener, ct: MakeCT, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = start_listener()
    first.send(ct(1, study="1.2.8"), ct(1, study="1.2.9"))
    first.listener.stop()
    start_listener().listener.stop()
    for file in first.files():
        os.utime(file.parent, (1, 1))
    old, fresh = first.files()
    os.utime(fresh.parent)
    asked: list[str] = []

    def known(_: object, paths: list[str]) -> set[str]:
        asked.extend(paths)
        return set(paths)

    monkeypatch.setattr("scp.sweep.receipts.known_paths", known)
    start_listener()
    assert asked == [str(fresh.relative_to(first.storage))]
    assert old.exists()


def test_another_listener_on_the_same_spool_sweeps_nothing_fresh(start_listener, ct: MakeCT) -> None:
    first = start_listener()
    being_written = Spool(first.storage).begin(CTImageStorage, "1.2.3", ImplicitVRLittleEndian, 10**6)
    being_written.finish()
    start_listener()
    assert first.unfinished() == [being_written.path]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    uid=st.text(max_size=70),
    name=st.text(st.characters(exclude_categories=["Cs"]), max_size=64),
    which=st.sampled_from(["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]),
)
def test_hostile_values_reach_no_path(listener, ct: MakeCT, uid: str, name: str, which: str) -> None:
    dataset = ct(5)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName = name
    dataset[which]._value = uid.encode("utf-8", "replace").decode("latin-1")
    association = listener.associate()
    try:
        status = raw_store_bytes(association, dataset)
    finally:
        association.release()
    assert status in (0x0000, 0x0111, 0xC000, 0xA900)
    for path in listener.files():
        assert set(str(path.relative_to(listener.storage / "spool"))) <= set("0123456789abcdef/.dcm")


def raw_store_bytes(association, dataset: Dataset) -> int:
    plain = ct_bytes(dataset)
    association._reactor_checkpoint.clear()
    sock = association.dul.socket.socket
    announced = Dataset()
    announced.SOPClassUID, announced.SOPInstanceUID = CTImageStorage, "1.2.826.0.1.99.1.1.5"
    sock.sendall(pdu(1, 0x03, raw_command(announced)) + pdu(1, 0x02, plain))
    _, response = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    return int(response.Status)


def ct_bytes(dataset: Dataset) -> bytes:
    """Encoded without any check of values."""
    import struct

    def element(tag: int, vr: bytes, value: bytes) -> bytes:
        value += b" " * (len(value) % 2)
        return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value

    def text(keyword: str) -> bytes:
        return str(dataset[keyword]._value).encode("utf-8", "replace")

    return b"".join(
        (
            element(0x00080016, b"UI", CTImageStorage.encode()),
            element(0x00080018, b"UI", text("SOPInstanceUID")),
            element(0x00080060, b"CS", b"CT"),
            element(0x00100010, b"PN", text("PatientName")),
            element(0x0020000D, b"UI", text("StudyInstanceUID")),
            element(0x0020000E, b"UI", text("SeriesInstanceUID")),
        )
    )


def test_what_is_there_at_start_is_not_collected_while_it_runs(start_listener) -> None:
    node = start_listener()
    assert gc.get_freeze_count() > 0
    node.listener.stop()
    assert gc.get_freeze_count() == 0

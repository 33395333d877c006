"""Images of studies that have ended are deleted after their time or for want of room; everything else stays."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless
from sqlalchemy import select

from scp import retention as purging
from scp.policy import RetentionPolicy
from scp.retention import Retention
from scp.spool import Spool
from store import commitment, ledger, receipts, retention
from store.models import Study, Transition
from store.receipts import Peer
from store.states import StudyState

MakeCT = Callable[..., Dataset]
KEEP = timedelta(days=7)
DELIVERED = (StudyState.DELIVERING, StudyState.DELIVERED)


def end_as(listener, study_instance_uid: str, *states: StudyState, at: datetime | None = None) -> None:
    with listener.database.write() as session:
        study = ledger.locked_study_by_uid(session, study_instance_uid)
        for state in states:
            ledger.change_state(session, study, state, who="test", why="test", now=at or datetime.now(UTC))
        study.last_received_at = study.changed_at


def retention_of(listener, spool: Spool | None = None, **policy: Any) -> Retention:
    return Retention(RetentionPolicy(**policy), listener.database, spool or Spool(listener.storage))


def purged(listener) -> list[str]:
    """Studies whose images are deleted."""
    with listener.database.read() as session:
        uids = select(Study.study_instance_uid).where(Study.purged_at.is_not(None))
        return list(session.scalars(uids.order_by(Study.study_instance_uid)))


def test_only_what_has_ended_and_is_old_goes(start_listener, ct: MakeCT) -> None:
    listener = start_listener()
    for number, study in enumerate(("1.2.1", "1.2.2", "1.2.3", "1.2.4")):
        assert listener.send(ct(number, study=study)) == [0]
    end_as(listener, "1.2.1", *DELIVERED)
    end_as(listener, "1.2.2", StudyState.FAILED)
    end_as(listener, "1.2.3", StudyState.SKIPPED)
    now = datetime.now(UTC)
    keeping = retention_of(listener, keep_done=KEEP)
    assert keeping.purge(now).studies == 0
    done = keeping.purge(now + timedelta(days=8))
    assert (done.studies, done.files) == (2, 2)
    assert purged(listener) == ["1.2.1", "1.2.3"]
    assert keeping.purge(now + timedelta(days=9)).studies == 0
    assert retention_of(listener).purge(now + timedelta(days=999)).studies == 0
    failed_too = retention_of(listener, keep_done=KEEP, keep_failed=3 * KEEP)
    assert failed_too.purge(now + 2 * KEEP).studies == 0
    assert failed_too.purge(now + 4 * KEEP).studies == 1
    assert purged(listener) == ["1.2.1", "1.2.2", "1.2.3"], "what is being received stays"
    with listener.database.read() as session:
        said = session.scalars(select(Transition.why).where(Transition.who == retention.WHO)).all()
        assert retention.purges_since(session, now) == 3
    assert said[0] == f"images deleted, delivered since {now:%Y-%m-%d}"


class SmallDisk(Spool):
    """A spool on a disk that has room for four images."""

    def free_bytes(self) -> int:
        return 4 - len(list(self.kept.rglob("*.dcm")))


def test_the_oldest_of_what_is_done_with_makes_room(start_listener, ct: MakeCT) -> None:
    listener = start_listener()
    now = datetime.now(UTC)
    for number, days in ((1, 5), (2, 4), (3, 0)):
        assert listener.send(ct(number, study=f"1.2.{number}")) == [0]
        end_as(listener, f"1.2.{number}", StudyState.SKIPPED, at=now - timedelta(days=days))
    assert listener.send(ct(4, study="1.2.4")) == [0]
    end_as(listener, "1.2.4", StudyState.FAILED, at=now - timedelta(days=9))
    disk = SmallDisk(listener.storage)
    assert retention_of(listener, disk).make_room(now).studies == 0, "it may be told to delete nothing"
    assert retention_of(listener, disk, room_bytes=3).make_room(now).studies == 2
    assert purged(listener) == ["1.2.1", "1.2.2"], "neither what failed nor what is of today"
    with listener.database.read() as session:
        said = session.scalars(select(Transition.why).where(Transition.who == retention.WHO)).all()
    assert all(why.endswith(": the room was needed") for why in said)


def test_what_a_sender_asked_commitment_for_makes_no_room(start_listener, ct: MakeCT) -> None:
    listener = start_listener()
    now = datetime.now(UTC)
    for number in (1, 2):
        image = ct(number, study=f"1.2.{number}")
        assert listener.send(image) == [0]
        end_as(listener, f"1.2.{number}", StudyState.SKIPPED, at=now - timedelta(days=9 - number))
        if number == 1:
            with listener.database.write() as session:
                commitment.record_request(
                    session,
                    transaction_uid="1.2.3.4",
                    peer=Peer("CT1", "127.0.0.1"),
                    references=[(image.SOPClassUID, image.SOPInstanceUID), ("1.2", "1.2.3.9")],
                    report_at=now,
                    now=now,
                )
    disk = SmallDisk(listener.storage)
    assert retention_of(listener, disk, room_bytes=4).make_room(now).studies == 1
    assert purged(listener) == ["1.2.2"], "the sender may have deleted its own of 1.2.1"
    assert retention_of(listener, disk, keep_done=KEEP).purge(now + KEEP).studies == 1, (
        "age is another matter"
    )


def test_no_more_goes_than_room_is_needed(start_listener, ct: MakeCT) -> None:
    listener = start_listener()
    now = datetime.now(UTC)
    for number in (1, 2, 3):
        assert listener.send(ct(number, study=f"1.2.{number}")) == [0]
        end_as(listener, f"1.2.{number}", StudyState.SKIPPED, at=now - timedelta(days=9 - number))
    disk = SmallDisk(listener.storage)
    assert retention_of(listener, disk, room_bytes=2).make_room(now).studies == 1
    assert purged(listener) == ["1.2.1"]


def test_a_study_that_cannot_be_deleted_holds_up_no_other(
    start_listener, ct: MakeCT, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = start_listener()
    now = datetime.now(UTC)
    for number in (1, 2):
        assert listener.send(ct(number, study=f"1.2.{number}")) == [0]
        end_as(listener, f"1.2.{number}", *DELIVERED, at=now - timedelta(days=30 - number))
    mark, marked = purging._mark_changed, []

    def refused_once(storage: Path, paths: tuple[str, ...]) -> None:
        marked.append(paths)
        if len(marked) == 1:
            raise PermissionError(errno.EACCES, "Permission denied")
        mark(storage, paths)

    monkeypatch.setattr(purging, "_mark_changed", refused_once)
    keeping = retention_of(listener, keep_done=KEEP)
    assert keeping.purge(now).studies == 1
    assert purged(listener) == ["1.2.2"]
    assert keeping.purge(now).studies == 1


def test_an_image_that_comes_again_while_its_study_is_deleted_stays(
    start_listener, ct: MakeCT, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = start_listener()
    assert listener.send(ct(1), ct(2)) == [0, 0]
    end_as(listener, ct(1).StudyInstanceUID, *DELIVERED)

    def sent_again(paths: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        assert listener.send(ct(1)) == [0]
        yield paths

    monkeypatch.setattr(purging, "_pieces", sent_again)
    retention_of(listener, keep_done=KEEP).purge(datetime.now(UTC) + 2 * KEEP)
    kept = listener.instances()[0]
    assert kept.kept_out is None
    assert (listener.storage / kept.path).is_file()


def test_an_image_whose_file_was_just_deleted_is_not_acknowledged(
    start_listener, ct: MakeCT, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = start_listener()
    assert listener.send(ct(1)) == [0]
    record = receipts.record_instance

    def recorded_too_late(session: Any, instance: Any, **how: Any) -> receipts.Receipt:
        (listener.storage / instance.path).unlink()
        return record(session, instance, **how)

    with monkeypatch.context() as patch:
        patch.setattr(receipts, "record_instance", recorded_too_late)
        assert listener.send(ct(1)) == [0xA700]
    assert "just being deleted" in listener.refusals()[0].why
    assert listener.send(ct(1)) == [0]
    assert len(listener.files()) == 1


def test_a_deleted_study_comes_again_in_another_encoding(start_listener, ct: MakeCT) -> None:
    listener = start_listener()
    localizer = ct(3)
    localizer.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    sent = [ct(1), ct(2), localizer]
    assert listener.send(*sent) == [0, 0, 0]
    end_as(listener, ct(1).StudyInstanceUID, *DELIVERED)
    retention_of(listener, keep_done=KEEP).purge(datetime.now(UTC) + 2 * KEEP)
    for dataset in sent:
        dataset.compress(RLELossless, generate_instance_uid=False)
    assert listener.send(*sent) == [0, 0, 0]
    rows = listener.instances()
    assert [row.transfer_syntax_uid for row in rows] == [RLELossless] * 3
    assert sorted(row.kept_out or "" for row in rows) == ["", "", "localizer"]
    assert {listener.storage / row.path for row in rows} == set(listener.files())
    with listener.database.read() as session:
        study = session.scalars(select(Study)).one()
        assert (study.state, study.instance_count) == (StudyState.RECEIVING, 3)
        assert study.byte_count == sum(row.size for row in rows)
    other = ct(1)
    other.PatientName = "Doe^John"
    assert listener.send(other) == [0x0111], "what is here is not replaced"


def test_what_came_again_is_kept_as_long_as_what_is_new(start_listener, ct: MakeCT) -> None:
    listener = start_listener()
    assert listener.send(ct(1)) == [0]
    now = datetime.now(UTC)
    end_as(listener, ct(1).StudyInstanceUID, *DELIVERED, at=now - 2 * KEEP)
    keeping = retention_of(listener, keep_done=KEEP)
    assert keeping.purge(now).studies == 1
    assert listener.send(ct(1)) == [0]
    assert keeping.purge(now + timedelta(hours=1)).studies == 0
    assert len(listener.files()) == 1
    assert keeping.purge(now + 2 * KEEP).studies == 1


def test_files_that_a_killed_purge_left_over_are_swept_at_start(start_listener, ct: MakeCT) -> None:
    first = start_listener()
    assert first.send(ct(1)) == [0]
    end_as(first, ct(1).StudyInstanceUID, *DELIVERED)
    first.listener.stop()
    with first.database.write() as session:
        study = ledger.locked_study_by_uid(session, ct(1).StudyInstanceUID)
        study.purged_at = datetime.now(UTC)
    assert len(first.files()) == 1
    second = start_listener()
    assert second.files() == []
    assert second.send(ct(1)) == [0]
    assert len(second.files()) == 1


def test_a_listener_that_takes_no_connections_any_more_says_so(start_listener, ct: MakeCT) -> None:
    running = start_listener()
    assert running.listener.accepts and running.send(ct(1)) == [0]
    running.listener._server.shutdown()
    running.listener._accepting.join(10)
    assert not running.listener.accepts


def test_the_listener_keeps_house(start_listener, ct: MakeCT) -> None:
    listener = start_listener(retention=RetentionPolicy(keep_done=timedelta(microseconds=1)))
    assert listener.send(ct(1), ct(2, study="1.2.5")) == [0, 0]
    end_as(listener, ct(1).StudyInstanceUID, *DELIVERED)
    listener.listener._delete(listener.listener._retention.purge)
    (left,) = listener.files()
    assert listener.storage / listener.instances()[1].path == left

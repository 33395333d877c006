"""Nodes without a disk in common: from one node's spool through an object store to whoever claims the study."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from node.routing.deciding import Router
from node.routing.rules import Rule
from scp.completeness import CompletenessPolicy, complete_due
from scp.policy import RetentionPolicy
from scp.retention import Retention
from scp.spool import Spool
from scp.uploading import Uploader, node_of
from store import claims, commitment, ledger, queries, receipts, revisions, uploads
from store.database import Database, open_database
from store.migrations import upgrade
from store.object_folder import ObjectFolder, ObjectStoreAway, ObjectStoreUnusable, open_object_folder
from store.receipts import Outcome, ReceivedInstance
from store.shared_storage import KEEP_COPIES_S, DamagedObject, SharedStorage
from store.states import StudyState

pytest.importorskip("fsspec", reason="fsspec is not installed: pip install 'lungnode[s3]'")

NOW = datetime(2026, 1, 5, 8, tzinfo=UTC)
CT = "1.2.840.10008.5.1.4.1.1.2"
LITTLE = "1.2.840.10008.1.2.1"
STUDY = "1.2.3"


class Refusing:
    """A file system that can be told to refuse whatever is asked of it."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.why: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        if self.why is not None:
            raise self.why
        return getattr(self.inner, name)


@dataclass
class Node:
    """A machine with a disk of its own."""

    folder: Path
    database: Database
    objects: ObjectFolder
    spool: Spool = field(init=False)

    def __post_init__(self) -> None:
        self.spool = Spool(self.folder)
        self.spool.prepare()

    @property
    def name(self) -> str:
        return node_of(self.folder)

    @property
    def uploader(self) -> Uploader:
        """As after a start: nothing is remembered."""
        return Uploader(self.database, self.spool, self.objects, lambda: NOW)

    @property
    def shared(self) -> SharedStorage:
        return SharedStorage(self.folder, self.objects)

    def receive(self, number: int, *, objects: bool = True, study: str = STUDY) -> Outcome:
        """An instance by the way that the listener goes."""
        uid = f"{study}.1.{number}"
        incoming = self.spool.begin(CT, uid, LITTLE, 2**20)
        incoming.write(f"image {uid}".encode() * 1000)
        incoming.finish()
        kept = self.spool.keep(incoming, study)
        instance = ReceivedInstance(
            *(study, f"{study}.1", uid, CT, LITTLE, "CT", "0" * 64, kept.sha256, kept.size, kept.path),
            held_by=self.name if objects else None,
        )
        with self.database.write() as session:
            return receipts.record_instance(session, instance, association_id=None, now=NOW).outcome

    def files(self) -> list[Path]:
        return sorted(self.spool.kept.rglob("*.dcm"))


@pytest.fixture(params=["file", "memory", pytest.param("s3", marks=pytest.mark.slow)])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectFolder:
    """An empty folder in each kind of object store."""
    if request.param == "s3":
        server = request.getfixturevalue("s3_server")
        return open_object_folder(server.new_url(), server.options)
    place = f"file://{tmp_path}/objects" if request.param == "file" else f"memory://{tmp_path.name}"
    return open_object_folder(place, {})


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    upgrade(f"sqlite:///{tmp_path}/state.db")
    opened = open_database(f"sqlite:///{tmp_path}/state.db")
    yield opened
    opened.close()


@pytest.fixture
def node(tmp_path: Path, database: Database, objects: ObjectFolder) -> Node:
    return Node(tmp_path / "a", database, objects)


@pytest.fixture
def other(tmp_path: Path, database: Database, objects: ObjectFolder) -> Node:
    return Node(tmp_path / "b", database, objects)


def complete(database: Database, study: str = STUDY) -> None:
    with database.write() as session:
        number = ledger.locked_study_by_uid(session, study).id
        revisions.complete_study(session, number, who="t", why="quiet", now=NOW)


def claim(database: Database) -> claims.Claim | None:
    with database.write() as session:
        return claims.claim_next(
            session, worker="w", lease=timedelta(minutes=1), max_attempts=3, now=NOW + timedelta(minutes=1)
        )


def account(database: Database) -> str:
    with database.read() as session:
        return "\n".join(f"{entry.who}: {entry.what}" for entry in queries.why(session, STUDY).history)


def test_a_study_over_two_nodes_is_claimed_once_all_of_it_can_be_reached(node: Node, other: Node) -> None:
    for number in range(3):
        node.receive(number)
    other.receive(3)
    complete(node.database)
    assert claim(node.database) is None
    assert f"{other.name}: 1 images are not in the object store yet" in account(node.database)
    assert node.uploader.upload() == 3
    assert claim(node.database) is None
    assert other.uploader.upload() == 1
    claimed = claim(node.database)
    assert claimed is not None and len(claimed.paths) == 4
    with other.shared.gathered(claimed.paths) as files:
        assert [hashlib.sha256(file.read_bytes()).hexdigest() for file in files] == [f.stem for f in files]
    assert not files[0].exists()


def test_a_file_leaves_the_spool_when_it_is_safe_and_reception_has_ended(node: Node) -> None:
    node.receive(1)
    node.uploader.upload()
    assert node.uploader.release() == 0 and len(node.files()) == 1  # still being received
    complete(node.database)
    assert node.uploader.release() == 1 and node.files() == []


def test_a_file_that_the_object_store_does_not_show_stays_and_is_uploaded(node: Node) -> None:
    """A node that had no object store before; or one whose object store lost something."""
    node.receive(1, objects=False)
    complete(node.database)
    assert node.uploader.release() == 0
    assert len(node.files()) == 1 and claim(node.database) is None
    assert node.uploader.upload() == 1 and node.uploader.release() == 1
    assert claim(node.database) is not None


def test_killed_between_upload_and_note_it_is_done_again(node: Node) -> None:
    node.receive(1)
    path = str(node.files()[0].relative_to(node.folder))
    broken_off = node.folder / "broken"
    broken_off.write_bytes(b"half")
    node.objects.put([(broken_off, path)])
    assert node.uploader.upload() == 1
    assert node.objects.size(path) == node.files()[0].stat().st_size


def test_while_the_object_store_refuses_everything_waits_and_says_so(node: Node) -> None:
    node.receive(1)
    complete(node.database)
    refusing = Refusing(node.objects._file_system)
    node.objects._file_system = refusing
    uploader = node.uploader
    refusing.why = PermissionError("Access Denied")
    for _ in range(2):
        with pytest.raises(ObjectStoreAway, match="Access Denied"):
            uploader.upload()
    assert claim(node.database) is None
    assert account(node.database).count("waits for the object store") == 1
    with node.database.read() as session:
        (waiting,) = uploads.holdings_by_node(session)
    assert (waiting.node, waiting.studies, waiting.images) == (node.name, 1, 1)
    refusing.why = None
    assert uploader.upload() == 1
    assert "the object store answers again" in account(node.database)
    assert claim(node.database) is not None


def test_images_that_are_nowhere_are_named_and_hold_up_no_others(node: Node) -> None:
    node.receive(1)
    node.files()[0].unlink()
    node.receive(2, study="1.2.4")
    uploader = node.uploader
    uploader.upload()
    assert f"images are neither on {node.name} nor in" in account(node.database)
    assert uploader.upload() == 0
    with node.database.read() as session:
        assert [w.images for w in uploads.holdings_by_node(session)] == [1]


def test_what_comes_again_is_held_by_the_node_that_has_it_now(node: Node, other: Node) -> None:
    node.receive(1)
    assert other.receive(1) is Outcome.IDENTICAL
    complete(node.database)
    assert node.uploader.upload() == 0
    assert other.uploader.upload() == 1
    assert claim(node.database) is not None
    assert node.uploader.release() == 1


def test_an_object_that_is_not_what_was_received_is_not_screened(node: Node, other: Node) -> None:
    node.receive(1)
    path = str(node.files()[0].relative_to(node.folder))
    node.uploader.upload()
    node.files()[0].write_bytes(b"damaged")
    node.objects.put([(node.files()[0], path)])
    with pytest.raises(DamagedObject, match="not what was received"), other.shared.gathered([path]):
        pass


def test_files_are_read_here_or_fetched_and_copies_do_not_stay(node: Node, other: Node) -> None:
    node.receive(1)
    path = str(node.files()[0].relative_to(node.folder))
    assert not (other.shared / path).exists()
    node.uploader.upload()
    assert node.shared / path == node.files()[0]
    copy = other.shared / path
    assert copy.read_bytes() == node.files()[0].read_bytes()
    old = time.time() - KEEP_COPIES_S - 1
    os.utime(copy, (old, old))
    with other.shared.gathered([]):
        assert not copy.exists()


def test_a_purge_deletes_the_objects_and_can_be_repeated(node: Node) -> None:
    node.receive(1)
    complete(node.database)
    path = str(node.files()[0].relative_to(node.folder))
    node.uploader.upload()
    with node.database.write() as session:
        study = ledger.locked_study_by_uid(session, STUDY)
        for state in (StudyState.SCREENING, StudyState.DELIVERING, StudyState.DELIVERED):
            ledger.change_state(session, study, state, who="t", why="t", now=NOW)
    refusing = Refusing(node.objects._file_system)
    node.objects._file_system = refusing
    refusing.why = OSError("timed out")
    later = NOW + timedelta(days=9)
    policy = RetentionPolicy(keep_done=timedelta(days=7))
    retention = Retention(policy, node.database, Spool(node.folder), node.objects)
    with pytest.raises(ObjectStoreAway):
        retention.purge(later)
    refusing.why = None
    done = retention.purge(later)
    assert done.studies == 1 and node.objects.size(path) is None and node.files() == []
    assert node.receive(1) is Outcome.IDENTICAL  # its content has come again
    assert node.uploader.upload() == 1 and node.objects.size(path) is not None


def test_what_another_node_holds_counts_as_held(node: Node) -> None:
    node.receive(1)
    with node.database.read() as session:
        (held,) = commitment.held_instances(session, [f"{STUDY}.1.1"]).values()
    assert held.held_by == node.name


def test_a_url_that_cannot_be_opened_says_what_to_do() -> None:
    with pytest.raises(ObjectStoreUnusable, match=r"spool\.url nothing://x"):
        open_object_folder("nothing://x", {})


def test_a_study_whose_headers_are_on_another_node_is_not_routed_yet(node: Node, other: Node) -> None:
    """Rules that saw it without its attributes might keep it out."""
    node.receive(1)
    rules = [Rule.model_validate({"name": "all", "when": {}, "then": {"screen": True}})]
    router = Router(node.database, other.shared, rules)
    policy = CompletenessPolicy(quiet=timedelta(seconds=5), max_wait=timedelta(minutes=5))
    later = NOW + timedelta(minutes=1)
    assert complete_due(node.database, policy, later, route=router.route) == []
    node.uploader.upload()
    (done,) = complete_due(node.database, policy, later, route=router.route)
    assert done.study_instance_uid == STUDY


def test_every_folder_has_one_name(tmp_path: Path) -> None:
    assert node_of(tmp_path / "a") == node_of(tmp_path / "a") != node_of(tmp_path / "b")


def test_copies_are_cleared_while_others_remove_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = SharedStorage(tmp_path, open_object_folder(f"memory://{tmp_path.name}", {}), lambda: 1e12)
    for study in ("a", "b"):
        (shared.copies / study).mkdir(parents=True)
        (shared.copies / study / "1.dcm").touch()
    look = os.scandir

    def another_worker_is_done(place: Any = ".") -> Any:
        if str(place).endswith("/b"):
            shutil.rmtree(place)
        return look(place)

    monkeypatch.setattr(os, "scandir", another_worker_is_done)
    with shared.gathered([]):
        assert not (shared.copies / "a").exists()

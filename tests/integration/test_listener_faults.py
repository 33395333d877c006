"""A disk that is really full and a database server that is really away: what the sender and the admin see, and that
work goes on by itself afterwards."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE
from sqlalchemy import select

from node.inspection import node_status
from node.outbox import write_durably
from scp.listener import Listener
from scp.policy import ListenerPolicy
from store.database import Database, open_database
from store.migrations import upgrade
from store.models import Instance, Refusal

MakeCT = Callable[..., Dataset]
MEBIBYTE = 2**20
OUT_OF_RESOURCES = 0xA700


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB in memory; skipped where none may be mounted."""
    place = tmp_path / "small"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def fill(disk: Path) -> Path:
    """Leave no room; returns the file that takes it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(4096))
    return filler


class Node:
    """A listener on a store of its own, and what was sent to it."""

    def __init__(self, url: str, storage: Path) -> None:
        upgrade(url)
        self.database = open_database(url)
        policy = ListenerPolicy("LUNGNODE", port=0, reserve_bytes=0, grace_seconds=1.0)
        self._listener = Listener(policy, self.database, storage, lambda: datetime.now(UTC))
        self._listener.start()
        ae = AE("SENDER")
        ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 60
        self._association = ae.associate("127.0.0.1", self._listener.port, ae_title="LUNGNODE")

    def send(self, dataset: Dataset) -> int | None:
        """The status of one C-STORE on the one association."""
        status: int | None = self._association.send_c_store(dataset).get("Status")
        return status

    def stop(self) -> None:
        self._association.abort()
        self._listener.stop()
        self.database.close()


@pytest.fixture
def start_node() -> Iterator[Callable[[str, Path], Node]]:
    """Starts nodes that stop with the test."""
    started: list[Node] = []

    def start(url: str, storage: Path) -> Node:
        started.append(Node(url, storage))
        return started[-1]

    yield start
    for node in started:
        node.stop()


def counts(database: Database) -> tuple[int, list[str]]:
    """How many instances the store has, and what it says of refusals."""
    with database.read() as session:
        return len(session.scalars(select(Instance.id)).all()), list(session.scalars(select(Refusal.why)))


def test_a_spool_on_a_full_disk(
    small_disk: Path, tmp_path: Path, start_node: Callable[[str, Path], Node], ct: MakeCT
) -> None:
    node = start_node(f"sqlite:///{tmp_path / 'lungnode.db'}", small_disk)
    assert node.send(ct(1, size=256)) == 0x0000
    filler = fill(small_disk)
    assert node.send(ct(2, size=256)) == OUT_OF_RESOURCES
    assert list((small_disk / "incoming").iterdir()) == []
    filler.unlink()
    assert node.send(ct(2, size=256)) == 0x0000
    held, refusals = counts(node.database)
    assert held == 2
    assert refusals == ["the spool cannot take it: No space left on device"]
    (told,) = node_status(node.database, datetime.now(UTC)).data["refusals"]
    assert told["what"].endswith("refused with 0xA700: the spool cannot take it: No space left on device")


def test_a_store_on_a_full_disk(
    small_disk: Path,
    tmp_path: Path,
    start_node: Callable[[str, Path], Node],
    ct: MakeCT,
    capsys: pytest.CaptureFixture[str],
) -> None:
    node = start_node(f"sqlite:///{small_disk / 'lungnode.db'}", tmp_path / "storage")
    assert node.send(ct(1)) == 0x0000
    filler = fill(small_disk)
    statuses = {node.send(ct(number)) for number in range(2, 40)}
    assert statuses <= {0x0000, OUT_OF_RESOURCES}, "what the log of the database still takes is taken"
    assert OUT_OF_RESOURCES in statuses
    assert "store does not answer" in capsys.readouterr().out
    filler.unlink()
    assert {node.send(ct(number)) for number in range(2, 40)} == {0x0000}
    assert counts(node.database)[0] == 39


def test_a_store_that_another_program_has_locked(
    tmp_path: Path,
    start_node: Callable[[str, Path], Node],
    ct: MakeCT,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("store.connection.BUSY_TIMEOUT_S", 0.2)
    path = tmp_path / "lungnode.db"
    node = start_node(f"sqlite:///{path}", tmp_path / "storage")
    assert node.send(ct(1)) == 0x0000
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert node.send(ct(2)) == OUT_OF_RESOURCES
        assert "store does not answer" in capsys.readouterr().out
        other.execute("ROLLBACK")
    assert node.send(ct(2)) == 0x0000
    assert counts(node.database)[0] == 2


def test_an_outbox_on_a_full_disk(small_disk: Path) -> None:
    result = small_disk / "seg.dcm"
    write_durably(result, b"old")
    filler = fill(small_disk)
    with pytest.raises(OSError, match="No space left"):
        write_durably(result, bytes(MEBIBYTE))
    assert result.read_bytes() == b"old", "what was delivered from it before is whole"
    filler.unlink()
    write_durably(result, bytes(MEBIBYTE))
    assert result.read_bytes() == bytes(MEBIBYTE)


def test_a_database_server_that_is_restarted(
    postgresql_server: Any,
    tmp_path: Path,
    start_node: Callable[[str, Path], Node],
    ct: MakeCT,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with postgresql_server.database() as url:
        node = start_node(url, tmp_path)
        assert [node.send(ct(1)), node.send(ct(2))] == [0x0000, 0x0000]
        postgresql_server.stop()
        try:
            assert node.send(ct(3)) == OUT_OF_RESOURCES
            assert "store does not answer" in capsys.readouterr().out
        finally:
            postgresql_server.start()
        assert [node.send(ct(3)), node.send(ct(4))] == [0x0000, 0x0000]
        assert counts(node.database)[0] == 4

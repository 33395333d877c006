"""The worker when the database or the object store goes away in the middle of a study: nothing is lost or fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from swift_casework import a_summary

from node.caseworks import Caseworks
from node.worker import Worker
from store import migrations, queries, receipts, revisions
from store.database import Database, open_database
from store.object_folder import ObjectStoreAway

NOW = datetime(2026, 1, 2, tzinfo=UTC)


class NoWait(threading.Event):
    """Waits in no time."""

    def wait(self, timeout: float | None = None) -> bool:
        return self.is_set()


@dataclass
class ComesAndGoes:
    """A database whose next writes fail as if the server were away."""

    inner: Database
    away: int = 0
    refused: int = field(default=0)

    @contextmanager
    def write(self) -> Iterator[Session]:
        if self.away:
            self.away -= 1
            self.refused += 1
            raise OperationalError("COMMIT", {}, Exception("server closed the connection"))
        with self.inner.write() as session:
            yield session

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[ComesAndGoes]:
    url = f"sqlite:///{tmp_path}/state.db"
    migrations.upgrade(url)
    opened = open_database(url)
    with opened.write() as session:
        instance = receipts.ReceivedInstance(
            *("1.2.3", "1.2.3.1", "1.2.3.1.1", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"),
            *("CT", "0" * 64, "1" * 64, 1, "spool/1"),
        )
        receipt = receipts.record_instance(session, instance, association_id=None, now=NOW)
        revisions.complete_study(session, receipt.study_id, who="t", why="quiet", now=NOW)
    yield ComesAndGoes(opened)
    opened.close()


def a_worker(database: Any, storage: Path, casework: Any) -> Worker:
    return Worker(
        database=database,
        storage=storage,
        caseworks=lambda: Caseworks(casework),
        destinations={},
        name="worker-1",
        lease=timedelta(minutes=1),
        max_attempts=2,
        clock=lambda: NOW,
    )


@pytest.mark.parametrize("away", [1, 5])
def test_results_wait_for_the_database(
    database: ComesAndGoes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, away: int
) -> None:

    def work(*_: Any, **__: Any) -> Any:
        database.away = away
        summary = a_summary(3) | {"timings_s": {"load": 0.1}}
        return SimpleNamespace(objects=(), summary=summary, findings=None, volume=None)

    casework = SimpleNamespace(settings_digest="5" * 64, work=work)
    monkeypatch.setattr(Worker, "_draw", lambda *_: None)
    assert a_worker(database, tmp_path, casework).work_one(NoWait())
    assert database.refused == away
    with database.inner.read() as session:
        (study,) = queries.list_studies(session)
    assert study.state == "delivered"


def test_a_worker_waits_until_the_database_is_there(database: ComesAndGoes, tmp_path: Path) -> None:
    stop, database.away = NoWait(), 4
    done: list[str] = []

    def work(*_: Any, **__: Any) -> Any:
        done.append("worked")
        stop.set()
        raise OSError("enough")

    casework = SimpleNamespace(settings_digest="5" * 64, work=work)
    a_worker(database, tmp_path, casework).run(stop, 0.0)
    assert done == ["worked"]
    assert database.refused == 4


class ObjectStore:
    """Stands for the object store: away for a while."""

    def __init__(self, folder: Path, away: int) -> None:
        self.copies = folder / "fetched"
        self.away = away
        self.published: list[list[str]] = []

    @contextmanager
    def gathered(self, paths: tuple[str, ...]) -> Iterator[list[Path]]:
        self._ask()
        yield [self.copies / path for path in paths]

    def publish(self, paths: list[str]) -> None:
        self._ask()
        self.published.append(list(paths))

    def _ask(self) -> None:
        if self.away:
            self.away -= 1
            raise ObjectStoreAway("s3://bucket", ConnectionError("refused"))


def test_a_study_waits_for_the_object_store_without_an_attempt_counted(
    database: ComesAndGoes, tmp_path: Path
) -> None:
    shared: Any = ObjectStore(tmp_path, away=1)
    casework = SimpleNamespace(settings_digest="5" * 64, work=None)
    assert replace(a_worker(database, tmp_path, casework), shared=shared).work_one(NoWait())
    with database.inner.read() as session:
        (study,) = queries.list_studies(session)
        account = queries.why(session, study.study_instance_uid)
    assert (study.state, study.attempts) == ("complete", 0)
    assert account.history[-1].what.endswith("waits for the object store: s3://bucket: refused")


def test_results_wait_for_the_object_store(
    database: ComesAndGoes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared: Any = ObjectStore(tmp_path, away=0)

    def work(*_: Any, **__: Any) -> Any:
        shared.away = 3
        summary = a_summary(3) | {"timings_s": {"load": 0.1}}
        return SimpleNamespace(objects=(), summary=summary, findings=None, volume=None)

    monkeypatch.setattr(Worker, "_draw", lambda *_: None)
    casework = SimpleNamespace(settings_digest="5" * 64, work=work)
    assert replace(a_worker(database, tmp_path, casework), shared=shared).work_one(NoWait())
    assert (shared.away, len(shared.published)) == (0, 1)
    with database.inner.read() as session:
        (study,) = queries.list_studies(session)
    assert study.state == "delivered"

"""Who waits for something in a SQLite store is woken by a file beside it, and looks now and then where it is not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest
from made_up_studies import receiving_study

from store import ledger, wakeups
from store.database import Database, open_database
from store.inotify import FileWatch
from store.migrations import upgrade
from store.states import StudyState
from store.wakeups import LOOKS_SAVED, Topic, announce, open_bell

NEVER = 60.0
"""Seconds between looks, so that whoever returns was woken."""
SOON = 5.0


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A SQLite store."""
    url = f"sqlite:///{tmp_path_factory.mktemp('store') / 'lungnode.db'}"
    upgrade(url)
    opened = open_database(url)
    yield opened
    opened.close()


def waited(wait: Callable[[], None]) -> float:
    began = time.monotonic()
    wait()
    return time.monotonic() - began


@pytest.mark.parametrize("topic", Topic)
def test_all_who_wait_are_woken(database: Database, topic: Topic) -> None:
    stop = threading.Event()
    with open_bell(database, topic) as one, open_bell(database, topic) as other:
        with database.write() as session:
            announce(session, topic)
            announce(session, topic)
        assert waited(lambda: one.wait(stop, NEVER)) < SOON
        assert waited(lambda: other.wait(stop, NEVER)) < SOON


def test_who_waits_is_woken_from_another_thread(database: Database) -> None:
    def ring() -> None:
        with database.write() as session:
            announce(session, Topic.OUTBOX)

    with open_bell(database, Topic.OUTBOX) as bell:
        timer = threading.Timer(0.1, ring)
        timer.start()
        passed = waited(lambda: bell.wait(threading.Event(), NEVER))
        timer.join()
    assert 0.05 < passed < SOON


def test_another_topic_and_what_was_rolled_back_wake_nobody(database: Database) -> None:
    stop = threading.Event()
    with open_bell(database, Topic.OUTBOX) as bell:
        with database.write() as session:
            announce(session, Topic.RECEIVING)
        with pytest.raises(KeyError), database.write() as session:
            announce(session, Topic.OUTBOX)
            raise KeyError
        assert waited(lambda: bell.wait(stop, 0.02)) >= 0.02 * LOOKS_SAVED


def test_a_transaction_rings_once_it_is_committed(database: Database) -> None:
    stop = threading.Event()
    with open_bell(database, Topic.OUTBOX) as bell, database.write() as session:
        announce(session, Topic.OUTBOX)
        session.flush()
        assert waited(lambda: bell.wait(stop, 0.02)) >= 0.02 * LOOKS_SAVED


@pytest.mark.parametrize(
    ("due", "longest"),
    [(None, 1.0), (0.3, 0.3), (5.0, 1.0), (-2.0, 0.1)],
    ids=["nothing known", "soon", "later than the next look", "late, and held by another"],
)
def test_it_is_looked_when_something_falls_due(database: Database, due: float | None, longest: float) -> None:
    with open_bell(database, Topic.OUTBOX) as bell:
        passed = waited(lambda: bell.wait(threading.Event(), 0.1, due))
    assert longest - 0.02 <= passed < longest + 1


def test_a_bell_that_was_replaced_is_heard_again(database: Database) -> None:
    stop = threading.Event()
    with open_bell(database, Topic.COMPLETE) as bell:
        Path(f"{database.url.database}-bell-complete").unlink()
        bell.wait(stop, 0.01)  # notices that the file is gone
        bell.wait(stop, 0.01)
        with database.write() as session:
            announce(session, Topic.COMPLETE)
        assert waited(lambda: bell.wait(stop, NEVER)) < SOON


def test_without_inotify_it_is_looked_as_often_as_configured(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> FileWatch:
        raise OSError(24, "too many watches")

    monkeypatch.setattr(wakeups, "FileWatch", refuse)
    with open_bell(database, Topic.COMPLETE) as bell:
        assert 0.05 <= waited(lambda: bell.wait(threading.Event(), 0.05)) < 0.05 * LOOKS_SAVED


def test_a_file_that_is_not_there_cannot_be_watched(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FileWatch(tmp_path / "none")


@pytest.mark.parametrize(
    ("number", "state", "topic"),
    [(1, StudyState.COMPLETE, Topic.COMPLETE), (2, StudyState.DELIVERING, Topic.OUTBOX)],
)
def test_a_change_of_state_is_announced(
    database: Database, now: datetime, number: int, state: StudyState, topic: Topic
) -> None:
    with database.write() as session:
        session.add(receiving_study(f"1.2.{number}", now, id=number))
    with open_bell(database, topic) as bell:
        with database.write() as session:
            study = ledger.locked_study(session, number)
            ledger.change_state(session, study, state, who="t", why="quiet", now=now)
        assert waited(lambda: bell.wait(threading.Event(), NEVER)) < SOON


def test_a_new_study_is_announced(database: Database, now: datetime) -> None:
    with open_bell(database, Topic.RECEIVING) as bell:
        with database.write() as session:
            study = receiving_study("1.2.3", now, id=3)
            session.add(study)
            session.flush()
            ledger.begin(session, study, who="t", why="first image", now=now)
        assert waited(lambda: bell.wait(threading.Event(), NEVER)) < SOON

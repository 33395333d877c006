"""Loops in threads of their own, and the presence of a process in the store."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from node import loops, parts, presence
from node.configuration import Configuration
from reporting.delivery.loop import Stop
from scp.completeness import CompletedStudy
from store import processes, receipts
from store.database import Database
from store.migrations import upgrade
from store.models import AssociationRecord
from store.receipts import Peer

NOW = datetime(2026, 1, 5, 8, tzinfo=UTC)
AWAY = OperationalError("SELECT 1", {}, Exception("server closed the connection"))


class Unhurried(threading.Event):
    """A stop whose waiting takes no time."""

    def wait(self, timeout: float | None = None) -> bool:
        return self.is_set()


def test_a_loop_goes_on_when_the_store_answers_again() -> None:
    done: list[str] = []
    answers = iter([AWAY, AWAY, None])

    def loop(stop: Stop, _poll: float) -> None:
        error = next(answers)
        done.append("looked" if error is None else "store away")
        if error is not None:
            raise error
        stop.set()  # type: ignore[attr-defined]

    loops.waiting_for_store(loop, lambda: done.append("begins anew"))(Unhurried(), 0.0)
    assert done == ["store away", "begins anew", "store away", "begins anew", "looked"]


@pytest.mark.parametrize("kind", [OperationalError, InterfaceError])
def test_completing_goes_on_when_the_store_answers_again(kind: type[DBAPIError]) -> None:
    def away() -> list[CompletedStudy]:
        raise kind("", {}, Exception("the connection is closed"))

    parts._complete_due(away)


def test_other_errors_are_not_waited_out() -> None:
    def loop(_stop: Stop, _poll: float) -> None:
        raise ValueError("a mistake")

    with pytest.raises(ValueError, match="a mistake"):
        loops.waiting_for_store(loop)(Unhurried(), 0.0)


def test_what_runs_beside_a_part_is_begun_anew_when_it_fails() -> None:
    ended, tries = Unhurried(), []

    def loop(_stop: Stop) -> None:
        tries.append(1)
        if len(tries) < 3:
            raise ValueError("a mistake")
        ended.set()

    loops.start_beside({"priors": loop}, ended)
    for thread in threading.enumerate():
        if thread.name == "priors":
            thread.join(5)
    assert len(tries) == 3


def test_who_has_been_silent_for_a_day_is_forgotten_with_what_it_left_open(database: Database) -> None:
    with database.write() as session:
        for name, silent in (("listener-7@gone", timedelta(days=2)), ("listener-7@away", timedelta(hours=2))):
            processes.beat(session, name=name, kind="listener", doing="running", now=NOW - silent)
            receipts.open_association(
                session, listener=name, peer=Peer("CT", "10.0.0.1"), called_ae="LUNGNODE", now=NOW - silent
            )
    presence.forget_dead(database, "here", "web-1@here", NOW)
    with database.read() as session:
        assert [p.name for p in processes.living(session)] == ["listener-7@away"]
        still_open = select(AssociationRecord.listener).where(AssociationRecord.closed_at.is_(None))
        assert list(session.scalars(still_open)) == ["listener-7@away"]


def test_times_of_a_delivery_are_the_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    destination = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104}
    url = f"sqlite:///{tmp_path}/lungnode.db"
    upgrade(url)
    configuration = Configuration.model_validate(
        {"database": {"url": url}, "storage": {"path": tmp_path}, "destinations": [destination]}
    )
    stop, times = threading.Event(), []

    def look(loop: Any, _stop: Stop, _poll: float) -> None:
        times.append(loop.clock())
        if len(times) == 2:
            stop.set()

    monkeypatch.setattr(presence, "store_clock", lambda database, local: lambda: NOW)
    monkeypatch.setattr("reporting.delivery.loop.Courier.run", look)
    monkeypatch.setattr("reporting.delivery.commitment.Committer.run", look)
    parts.run_delivery(configuration, stop, lambda: None)
    assert times == [NOW, NOW]

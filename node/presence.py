"""A process's presence in the store: its name, its heartbeat, the clock that counts, and what the dead have left.

A heartbeat says that every loop of the part comes round: people and other processes see by it who lives.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy.orm import Session

from node.configuration import Configuration
from node.service_manager import hanging_loops
from reporting.delivery.loop import Stop
from store import processes, receipts, recovery, set_back
from store.clock import Clock, store_clock
from store.connection import STORE_AWAY
from store.database import Database, open_database

PULSE_SECONDS = 10.0
FORGOTTEN_AFTER = timedelta(days=1)
"""A process of another machine that has been silent for so long is not waited for."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("node")


def utc_now() -> datetime:
    """The clock of this machine."""
    return datetime.now(UTC)


@contextmanager
def present_in_store(
    kind: str, configuration: Configuration, stop: Stop
) -> Iterator[tuple[Database, str, Clock]]:
    """The open store, this process's name in it and the store's clock, with a pulse while its loops come round."""
    database = open_database(configuration.database.url)
    host = socket.gethostname()
    name = f"{kind}-{os.getpid()}@{host}"[:128]
    clock = store_clock(database, utc_now)
    done = threading.Event()
    thread = threading.Thread(
        target=pulse,
        args=(database, name, kind, stop, done, clock),
        name="pulse",
        daemon=True,
    )
    with database.write() as session:
        _follow_clock(session, clock())
    forget_dead(database, host, name, clock())
    thread.start()
    try:
        yield database, name, clock
    finally:
        done.set()
        thread.join()
        _sign_off(database, name)
        database.close()


def _sign_off(database: Database, name: str) -> None:
    """Say that this process ends; a store that is away learns it from the next one to start here."""
    try:
        with database.write() as session:
            processes.sign_off(session, name=name)
    except STORE_AWAY as error:
        log.warning("not signed off: the store does not answer", why=type(error).__name__)


def pulse(database: Database, name: str, kind: str, stop: Stop, done: threading.Event, clock: Clock) -> None:
    """Beat in the store while every loop of the part comes round: without the beat people learn of one that hangs."""
    while True:
        hanging = hanging_loops(stop)
        try:
            if hanging:
                log.error("part hangs", loops=hanging)
            else:
                with database.write() as session:
                    _follow_clock(session, clock())
                    processes.beat(session, name=name, kind=kind, doing="running", now=clock())
        except Exception as error:  # noqa: BLE001 - a missed beat is seen by those who look; the part goes on
            log.warning("pulse missed", why=str(error))
        if done.wait(PULSE_SECONDS):
            return


def _follow_clock(session: Session, now: datetime) -> None:
    behind = set_back.follow(session, now)
    if behind:
        log.warning(
            "the clock was set back: what waits is moved with it", seconds=round(behind.total_seconds())
        )


def forget_dead(database: Database, host: str, own_name: str, now: datetime) -> None:
    """Sign off processes that are known to be dead, and free what they held.

    Of this machine those that do not run; whoever had our own name is dead too: process numbers come again. Of others
    those that have been silent for FORGOTTEN_AFTER: a machine may be gone for good, a container always is.
    """
    with database.write() as session:
        for process in processes.living(session):
            pid, at, where = process.name.rpartition("-")[2].partition("@")
            dead = pid.isdecimal() and not _is_running(int(pid))
            here = bool(at) and where == host and (dead or process.name == own_name)
            if here or now - process.heartbeat_at > FORGOTTEN_AFTER:
                processes.sign_off(session, name=process.name)
                recovery.end_leases_of(session, process.name, now)
                receipts.close_left_over(session, listener=process.name, now=now)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

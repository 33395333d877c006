"""Waking a worker when a study becomes complete: LISTEN/NOTIFY on PostgreSQL, looking again and again on SQLite.

A wake-up is a hint. Whoever misses one looks by itself after a while; no study waits for good.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol

import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from store.database import Database

CHANNEL = "lungnode_complete"
LISTENING_SECONDS = 10.0
"""Who is woken still looks this often: retries fall due and leases run out without a notification."""
_SLICE_SECONDS = 0.25
"""How long a stop may go unnoticed."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("store")


class Stop(Protocol):
    """What tells a process to end: threading.Event is one."""

    def is_set(self) -> bool:
        """Whether to end now."""
        ...

    def wait(self, timeout: float) -> bool:
        """Wait until told to end, at most `timeout` seconds; whether told."""
        ...


class Bell(Protocol):
    """Something to wait at for a complete study. Use as a context manager."""

    def wait(self, stop: Stop, poll_seconds: float) -> None:
        """Wait until there may be a complete study, or until told to stop."""
        ...

    def __enter__(self) -> Bell: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...


def announce_complete(session: Session) -> None:
    """Wake who waits for complete studies, once the transaction is committed."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text(f"NOTIFY {CHANNEL}"))


def complete_studies_bell(database: Database) -> Bell:
    """The bell of this kind of database."""
    return NotifiedBell(database) if database.engine.dialect.name == "postgresql" else PollingBell()


class PollingBell:
    """Waits for the time to look again."""

    def wait(self, stop: Stop, poll_seconds: float) -> None:
        stop.wait(poll_seconds)

    def __enter__(self) -> PollingBell:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""


class NotifiedBell:
    """LISTENs on a connection of its own, which is opened anew when it is lost."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._listening: Any = None
        self._lost: tuple[type[Exception], ...] = (
            SQLAlchemyError,
            OSError,
            database.engine.dialect.loaded_dbapi.Error,
        )

    def wait(self, stop: Stop, poll_seconds: float) -> None:
        try:
            if self._listening is None:
                self._listening = self._listen()
                return  # what became complete before is found by looking now
            self._wait(stop)
        except self._lost as error:
            log.warning("notifications are lost: looking instead", why=type(error).__name__)
            self._drop()
            stop.wait(poll_seconds)

    def __enter__(self) -> NotifiedBell:
        return self

    def __exit__(self, *_: object) -> None:
        self._drop()

    def _wait(self, stop: Stop) -> None:
        deadline = self._clock() + LISTENING_SECONDS
        while not stop.is_set() and self._clock() < deadline:
            for _ in self._listening.notifies(timeout=_SLICE_SECONDS, stop_after=1):
                return

    def _listen(self) -> Any:
        connection = self._database.engine.raw_connection()
        driver: Any = connection.driver_connection
        connection.detach()  # from now on it is no connection of the pool's
        driver.autocommit = True
        driver.execute(f"LISTEN {CHANNEL}")
        return driver

    def _drop(self) -> None:
        if self._listening is not None:
            self._listening.close()
            self._listening = None

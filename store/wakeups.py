"""Waking who waits for something in the store: LISTEN/NOTIFY on PostgreSQL, a file that is touched beside SQLite's.

A wake-up is a hint. Whoever misses one looks by itself after a while; nothing waits for good.
"""

from __future__ import annotations

import contextlib
import enum
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import structlog
from sqlalchemy import event, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from store.database import Database
from store.inotify import FileWatch

CHANNEL = "lungnode_complete"
LISTENING_SECONDS = 10.0
"""Who is woken by PostgreSQL still looks this often: retries fall due and leases run out without a notification."""
LOOKS_SAVED = 10
"""Who is woken by a file still looks, so many times less often than one who is not."""
_SLICE_SECONDS = 0.25
"""How long a stop may go unnoticed."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("store")


class Topic(enum.StrEnum):
    """What one may wait for."""

    RECEIVING = "receiving"
    """A study is being received."""
    COMPLETE = "complete"
    """A study waits to be screened."""
    OUTBOX = "outbox"
    """A delivery falls due, now or at a time that it did not before."""
    COMMITMENT = "commitment"
    """A sender's request for commitment is to be reported on."""


class Stop(Protocol):
    """What tells a process to end: threading.Event is one."""

    def is_set(self) -> bool:
        """Whether to end now."""
        ...

    def wait(self, timeout: float) -> bool:
        """Wait until told to end, at most `timeout` seconds; whether told."""
        ...


class Bell(Protocol):
    """Something to wait at for a topic. Use as a context manager; what is rung from its beginning on is heard."""

    def wait(self, stop: Stop, poll_seconds: float, due_seconds: float | None = None) -> None:
        """Wait until it is worth looking again, or until told to stop.

        poll_seconds: how often to look where nothing rings. due_seconds: when something falls due that is known of.
        """
        ...

    def __enter__(self) -> Bell: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...


def announce(session: Session, topic: Topic) -> None:
    """Wake who waits for `topic`, once the transaction is committed."""
    bind = session.get_bind()
    if bind.dialect.name != "sqlite":
        if topic is Topic.COMPLETE:
            session.execute(text(f"NOTIFY {CHANNEL}"))
        return
    to_ring: set[Topic] = session.info.setdefault("to_ring", set())
    if topic not in to_ring:
        to_ring.add(topic)
        path = _bell_file(bind.engine.url, topic)
        event.listen(session, "after_commit", lambda _: _touch(path), once=True)


def open_bell(database: Database, topic: Topic) -> Bell:
    """The bell of this kind of database.

    On PostgreSQL complete studies are announced, to workers on any machine; a connection for every loop that waits for
    something else would cost more than its looking.
    """
    if database.engine.dialect.name == "sqlite":
        return FileBell(_bell_file(database.url, topic))
    return NotifiedBell(database) if topic is Topic.COMPLETE else PollingBell()


class PollingBell:
    """Waits for the time to look again."""

    def wait(self, stop: Stop, poll_seconds: float, due_seconds: float | None = None) -> None:
        stop.wait(poll_seconds)

    def __enter__(self) -> PollingBell:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""


class FileBell:
    """Waits for a file to be touched; where the kernel does not tell, for the time to look again."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._watch: FileWatch | None = None

    def wait(self, stop: Stop, poll_seconds: float, due_seconds: float | None = None) -> None:
        if self._watch is not None and self._watch.in_force:
            longest = poll_seconds * LOOKS_SAVED
            pause = longest if due_seconds is None else min(longest, max(due_seconds, poll_seconds))
            self._wait(self._watch, stop, pause)
            return
        self._drop()
        self._open()
        if self._watch is None:  # else: what was rung meanwhile is found by looking now
            stop.wait(poll_seconds)

    def __enter__(self) -> FileBell:
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        self._drop()

    def _wait(self, watch: FileWatch, stop: Stop, seconds: float) -> None:
        deadline = self._clock() + seconds
        while not stop.is_set() and (left := deadline - self._clock()) > 0:
            if watch.wait(min(left, _SLICE_SECONDS)):
                return

    def _open(self) -> None:
        try:
            self._path.touch(mode=0o600)
            self._watch = FileWatch(self._path)
        except OSError as error:
            log.debug("not woken: looking instead", file=self._path.name, why=error.strerror)

    def _drop(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None


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

    def wait(self, stop: Stop, poll_seconds: float, due_seconds: float | None = None) -> None:
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


def _bell_file(url: URL, topic: Topic) -> Path:
    return Path(f"{url.database}-bell-{topic}")


def _touch(path: Path) -> None:
    """Ring. Where nobody has ever waited there is no file, and one that may not be touched is found by looking."""
    with contextlib.suppress(OSError):
        os.utime(path)

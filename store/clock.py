"""One clock for all nodes of a store: the database's. Leases and waiting times then do not mind clocks that differ.

SQLite has one machine and so one clock. PostgreSQL is asked from time to time how far this machine's clock is off, and
while it does not answer the last difference goes on being used. Between two questions time is counted monotonically, so
that setting the machine's clock does no harm.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from store.database import Database

REFRESH_SECONDS = 60.0
NOTABLE_SKEW = timedelta(seconds=5)

log: structlog.stdlib.BoundLogger = structlog.get_logger("store")

Clock = Callable[[], datetime]


def store_clock(database: Database, local: Clock) -> Clock:
    """The clock that times in this store are to be taken from."""
    return DatabaseClock(database, local) if database.engine.dialect.name == "postgresql" else local


class DatabaseClock:
    """The database server's time (UTC). Threads may share it.

    local: this machine's clock; what is used until the database has answered for the first time.
    """

    def __init__(
        self, database: Database, local: Clock, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._local = local
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._asked = float("-inf")
        self._base = local() - timedelta(seconds=monotonic())

    def __call__(self) -> datetime:
        with self._lock:
            if self._monotonic() - self._asked >= REFRESH_SECONDS:
                self._ask()
            return self._base + timedelta(seconds=self._monotonic())

    def _ask(self) -> None:
        before = self._asked = self._monotonic()
        try:
            with self._database.engine.connect() as connection:
                said: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        except SQLAlchemyError as error:
            log.warning("database's clock not read: the last difference is used", why=type(error).__name__)
            return
        middle = (before + self._monotonic()) / 2
        self._base = said.astimezone(UTC) - timedelta(seconds=middle)
        skew = self._local() - (self._base + timedelta(seconds=self._monotonic()))
        if abs(skew) > NOTABLE_SKEW:
            log.warning(
                "this machine's clock differs from the database's, which counts",
                seconds=round(skew.total_seconds()),
            )

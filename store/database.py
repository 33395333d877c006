"""Opening the store: SQLite (WAL, every commit on disk) or PostgreSQL, one transaction at a time.

database = open_database("sqlite:////var/lib/lungnode/lungnode.db")
with database.write() as session:
    claims.claim_next(session, ...)
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

from sqlalchemy import Engine
from sqlalchemy.engine import URL
from sqlalchemy.orm import Session

from store.connection import create_store_engine
from store.migrations import check_current


@dataclass(frozen=True)
class Database:
    """A store that is open. Threads may share it; each `read` and `write` is a transaction of its own."""

    engine: Engine
    url: URL
    writer: Engine
    _writing: threading.RLock = field(default_factory=threading.RLock, repr=False, compare=False)

    def turn(self) -> AbstractContextManager[object]:
        """To be held around a transaction that changes the store.

        SQLite has one writer at a time, and who finds it busy sleeps up to 0.1 s before looking again: threads of
        one process wait for each other here instead, and wake at once.
        """
        return self._writing if self.engine.dialect.name == "sqlite" else nullcontext()

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that changes the store; commits at the end, rolls back when an exception leaves it.

        On SQLite it takes the write lock at its start, since a lock taken half-way fails at once instead of
        waiting (SQLITE_BUSY while upgrading a read snapshot).
        """
        with self.turn(), Session(self.writer) as session, session.begin():
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that only reads: one consistent snapshot on SQLite, read committed on PostgreSQL."""
        with Session(self.engine) as session, session.begin():
            yield session

    def close(self) -> None:
        """Close every connection; the database can be opened again."""
        self.engine.dispose()


def open_database(url: str) -> Database:
    """Open a store whose schema is current.

    Raises store.migrations.SchemaMismatch where it is not: run `store.migrations.upgrade(url)` before, once.
    """
    engine = create_store_engine(url)
    check_current(engine)
    return Database(engine, engine.url, writer=engine.execution_options(lungnode_write=True))

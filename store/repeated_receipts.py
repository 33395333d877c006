"""The short way to record an instance: the next one of a series of which its association has brought one before.

Almost every instance of a CT series is of this kind, and its sender waits for the commit. So the statements are
prepared, their connection stays open, and instances that several associations bring at the same time share one
commit. Whatever is not of this kind, or goes wrong, is left to `store.receipts`, which decides in every case.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

import structlog
from sqlalchemy import PoolProxiedConnection, Table, bindparam, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.sql.dml import Insert

from store.database import Database
from store.models import Instance, Study
from store.prepared_statement import PreparedStatement
from store.receipts import NO_LIMIT, ReceivedInstance
from store.states import StudyState

LOGGER = structlog.get_logger(__name__)

_INSTANCES = cast(Table, Instance.__table__)
_STUDIES = cast(Table, Study.__table__)
_COLUMNS = (
    "study_id",
    "series_id",
    "association_id",
    "sop_instance_uid",
    "sop_class_uid",
    "transfer_syntax_uid",
    "sha256",
    "size",
    "path",
    "received_at",
    "kept_out",
    "held_by",
)


@dataclass
class _Waiting:
    """One instance that waits for its commit. recorded: None until that has been tried."""

    values: Mapping[str, Any]
    recorded: bool | None = None


class RepeatedReceipts:
    """The short way of one listener; its threads share it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        dialect = database.engine.dialect
        self._error = dialect.import_dbapi().Error
        self._begin = "BEGIN IMMEDIATE" if dialect.name == "sqlite" else None
        self._insert = PreparedStatement(_insert(dialect), dialect)
        self._count = PreparedStatement(_count(), dialect)
        self._queue = threading.Lock()
        self._turn = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._connection: PoolProxiedConnection | None = None

    def record(
        self,
        instance: ReceivedInstance,
        *,
        study_id: int,
        series_id: int,
        association_id: int,
        now: datetime,
        max_study_bytes: int = NO_LIMIT,
    ) -> bool:
        """Record a further instance of a known series in a study that is being received; True: it is committed.

        False where that is not the case (the study has gone on or is full, the UID is taken), or the store did not
        answer: then `store.receipts.record_instance` is to decide.
        """
        values = {name: getattr(instance, name, None) for name in _COLUMNS}
        values |= {"study_id": study_id, "series_id": series_id, "association_id": association_id}
        values |= {"received_at": now, "max_study_bytes": max_study_bytes}
        mine = _Waiting(values)
        with self._queue:
            self._waiting.append(mine)
        # Who has the turn commits what all others have brought meanwhile; they then find theirs done
        with self._turn:
            if mine.recorded is None:
                self._commit_waiting()
        return bool(mine.recorded)

    def close(self) -> None:
        """Let the connection go; the next `record` opens another."""
        with self._turn:
            self._disconnect()

    def _commit_waiting(self) -> None:
        with self._queue:
            batch, self._waiting = self._waiting, []
        committed = False
        try:
            with self._database.turn():
                self._commit(batch)
            committed = True
        except (self._error, SQLAlchemyError) as error:
            LOGGER.warning("short way to the store failed", why=type(error).__name__)
        finally:
            if not committed:
                self._disconnect()  # it may be broken, and it holds a transaction
            for one in batch:
                one.recorded = bool(one.recorded)

    def _commit(self, batch: list[_Waiting]) -> None:
        """Record what can be recorded of a batch. Raises the driver's Error, and SQLAlchemyError."""
        if self._connection is None:
            self._connection = self._database.engine.raw_connection()
        cursor = self._connection.cursor()
        if self._begin is not None:
            cursor.execute(self._begin)
        recorded = []
        # In one order, else two listeners that lock two studies wait for each other
        for one in sorted(batch, key=lambda w: w.values["study_id"]):
            cursor.execute(self._insert.text, self._insert.parameters(one.values))
            if cursor.rowcount == 1:
                cursor.execute(self._count.text, self._count.parameters(one.values))
                recorded.append(one)
        self._connection.commit()
        cursor.close()
        for one in recorded:
            one.recorded = True

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(self._error):
                connection.invalidate()


def _insert(dialect: Dialect) -> Insert:
    """Insert the instance if its study is being received and has room, and neither its UID nor its path is taken."""
    given = [bindparam(name, type_=_INSTANCES.c[name].type).label(name) for name in _COLUMNS]
    open_study = (
        select(*given)
        .where(
            _STUDIES.c.id == bindparam("study_id"),
            _STUDIES.c.state == StudyState.RECEIVING,
            _STUDIES.c.byte_count + bindparam("size") <= bindparam("max_study_bytes"),
        )
        .with_for_update()
    )
    insert = postgresql.insert if dialect.name == "postgresql" else sqlite.insert
    return insert(_INSTANCES).from_select(_COLUMNS, open_study).on_conflict_do_nothing()


def _count() -> Any:
    """Count the instance in its study, which `_insert` has found open in this transaction."""
    return (
        update(_STUDIES)
        .where(_STUDIES.c.id == bindparam("study_id", type_=_STUDIES.c.id.type))
        .values(
            instance_count=_STUDIES.c.instance_count + 1,
            byte_count=_STUDIES.c.byte_count + bindparam("size"),
            last_received_at=bindparam("received_at", type_=_STUDIES.c.last_received_at.type),
        )
    )

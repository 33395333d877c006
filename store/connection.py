"""Connections to the store with the settings that durability asks for."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import InterfaceError, OperationalError

STORE_AWAY = (OperationalError, InterfaceError)
"""What a store that does not answer raises; the second of a connection that turns out to be closed."""
BUSY_TIMEOUT_S = 10.0
PATIENCE_WITH_SERVER = {
    "connect_timeout": 10,
    "keepalives_idle": 20,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}
"""libpq's connection parameters: a server that vanished without a word (power, cable, firewall) is noticed within 40 s.
By itself the kernel waits a quarter of an hour for an answer. What the URL says of these counts instead."""


def create_store_engine(url: str) -> Engine:
    """An engine with the settings that durability asks for; does not touch the schema."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "postgresql":
        patience = {key: value for key, value in PATIENCE_WITH_SERVER.items() if key not in parsed.query}
        return create_engine(parsed, connect_args=patience, pool_pre_ping=True, pool_size=8, max_overflow=24)
    _create_private_file(parsed)
    engine = create_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_S}, pool_size=8, max_overflow=256)
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _create_private_file(url: URL) -> None:
    """Make the database file readable by the service user alone; WAL and SHM files inherit its mode."""
    if not url.database or url.database == ":memory:":
        raise ValueError("the store needs a file: several threads and processes share it")
    path = Path(url.database)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600, exist_ok=True)


def _configure_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # _begin_sqlite opens transactions, not the driver
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    write = connection.get_execution_options().get("lungnode_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

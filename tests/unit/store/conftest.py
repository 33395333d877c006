"""A store of its own for each test, on SQLite and, where a server can be started, on PostgreSQL."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from store.database import Database, open_database
from store.migrations import upgrade

NOW = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)


@pytest.fixture
def now() -> datetime:
    """When every test begins."""
    return NOW


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """URL of a PostgreSQL server that this session starts on a socket of its own; skipped where it cannot."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    programs = _postgresql_programs()
    # Not below pytest's own folder: that one is closed to the user that PostgreSQL runs as
    with tempfile.TemporaryDirectory(prefix="lungnode-postgresql-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        user = _as_unprivileged(folder)
        options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
        try:
            _run(
                user, programs / "initdb", "-D", folder / "data", "-A", "trust", "-U", "lungnode", "--no-sync"
            )
            _run(
                user,
                *(
                    programs / "pg_ctl",
                    "-D",
                    folder / "data",
                    "-w",
                    "-l",
                    folder / "log",
                    "-o",
                    options,
                    "start",
                ),
            )
        except subprocess.CalledProcessError as error:
            pytest.skip(f"PostgreSQL cannot be started: {error.stderr[-200:]}")
        yield f"postgresql+psycopg://lungnode@/postgres?host={folder}"
        _run(user, programs / "pg_ctl", "-D", folder / "data", "-w", "-m", "immediate", "stop")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of an empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'store' / 'lungnode.db'}"
        return
    server = request.getfixturevalue("postgresql_server")
    name = f"test_{uuid.uuid4().hex}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield server.replace("/postgres?", f"/{name}?")
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    """A migrated store."""
    upgrade(url)
    database = open_database(url)
    yield database
    database.close()


def _postgresql_programs() -> Path:
    candidates = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = shutil.which("initdb")
    if found:
        candidates.append(Path(found).resolve().parent)
    for folder in candidates:
        if (folder / "initdb").is_file() and (folder / "pg_ctl").is_file():
            return folder
    pytest.skip("PostgreSQL's initdb and pg_ctl are not installed")


def _as_unprivileged(folder: Path) -> list[str]:
    """PostgreSQL refuses to run as root: become another user where this is root."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("PostgreSQL does not run as root and setpriv is not installed")
    shutil.chown(folder, user="nobody")
    return ["setpriv", "--reuid=nobody", "--clear-groups"]


def _run(user: list[str], *command: str | Path) -> None:
    subprocess.run([*user, *map(str, command)], capture_output=True, text=True, timeout=60, check=True)

"""Fixtures that every suite shares."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real CT data: LUNGNODE_DATA, else ../shared/data beside the checkout; skipped where absent."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    path = Path(os.environ.get("LUNGNODE_DATA", beside))
    if not path.is_dir():
        pytest.skip(f"real CT data not found at {path}; set LUNGNODE_DATA")
    return path


@dataclass(frozen=True)
class PostgreSQLServer:
    """A server of these tests on a socket in `folder`. user: the command that becomes the user it runs as."""

    folder: Path
    programs: Path
    user: list[str]

    @property
    def url(self) -> str:
        """URL of its database `postgres`."""
        return f"postgresql+psycopg://lungnode@/postgres?host={self.folder}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = f"-c listen_addresses='' -c unix_socket_directories={self.folder} -c fsync=off"
        self._control("-w", "-l", self.folder / "log", "-o", options, "start")

    def stop(self) -> None:
        """Stop it at once: connections break off."""
        self._control("-w", "-m", "immediate", "stop")

    @contextmanager
    def database(self) -> Iterator[str]:
        """URL of a new, empty database, which is gone afterwards."""
        name = f"test_{uuid.uuid4().hex}"
        engine = create_engine(self.url, isolation_level="AUTOCOMMIT", pool_pre_ping=True)
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        yield self.url.replace("/postgres?", f"/{name}?")
        with engine.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        engine.dispose()

    def make(self) -> None:
        """Make its files."""
        options = ("-A", "trust", "-U", "lungnode", "--no-sync")
        _run(self.user, self.programs / "initdb", "-D", self.folder / "data", *options)

    def _control(self, *arguments: str | Path) -> None:
        _run(self.user, self.programs / "pg_ctl", "-D", self.folder / "data", *arguments)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgreSQLServer]:
    """A PostgreSQL server that this session starts on a socket of its own; skipped where it cannot."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    programs = _postgresql_programs()
    # Not below pytest's own folder: that one is closed to the user that PostgreSQL runs as
    with tempfile.TemporaryDirectory(prefix="lungnode-postgresql-", ignore_cleanup_errors=True) as name:
        server = PostgreSQLServer(Path(name), programs, _as_unprivileged(Path(name)))
        try:
            server.make()
            server.start()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"PostgreSQL cannot be started: {error.stderr[-200:]}")
        yield server
        server.stop()


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

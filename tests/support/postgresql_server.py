"""A PostgreSQL server on a socket of its own, for tests and benchmarks."""

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

from sqlalchemy import create_engine, text


class NoServer(Exception):
    """No server can be started here; one line with the reason."""


@dataclass(frozen=True)
class PostgreSQLServer:
    """A server of these tests on a socket in `folder`. user: the command that becomes the user it runs as.

    hosts, port: addresses that it listens on, too, without asking for a password.
    """

    folder: Path
    programs: Path
    user: list[str]
    hosts: tuple[str, ...] = ()
    port: int = 5432

    @property
    def url(self) -> str:
        """URL of its database `postgres`."""
        return f"postgresql+psycopg://lungnode@/postgres?host={self.folder}&port={self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        listening = f"-c listen_addresses='{','.join(self.hosts)}' -p {self.port}"
        options = f"{listening} -c unix_socket_directories={self.folder} -c fsync=off"
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
        if self.hosts:
            with (self.folder / "data" / "pg_hba.conf").open("a") as rules:
                rules.write("host all all all trust\n")

    def _control(self, *arguments: str | Path) -> None:
        _run(self.user, self.programs / "pg_ctl", "-D", self.folder / "data", *arguments)


@contextmanager
def started_server(hosts: tuple[str, ...] = (), port: int = 5432) -> Iterator[PostgreSQLServer]:
    """A server that runs while the context lasts. Raises NoServer."""
    programs = _installed_programs()
    # Not below pytest's own folder: that one is closed to the user that PostgreSQL runs as
    with tempfile.TemporaryDirectory(prefix="lungnode-postgresql-", ignore_cleanup_errors=True) as name:
        server = PostgreSQLServer(Path(name), programs, _as_unprivileged(Path(name)), hosts, port)
        try:
            server.make()
            server.start()
        except subprocess.CalledProcessError as error:
            raise NoServer(f"PostgreSQL cannot be started: {error.stderr[-200:]}") from None
        try:
            yield server
        finally:
            server.stop()


def _installed_programs() -> Path:
    candidates = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = shutil.which("initdb")
    if found:
        candidates.append(Path(found).resolve().parent)
    for folder in candidates:
        if (folder / "initdb").is_file() and (folder / "pg_ctl").is_file():
            return folder
    raise NoServer("PostgreSQL's initdb and pg_ctl are not installed")


def _as_unprivileged(folder: Path) -> list[str]:
    """PostgreSQL refuses to run as root: become another user where this is root."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        raise NoServer("PostgreSQL does not run as root and setpriv is not installed")
    shutil.chown(folder, user="nobody")
    return ["setpriv", "--reuid=nobody", "--clear-groups"]


def _run(user: list[str], *command: str | Path) -> None:
    subprocess.run([*user, *map(str, command)], capture_output=True, text=True, timeout=60, check=True)

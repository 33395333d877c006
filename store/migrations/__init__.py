"""The schema of the store, as Alembic migrations that travel inside the package."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

from store.connection import create_store_engine

ADVISORY_LOCK = 7_135_016
"""The key under which nodes that start together on PostgreSQL wait for each other's migration."""


class SchemaMismatch(Exception):
    """The database has another schema than this program; the message says which way and what to do."""


def upgrade(url: str, revision: str = "head") -> tuple[str | None, str | None]:
    """Bring the schema of the database at `url` to `revision`; returns the revision before and after.

    One transaction: a migration that is killed leaves the schema that was there. Two nodes that start together
    wait for each other, the second finds nothing to do. Raises SchemaMismatch where the database is newer than
    this program.
    """
    engine = create_store_engine(url)
    try:
        return _upgrade(engine, revision)
    finally:
        engine.dispose()


def _upgrade(engine: Engine, revision: str) -> tuple[str | None, str | None]:
    config = _config()
    with engine.execution_options(lungnode_write=True).connect() as connection, connection.begin():
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})")
        before = MigrationContext.configure(connection).get_current_revision()
        _refuse_newer(before)
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        after = MigrationContext.configure(connection).get_current_revision()
    return before, after


def current(engine: Engine) -> str | None:
    """The schema revision of the database; None where it is empty."""
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def head() -> str:
    """The schema revision of this program."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    if revision is None:
        raise RuntimeError("the package has no migration")
    return revision


def check_current(engine: Engine) -> None:
    """Raises SchemaMismatch unless the database has the schema of this program."""
    found = current(engine)
    if found == head():
        return
    _refuse_newer(found)
    raise SchemaMismatch(
        f"the database has schema {found or 'none'}, this program needs {head()}: run `lungnode db upgrade`"
    )


def _refuse_newer(revision: str | None) -> None:
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if revision is not None and revision not in known:
        raise SchemaMismatch(
            f"the database has schema {revision}, newer than this program's {head()}: install the newer program"
        )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    return config

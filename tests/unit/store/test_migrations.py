"""The schema: models and migrations agree, on both databases."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text

from store.connection import create_store_engine
from store.database import Database, open_database
from store.migrations import SchemaMismatch, current, head, upgrade
from store.models import Base


def test_models_and_migrations_agree(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_upgrade_says_what_it_did_and_does_it_once(url: str) -> None:
    assert upgrade(url) == (None, head())
    assert upgrade(url) == (head(), head())


def test_an_empty_database_is_not_opened(url: str) -> None:
    with pytest.raises(SchemaMismatch, match="schema none"):
        open_database(url)


def test_a_newer_database_is_refused(database: Database, url: str) -> None:
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for open_it in (open_database, upgrade):
        with pytest.raises(SchemaMismatch, match="newer than this program"):
            open_it(url)


def test_a_migration_that_dies_leaves_what_was_there(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("alembic.op.create_index", die)
    monkeypatch.setattr("alembic.operations.base.BatchOperations.create_index", die)
    with pytest.raises(KeyboardInterrupt):
        upgrade(url)
    monkeypatch.undo()
    engine = create_store_engine(url)
    assert current(engine) is None
    engine.dispose()
    assert upgrade(url) == (None, head())


def test_the_sqlite_file_is_private_and_durable(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "lungnode.db"
    upgrade(f"sqlite:///{path}")
    database = open_database(f"sqlite:///{path}")
    with database.write() as session:
        session.execute(text("DELETE FROM processes"))
        assert session.scalar(text("PRAGMA journal_mode")) == "wal"
        assert session.scalar(text("PRAGMA synchronous")) == 2
        assert session.scalar(text("PRAGMA foreign_keys")) == 1
        modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert set(modes.values()) == {0o600}
    database.close()


def test_a_store_in_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a file"):
        create_store_engine("sqlite://")

"""A copy of the store, taken while the node runs."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy.engine import make_url

from node.command_options import CommandError


def backup_store(url: str, target: Path) -> int:
    """Copy the SQLite store at `url` to `target`, whole or not at all; returns its size in bytes.

    SQLite's own online backup gives one consistent state, write-ahead log included. Raises CommandError for another
    kind of store, where there is no store, and where `target` is there already.
    """
    source = make_url(url)
    if source.get_backend_name() != "sqlite" or not source.database:
        raise CommandError("the store is PostgreSQL: back it up with pg_dump")
    if not Path(source.database).is_file():
        raise CommandError(f"{source.database}: there is no store yet")
    if target.exists():
        raise CommandError(f"{target} is there already; name another file")
    part = target.with_name(target.name + ".part")
    try:
        part.touch(mode=0o600)
        with closing(sqlite3.connect(source.database)) as store, closing(sqlite3.connect(part)) as copy:
            store.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")
        part.replace(target)
    except (OSError, sqlite3.Error) as error:
        part.unlink(missing_ok=True)
        raise CommandError(f"{target}: not written ({error})") from error
    return target.stat().st_size

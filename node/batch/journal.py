"""What a batch knows: which files belong to which study, and what became of each study. One SQLite file in --out.

Every entry is committed before the next study begins, so that a batch that was killed goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

State = Literal["done", "skipped", "failed"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS folders (path TEXT PRIMARY KEY, changed_ns INTEGER NOT NULL, files INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, folder TEXT NOT NULL, study TEXT);
CREATE INDEX IF NOT EXISTS files_by_study ON files (study);
CREATE INDEX IF NOT EXISTS files_by_folder ON files (folder);
CREATE TABLE IF NOT EXISTS studies (
  uid TEXT PRIMARY KEY, content TEXT NOT NULL, state TEXT NOT NULL, why TEXT NOT NULL, finding TEXT NOT NULL,
  seconds REAL NOT NULL
);
"""


@dataclass(frozen=True)
class Outcome:
    """What became of a study.

    content: digest of what it consisted of. finding: its row of the table. seconds: what it took.
    """

    study: str
    content: str
    state: State
    why: str
    finding: dict[str, Any]
    seconds: float


class Journal:
    """The journal of one batch. Threads may share it."""

    def __init__(self, path: Path) -> None:
        """Open or begin it. Raises OSError, sqlite3.Error."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._lock = threading.Lock()
        for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL"):
            self._connection.execute(statement)
        self._connection.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def fact(self, name: str) -> str | None:
        """What was noted under this name."""
        row = self._one("SELECT value FROM facts WHERE name = ?", name)
        return None if row is None else str(row[0])

    def note(self, name: str, value: str) -> None:
        """Note a fact of the batch as a whole."""
        self._run("INSERT OR REPLACE INTO facts VALUES (?, ?)", name, value)

    def knows_folder(self, path: str, changed_ns: int, files: int) -> bool:
        """Whether a folder was looked through as it is now."""
        known = self._one("SELECT changed_ns, files FROM folders WHERE path = ?", path)
        return known is not None and (known[0], known[1]) == (changed_ns, files)

    def record_folder(
        self, path: str, changed_ns: int, files: Iterable[tuple[str, str | None]], count: int
    ) -> None:
        """Record a folder's files, each with its Study Instance UID, None for a file that is no DICOM."""
        with self._lock, self._connection:
            self._connection.execute("BEGIN")
            self._connection.execute("DELETE FROM files WHERE folder = ?", (path,))
            self._connection.executemany(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?)", ((name, path, uid) for name, uid in files)
            )
            self._connection.execute(
                "INSERT OR REPLACE INTO folders VALUES (?, ?, ?)", (path, changed_ns, count)
            )

    def keep_folders(self, present: set[str]) -> None:
        """Forget the folders that are no longer there."""
        gone = [row[0] for row in self._all("SELECT path FROM folders") if row[0] not in present]
        with self._lock, self._connection:
            self._connection.execute("BEGIN")
            for table, column in (("files", "folder"), ("folders", "path")):
                self._connection.executemany(f"DELETE FROM {table} WHERE {column} = ?", ((g,) for g in gone))

    def studies(self) -> list[str]:
        """Study Instance UIDs of the files, in order."""
        rows = self._all("SELECT DISTINCT study FROM files WHERE study IS NOT NULL ORDER BY study")
        return [row[0] for row in rows]

    def files_of(self, study: str) -> list[str]:
        """The files of a study, in order."""
        return [row[0] for row in self._all("SELECT path FROM files WHERE study = ? ORDER BY path", study)]

    def count_of_other_files(self) -> int:
        """How many files are no DICOM."""
        row = self._one("SELECT count(*) FROM files WHERE study IS NULL")
        return 0 if row is None else int(row[0])

    def record(self, outcome: Outcome) -> None:
        """Record what became of a study; durable when this returns."""
        finding = json.dumps(outcome.finding)
        self._run(
            "INSERT OR REPLACE INTO studies VALUES (?, ?, ?, ?, ?, ?)",
            *(outcome.study, outcome.content, outcome.state, outcome.why, finding, outcome.seconds),
        )

    def is_finished(self, study: str, content: str) -> bool:
        """Whether a study with this content is done or skipped; one that failed is tried again."""
        row = self._one("SELECT content, state FROM studies WHERE uid = ?", study)
        return row is not None and row[0] == content and row[1] != "failed"

    def outcomes(self) -> Iterator[Outcome]:
        """Every outcome, by Study Instance UID."""
        for uid, content, state, why, finding, seconds in self._all("SELECT * FROM studies ORDER BY uid"):
            yield Outcome(uid, content, state, why, json.loads(finding), seconds)

    def _run(self, statement: str, *values: Any) -> None:
        with self._lock:
            self._connection.execute(statement, values)

    def _one(self, statement: str, *values: Any) -> Any:
        with self._lock:
            return self._connection.execute(statement, values).fetchone()

    def _all(self, statement: str, *values: Any) -> list[Any]:
        with self._lock:
            return self._connection.execute(statement, values).fetchall()


def content_digest(names: Iterable[str]) -> str:
    """What a study consists of, as one short text: SHA-256 over its files' names (or SOP Instance UIDs)."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()

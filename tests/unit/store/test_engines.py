"""The state of engines in the store."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from store import engines
from store.database import Database
from store.engines import EngineNews

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
NEWS = EngineNews("jcs-classify-bf16-1", "jcs-compact", "classify", "bf16", "openvino", "building")


def test_builds_and_failures_are_counted_once_each(database: Database) -> None:
    failed = replace(NEWS, state="failed", why="differs from the reference", seconds=2.5)
    for minute, news in enumerate(
        [NEWS, NEWS, failed, failed, NEWS, replace(NEWS, state="ready", seconds=3)]
    ):
        with database.write() as session:
            engines.note(session, news, NOW + timedelta(minutes=minute))
    with database.read() as session:
        (found,) = engines.known(session)
    assert (found.news.state, found.news.why, found.news.seconds) == ("ready", "", 3)
    assert (found.builds, found.failures) == (2, 1)
    assert found.since == NOW + timedelta(minutes=5)


def test_an_engine_that_was_there_already_is_no_build(database: Database) -> None:
    with database.write() as session:
        engines.note(session, replace(NEWS, state="ready"), NOW)
        engines.note(session, replace(NEWS, name="another", state="failed", why="no driver"), NOW)
    with database.read() as session:
        assert [(e.news.name, e.news.state, e.builds) for e in engines.known(session)] == [
            ("another", "failed", 0),
            (NEWS.name, "ready", 0),
        ]

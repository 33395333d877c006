"""What a worker's engine builder reports, kept in the store and said in the log."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import structlog

from engine.engine_cache import EngineRecord
from store import engines
from store.connection import STORE_AWAY
from store.database import Database
from store.engines import EngineNews

log = structlog.get_logger(__name__)


def engine_reporter(database: Database, clock: Callable[[], datetime]) -> Callable[[EngineRecord], None]:
    """A `report` for `engine.screening.open_systems`."""

    def report(record: EngineRecord) -> None:
        news = engine_news(record)
        log.info("engine", engine=news.name, state=news.state, why=news.why)
        try:
            with database.write() as session:
                engines.note(session, news, clock())
        except STORE_AWAY as error:  # a build does not fail for it: what became of it is in the cache too
            log.warning(
                "the store does not know of this engine yet", engine=news.name, why=type(error).__name__
            )

    return report


def engine_news(record: EngineRecord) -> EngineNews:
    """The record of an engine in the words of the store."""
    key = record.key
    return EngineNews(
        name=key.stem,
        package=key.package,
        graph=key.graph,
        precision=key.precision,
        backend=key.backend,
        state=record.state,
        why=record.why,
        seconds=record.seconds,
    )

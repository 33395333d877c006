"""State of the engines that workers build: what the page, the metrics and other machines see of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from store.models import BuiltEngine

EngineState = Literal["building", "ready", "failed"]


@dataclass(frozen=True)
class EngineNews:
    """An engine and what became of it.

    name: unique among packages, precisions and devices. why: the reason of a failure, else "". seconds: of the last
    build, 0 while it is building.
    """

    name: str
    package: str
    graph: str
    precision: str
    backend: str
    state: EngineState
    why: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class KnownEngine:
    """An engine as the store knows it. since: of its state. builds: how many have ended; failures: how many so."""

    news: EngineNews
    since: datetime
    builds: int
    failures: int


def note(session: Session, news: EngineNews, now: datetime) -> None:
    """Keep a change of state. An engine that is `ready` or `failed` after it was `building` counts as a build."""
    row = session.get(BuiltEngine, news.name, with_for_update=True)
    if row is None:
        row = BuiltEngine(name=news.name, state="", builds=0, failures=0, since=now)
        session.add(row)
    if row.state == "building" and news.state != "building":
        row.builds += 1
        row.failures += news.state == "failed"
    if row.state != news.state:
        row.since = now
    row.package, row.graph, row.precision, row.backend = (
        news.package,
        news.graph,
        news.precision,
        news.backend,
    )
    row.state, row.why, row.seconds = news.state, news.why, news.seconds


def known(session: Session) -> tuple[KnownEngine, ...]:
    """Every engine that a worker has reported, by name."""
    rows = session.scalars(select(BuiltEngine).order_by(BuiltEngine.name))
    return tuple(_known(row) for row in rows)


def _known(row: BuiltEngine) -> KnownEngine:
    news = EngineNews(
        row.name, row.package, row.graph, row.precision, row.backend, row.state, row.why, row.seconds
    )
    return KnownEngine(news, row.since, row.builds, row.failures)

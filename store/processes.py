"""Heartbeats of the node's processes, for people and for health checks; no decision rests on them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from store.models import Process


@dataclass(frozen=True)
class LivingProcess:
    """A process as it last reported. kind: listener, worker or delivery. doing: in words."""

    name: str
    kind: str
    started_at: datetime
    heartbeat_at: datetime
    doing: str


def beat(session: Session, *, name: str, kind: str, doing: str, now: datetime) -> None:
    """Report that the process `name` lives and what it does."""
    process = session.get(Process, name)
    if process is None:
        session.add(Process(name=name, kind=kind, started_at=now, heartbeat_at=now, doing=doing))
    else:
        process.heartbeat_at = now
        process.doing = doing


def sign_off(session: Session, *, name: str) -> None:
    """Report that the process `name` ends."""
    session.execute(delete(Process).where(Process.name == name))


def living(session: Session) -> list[LivingProcess]:
    """Every process that has reported and not signed off, by name; a killed one shows by its old heartbeat."""
    rows = session.scalars(select(Process).order_by(Process.kind, Process.name))
    return [LivingProcess(p.name, p.kind, p.started_at, p.heartbeat_at, p.doing) for p in rows]

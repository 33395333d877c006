"""Heartbeats of the node's processes, for people and for health checks, and which packages the workers have.

One decision rests on them: workers with other packages than those that live are refused, unless that is allowed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, select, text
from sqlalchemy.orm import Session

from store.models import Process

LIVING = timedelta(minutes=1)
"""A process whose newest heartbeat is older than this counts as dead: several were missed."""
_ONE_AT_A_TIME = 0x6C756E67
"""Number of the lock of PostgreSQL under which workers join."""


class OtherEquipment(Exception):
    """Another worker of this store screens with other model packages; one line that says which and what to do."""

    def __init__(self, own: str, other: str, name: str) -> None:
        super().__init__(
            f"{name} screens with {other}, this worker would with {own}: stop it, give both the same packages, "
            "or set worker.mixed_packages"
        )


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


def join(session: Session, *, name: str, kind: str, equipment: str, mixed: bool, now: datetime) -> None:
    """Report that a worker begins, and with what. mixed: it may differ from what others have. Raises OtherEquipment."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _ONE_AT_A_TIME})
    others = session.execute(
        select(Process.name, Process.equipment)
        .where(
            Process.kind == kind,
            Process.name != name,
            Process.heartbeat_at > now - LIVING,
            Process.equipment.is_not(None),
            Process.equipment != equipment,
        )
        .order_by(Process.name)
    ).first()
    if others is not None and not mixed:
        raise OtherEquipment(equipment, others[1] or "", others[0])
    beat(session, name=name, kind=kind, doing="running", now=now)
    session.flush()
    session.get_one(Process, name).equipment = equipment


def sign_off(session: Session, *, name: str) -> None:
    """Report that the process `name` ends."""
    session.execute(delete(Process).where(Process.name == name))


def living(session: Session) -> list[LivingProcess]:
    """Every process that has reported and not signed off, by name; a killed one shows by its old heartbeat."""
    rows = session.scalars(select(Process).order_by(Process.kind, Process.name))
    return [LivingProcess(p.name, p.kind, p.started_at, p.heartbeat_at, p.doing) for p in rows]

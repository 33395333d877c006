"""INSERT ... ON CONFLICT DO NOTHING, which SQLite and PostgreSQL spell alike and SQLAlchemy keeps per dialect."""

from __future__ import annotations

from typing import Any, cast

from sqlalchemy import CursorResult
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from store.models import Base


def insert_if_absent(session: Session, model: type[Base], values: dict[str, Any]) -> bool:
    """Insert one row unless a unique key of it is taken; True when it was inserted."""
    if session.get_bind().dialect.name == "postgresql":
        result = session.execute(postgresql.insert(model).values(values).on_conflict_do_nothing())
    else:
        result = session.execute(sqlite.insert(model).values(values).on_conflict_do_nothing())
    return cast("CursorResult[Any]", result).rowcount == 1

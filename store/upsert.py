"""INSERT ... ON CONFLICT DO NOTHING, which SQLite and PostgreSQL spell alike and SQLAlchemy keeps per dialect."""

from __future__ import annotations

from typing import Any

from sqlalchemy import inspect
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from store.models import Base


def insert_if_absent(session: Session, model: type[Base], values: dict[str, Any]) -> bool:
    """Insert one row unless a unique key of it is taken; True when it was inserted."""
    key = inspect(
        model
    ).primary_key  # a row comes back only for an insert; rowcount is not kept by every driver
    if session.get_bind().dialect.name == "postgresql":
        result = session.execute(
            postgresql.insert(model).values(values).on_conflict_do_nothing().returning(*key)
        )
    else:
        result = session.execute(sqlite.insert(model).values(values).on_conflict_do_nothing().returning(*key))
    return result.first() is not None

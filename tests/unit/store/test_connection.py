"""Connections to the store: what PostgreSQL is asked for."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import event

from store.connection import create_store_engine


class Asked(Exception):
    """Instead of a connection."""


def connection_parameters(url: str) -> dict[str, Any]:
    """What the driver would be called with."""
    pytest.importorskip("psycopg")
    engine, asked = create_store_engine(url), {}

    def refuse(_dialect: object, _record: object, _arguments: object, parameters: dict[str, Any]) -> None:
        asked.update(parameters)
        raise Asked

    event.listen(engine, "do_connect", refuse)
    with pytest.raises(Asked):
        engine.connect()
    return asked


def test_a_server_that_vanished_is_noticed() -> None:
    asked = connection_parameters("postgresql+psycopg://lungnode@db/lungnode")
    idle = asked["keepalives_idle"] + asked["keepalives_interval"] * asked["keepalives_count"]
    assert (asked["connect_timeout"], asked["tcp_user_timeout"]) == (10, 30_000)
    assert idle <= 40


def test_the_url_has_the_last_word() -> None:
    asked = connection_parameters("postgresql+psycopg://lungnode@db/lungnode?connect_timeout=3")
    assert asked["connect_timeout"] == "3"

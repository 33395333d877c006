"""Fixtures that several suites of unit tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from store.database import Database


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """A migrated, empty store on SQLite, beside whatever else a test lays into its folder."""
    from store.database import open_database
    from store.migrations import upgrade

    url = f"sqlite:///{tmp_path}/lungnode.db"
    upgrade(url)
    opened = open_database(url)
    yield opened
    opened.close()

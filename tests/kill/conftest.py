"""The node as real processes that are killed, a PACS beside it, and the account of what was lost and doubled.

The screening itself is a stand-in that takes no time (`light_casework.py`), but for one test; listener, store, worker
loop, outbox and delivery are the real ones. Each test runs on SQLite and on PostgreSQL;
LUNGNODE_KILL_DATABASE=sqlite or =postgresql takes one of them. With LUNGNODE_RELIABILITY_TABLE=docs/reliability.md the
table there is written anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
from killed_parts import PROGRAM, Tally, World, a_slice, settings_of, write_table
from postgresql_server import NoServer as NoPostgreSQL
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from s3_server import NoServer as NoS3
from two_machines import NoNamespaces, TwoMachines, in_namespaces, on_loopback

from node.stand_in_pacs import StorageSCP, free_port
from store.database import open_database
from store.migrations import upgrade

STORES = ("sqlite", "postgresql")
QUICK_ON_POSTGRESQL = "between commit and answer"
"""The one edge that every run of the tests tries on PostgreSQL too."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On PostgreSQL all but one test count as slow, unless PostgreSQL was asked for."""
    for item in items:
        on_postgresql = item.path.parent == PROGRAM.parent and "postgresql" in item.name
        if on_postgresql and QUICK_ON_POSTGRESQL not in item.name and len(_stores()) > 1:
            item.add_marker(pytest.mark.slow)


def _stores() -> tuple[str, ...]:
    asked = os.environ.get("LUNGNODE_KILL_DATABASE")
    return STORES if asked is None else (asked,)


@pytest.fixture(scope="module", params=_stores())
def new_database(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], str]]:
    """Gives URLs of new, empty databases."""
    with ExitStack() as opened:

        def make() -> str:
            if request.param == "sqlite":
                return f"sqlite:///{tmp_path_factory.mktemp('store') / 'lungnode.db'}"
            server = request.getfixturevalue("postgresql_server")
            return str(opened.enter_context(server.database()))

        yield make


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory,
    new_database: Callable[[], str],
    tallies: dict[tuple[str, str], Tally],
) -> Iterator[World]:
    """A node, its parts not started, and a running PACS. One for a module: starting processes takes longest."""
    tmp_path = tmp_path_factory.mktemp("node")
    url = new_database()
    with StorageSCP(tmp_path / "pacs") as pacs:
        port = free_port()
        settings = settings_of(tmp_path, url, port, pacs)
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
        (tmp_path / "log").touch()
        upgrade(url)
        database = open_database(url)
        store = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}[database.engine.dialect.name]
        made = World(tmp_path, pacs, tmp_path / "pacs", port, database, store, tallies, new_database)
        yield made
        for name in list(made.parts):
            made.stop(name)
        database.close()


@pytest.fixture(scope="module", params=["on one machine", "networks of their own"])
def two_machines(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    tallies: dict[tuple[str, str], Tally],
) -> Iterator[TwoMachines]:
    """Two nodes without a disk in common, PostgreSQL and S3 beside them; in two network namespaces where asked."""
    opened = on_loopback if request.param == "on one machine" else in_namespaces
    with ExitStack() as running:
        try:
            made = running.enter_context(opened(tmp_path_factory.mktemp("machines"), tallies))
        except (NoNamespaces, NoPostgreSQL, NoS3) as error:
            pytest.skip(str(error))
        yield made


@pytest.fixture
def study() -> Callable[..., tuple[str, list[Dataset]]]:
    """Makes a study of a few CT slices: its UID and its instances."""

    def make(slices: int = 12, size: int = 256) -> tuple[str, list[Dataset]]:
        uid = generate_uid()
        return str(uid), [a_slice(str(uid), number, size) for number in range(1, slices + 1)]

    return make


@pytest.fixture(scope="session")
def tallies() -> Iterator[dict[tuple[str, str], Tally]]:
    """Rows of the table by fault and store, filled by the tests of this session."""
    rows: dict[tuple[str, str], Tally] = {}
    yield rows
    target = os.environ.get("LUNGNODE_RELIABILITY_TABLE")
    if target and rows:
        write_table(Path(target), rows)

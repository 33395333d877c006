"""Pages of a node that has seen 100,000 studies, and of a long study, in processor time: a busy machine counts less."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from long_study import UID, write_long_study
from sqlalchemy import insert, text
from starlette.testclient import TestClient

from node.configuration import Configuration, WebUserConfiguration
from node.web.access import token_digest
from node.web.app import build_app, build_site
from store import overview
from store.database import Database, open_database
from store.migrations import upgrade
from store.models import Study
from store.states import StudyState
from store.verdicts import VerdictChoice

STUDIES = 100_000
LIMIT_SECONDS = 0.2
FOUR_RESULTS_OF_EACH_STUDY = (
    "INSERT INTO revisions (id, study_id, number, digest, instance_count, created_at) "
    "SELECT id, id, 1, id, 300, :now FROM studies",
    "INSERT INTO screenings (id, revision_id, settings_digest, worker, finished_at, summary) "
    "SELECT id, id, 'a', 'w', :now, '{}' FROM studies",
    "INSERT INTO results (id, screening_id, kind, sop_class_uid, sop_instance_uid, series_instance_uid, path, "
    "created_at) SELECT s.id * 4 + k.k, s.id, 'sr', '1', '1.' || (s.id * 4 + k.k), '1', 'outbox/1-x/a.dcm', :now "
    "FROM studies s, (SELECT 0 AS k UNION SELECT 1 UNION SELECT 2 UNION SELECT 3) k",
    "INSERT INTO deliveries (result_id, study_id, destination, state, attempts, next_attempt_at, last_error, "
    "delivered_at, commitment_attempts) SELECT id, screening_id, CASE WHEN id % 4 = 3 THEN 'ward' ELSE 'pacs' END, "
    "'delivered', 1, :now, '', :now, 0 FROM results",
)
VERDICTS = ["negative healthy"] * 30 + ["positive covid19"] * 8 + ["positive cap", "negative h1n1"]
NOW = datetime(2026, 1, 5, tzinfo=UTC)


def _rows() -> list[dict[str, object]]:
    states = [StudyState.DELIVERED] * 17 + [StudyState.SKIPPED, StudyState.FAILED, StudyState.COMPLETE]
    times = [NOW - timedelta(seconds=30 * i) for i in range(STUDIES)]
    return [
        {
            "study_instance_uid": f"1.2.826.0.1.99.{i}",
            "patient_digest": f"{i % 70_000:064x}",
            "state": states[i % len(states)],
            "verdict": VERDICTS[i % len(VERDICTS)],
            "reason": "",
            "instance_count": 300,
            "byte_count": 150_000_000,
            "created_at": at,
            "receiving_since": at,
            "last_received_at": at,
            "changed_at": at,
            "not_before": at,
        }
        for i, at in enumerate(times)
    ]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path / 'lungnode.db'}"
    upgrade(url)
    opened = open_database(url)
    yield opened
    opened.close()


@pytest.fixture
def open_client(tmp_path: Path, database: Database) -> Callable[[], TestClient]:
    """Opens the page of a node whose storage is the test's folder, for an admin; call it once the store is full."""
    return partial(_open_client, tmp_path, database)


def _open_client(storage: Path, database: Database) -> TestClient:
    users = (WebUserConfiguration(name="ann", role="admin", token_sha256=token_digest("t")),)
    defaults = Configuration()
    configuration = defaults.model_copy(
        update={
            "storage": defaults.storage.model_copy(update={"path": storage}),
            "web": defaults.web.model_copy(update={"users": users}),
            "audit": defaults.audit.model_copy(update={"file": None}),
        }
    )
    client = TestClient(build_app(build_site(configuration, database, lambda: NOW)))
    client.post("/login", data={"token": "t"})
    client.get("/destinations")
    return client


def _seconds(client: TestClient, *addresses: str) -> float:
    """Processor time that the addresses take together."""
    start = time.process_time()
    for address in addresses:
        assert client.get(address).status_code == 200, address
    seconds = time.process_time() - start
    print(f"{addresses[0]}: {seconds * 1000:.0f} ms")
    return seconds


@pytest.mark.slow
def test_a_page_of_a_hundred_thousand_studies(
    open_client: Callable[[], TestClient], database: Database
) -> None:
    with database.write() as session:
        session.execute(insert(Study), _rows())
    client = open_client()
    addresses = (
        "/studies",
        "/studies?page=1500",
        "/studies?state=failed",
        *(f"/studies?verdict={choice}" for choice in VerdictChoice),
        "/studies?verdict=h1n1&page=20",
        "/studies?q=1.2.826.0.1.99.5",
        "/studies?since=2025-12-20&until=2025-12-21",
        "/",
    )
    for address in addresses:
        assert _seconds(client, address) < LIMIT_SECONDS, address


@pytest.mark.slow
def test_the_overview_of_four_hundred_thousand_deliveries(
    open_client: Callable[[], TestClient], database: Database
) -> None:
    with database.write() as session:
        session.execute(insert(Study), _rows())
        for statement in FOUR_RESULTS_OF_EACH_STUDY:
            session.execute(text(statement), {"now": "2026-01-04 08:00:00.000000"})
    client = open_client()
    for address in ("/", "/destinations", "/metrics"):
        assert _seconds(client, address) < 2 * LIMIT_SECONDS, address
    with database.read() as session:
        start = time.process_time()
        assert overview.troubled_destinations(session) == []
        assert time.process_time() - start < 0.02, "asked every second"


@pytest.mark.slow
def test_the_page_of_a_study_of_300_slices(
    open_client: Callable[[], TestClient], database: Database, tmp_path: Path
) -> None:
    """What a browser needs before the slider moves: the page, and the first picture with its layers."""
    write_long_study(database, tmp_path, NOW)
    client = open_client()
    page = f"/studies/{UID}"
    shown = client.get(page).text
    assert 'data-slices="300"' in shown and "COVID" in shown
    layers = [f"{page}/slices/{layer}/150" for layer in ("ct", "lesion", "jcs", "m3lung")]
    assert _seconds(client, page, *layers) < LIMIT_SECONDS

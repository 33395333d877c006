"""The list of a node that has seen 100,000 studies, in processor time: a busy machine does not count."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import insert
from starlette.testclient import TestClient

from node.configuration import Configuration, WebUserConfiguration
from node.web.access import token_digest
from node.web.app import build_app, build_site
from store.database import open_database
from store.migrations import upgrade
from store.models import Study
from store.states import StudyState
from store.verdicts import VerdictChoice

STUDIES = 100_000
LIMIT_SECONDS = 0.2
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


@pytest.mark.slow
def test_a_page_of_a_hundred_thousand_studies(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'lungnode.db'}"
    upgrade(url)
    database = open_database(url)
    with database.write() as session:
        session.execute(insert(Study), _rows())
    users = (WebUserConfiguration(name="ann", role="admin", token_sha256=token_digest("t")),)
    defaults = Configuration()
    configuration = defaults.model_copy(
        update={
            "storage": defaults.storage.model_copy(update={"path": tmp_path}),
            "web": defaults.web.model_copy(update={"users": users}),
            "audit": defaults.audit.model_copy(update={"file": None}),
        }
    )
    client = TestClient(build_app(build_site(configuration, database, lambda: NOW)))
    client.post("/login", data={"token": "t"})
    client.get("/studies")
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
        start = time.process_time()
        assert client.get(address).status_code == 200
        seconds = time.process_time() - start
        print(f"{address}: {seconds * 1000:.0f} ms")
        assert seconds < LIMIT_SECONDS, address
    database.close()

"""What is said of the room for images and of what was deleted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from made_up_studies import receiving_study

from node.configuration import StorageConfiguration
from node.inspection import node_status
from node.storage_account import deletion_rule
from store import ledger, retention
from store.database import open_database
from store.migrations import upgrade
from store.retention import Expiry
from store.states import StudyState

NOW = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("section", "rule"),
    [
        ({}, "images of delivered and skipped studies are deleted with less than 1024 MiB free"),
        (
            {"keep_days": 30},
            "images of delivered and skipped studies are deleted after 30 days or with less than 1024 MiB free",
        ),
        (
            {"keep_days": 0.5, "make_room": False},
            "images of delivered and skipped studies are deleted after 0.5 days",
        ),
        ({"make_room": False}, "images are never deleted, see storage.keep_days"),
        ({"reserve_mb": 0}, "images are never deleted, see storage.keep_days"),
    ],
)
def test_the_rule_is_said(section: dict[str, object], rule: str) -> None:
    assert deletion_rule(StorageConfiguration.model_validate(section)) == rule


def test_what_was_deleted_in_the_last_week_is_counted(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'lungnode.db'}"
    upgrade(url)
    database = open_database(url)
    with database.write() as session:
        study = receiving_study("1.2.3", NOW)
        session.add(study)
        session.flush()
        ledger.change_state(session, study, StudyState.SKIPPED, who="t", why="t", now=NOW)
        session.flush()
        later = NOW + timedelta(days=1)
        assert retention.begin_purge(session, study.id, Expiry(later), later) is not None
    here = StorageConfiguration(path=tmp_path)
    told = node_status(database, later, here).data["storage"]
    assert told["deleted_studies"] == 1
    assert told["free_bytes"] > 0
    told = node_status(database, later + timedelta(days=8), StorageConfiguration(path=tmp_path / "away")).data
    assert (told["storage"]["deleted_studies"], told["storage"]["free_bytes"]) == (0, None)
    assert node_status(database, later).data["storage"] is None
    database.close()

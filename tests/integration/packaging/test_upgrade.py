"""An upgrade of the program: what an older one has received and found is still there, and the newer one can use it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import MetaData, insert
from typer.testing import CliRunner

from node.cli import app
from store.connection import create_store_engine
from store.migrations import head, upgrade

NOW = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
OLDER = "0002"
UID = "1.2.3.4"


@pytest.fixture
def older_node(tmp_path: Path) -> Path:
    """The folder of a node of an older program: one screened study, in a store of the older schema."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"audit": {"file": None}}))
    spool = tmp_path / "var" / "spool" / "1" / "1.dcm"
    spool.parent.mkdir(parents=True)
    spool.write_bytes(b"as received")
    url = f"sqlite:///{tmp_path}/var/lungnode.db"
    upgrade(url, OLDER)
    engine = create_store_engine(url)
    tables = MetaData()
    tables.reflect(engine)
    with engine.execution_options(lungnode_write=True).connect() as connection, connection.begin():
        for name, row in _rows().items():
            connection.execute(insert(tables.tables[name]), row)
    engine.dispose()
    return tmp_path


def _rows() -> dict[str, dict[str, Any]]:
    times = dict.fromkeys(
        ("created_at", "receiving_since", "last_received_at", "changed_at", "not_before"), NOW
    )
    counts = {"revision": 1, "instance_count": 1, "byte_count": 11, "priority": 0, "fence": 1, "attempts": 1}
    study = {
        "id": 1,
        "study_instance_uid": UID,
        "patient_digest": "0" * 64,
        "state": "delivered",
        "reason": "",
    }
    summary = {"jcs": {"positive": True}, "m3lung": {"label": "cap"}}
    return {
        "studies": {**study, **times, **counts},
        "revisions": {
            "id": 1,
            "study_id": 1,
            "number": 1,
            "digest": "1" * 64,
            "instance_count": 1,
            "created_at": NOW,
        },
        "screenings": {
            "id": 1,
            "revision_id": 1,
            "settings_digest": "2" * 64,
            "worker": "worker-1",
            "finished_at": NOW,
            "summary": summary,
        },
    }


def _answer(folder: Path, *words: str) -> Any:
    result = CliRunner().invoke(app, [*words, "--json", "--config", str(folder / "config.yaml")])
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def test_an_upgrade_says_so_and_keeps_spool_and_studies(older_node: Path) -> None:
    assert _answer(older_node, "db", "upgrade") == {"before": OLDER, "after": head()}
    (study,) = _answer(older_node, "studies", "list", "--verdict", "positive")
    assert (study["study_instance_uid"], study["state"], study["verdict"]) == (
        UID,
        "delivered",
        "positive cap",
    )
    assert _answer(older_node, "studies", "list", "--verdict", "negative") == []
    assert (older_node / "var/spool/1/1.dcm").read_bytes() == b"as received"
    assert _answer(older_node, "db", "upgrade") == {"before": head(), "after": head()}


def test_an_older_store_is_not_opened_without_the_upgrade(older_node: Path) -> None:
    result = CliRunner().invoke(app, ["status", "--config", str(older_node / "config.yaml")])
    assert result.exit_code == 1 and "run `lungnode db upgrade`" in str(result.exception)

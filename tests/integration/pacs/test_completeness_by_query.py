"""A real PACS is asked whether a study is here in full, and gives what is missing."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from reporting.delivery.scu import parcel, store
from scp.completeness import CompletenessPolicy, complete_due
from scp.pacs_query.dimse import DimseSource
from scp.pacs_query.source import QueryFailed
from scp.peer import Peer
from store import queries, revisions
from store.states import StudyState

STUDY = "1.2.826.0.1.99.1"
LONG = CompletenessPolicy(timedelta(minutes=5), timedelta(minutes=30), timedelta(minutes=5))


@pytest.fixture(
    params=[
        pytest.param("orthanc", marks=pytest.mark.orthanc),
        pytest.param("dcmqrscp", marks=pytest.mark.dcmtk),
    ]
)
def pacs(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def send(port: int, *paths: Path) -> None:
    """As a modality does."""
    outcomes = list(store(Peer("LUNGNODE", "127.0.0.1", port), [parcel(p) for p in paths], "CT1"))
    assert all(o.status == 0x0000 for o in outcomes), outcomes


def completed(node: Any, seconds: float = 20.0) -> tuple[str, float]:
    """Wait for the study to be complete; on what grounds and after how many seconds."""
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        done = complete_due(node.database, LONG, datetime.now(UTC), node.grounds)
        if done:
            assert done[0].state is StudyState.COMPLETE
            return done[0].why, time.monotonic() - start
        time.sleep(0.05)
    raise AssertionError(f"not complete after {seconds} s")


def instance_count(node: Any) -> int:
    with node.database.read() as session:
        return queries.why(session, STUDY).study.instance_count


def test_counts_that_agree_start_the_study_at_once(
    pacs: Any, start_node: Callable[..., Any], written: Callable[..., Path]
) -> None:
    paths = [written(n) for n in range(1, 6)]
    pacs.keep(*paths)
    node = start_node(pacs)
    send(node.port, *paths)
    why, seconds = completed(node)
    assert "states 5 instances in 1 series, 5 are here" in why
    assert seconds < 5.0, "a busy machine may take longer than the second that it is meant to take"


@pytest.mark.parametrize("retrieve", ["get", "move"])
def test_missing_instances_are_fetched(
    pacs: Any, start_node: Callable[..., Any], written: Callable[..., Path], retrieve: str
) -> None:
    paths = [written(n) for n in range(1, 8)]
    pacs.keep(*paths)
    where = {"ae_title": pacs.peer.ae_title, "host": "127.0.0.1", "port": pacs.peer.port}
    node = start_node(pacs, query_source=where | {"retrieve": retrieve})
    send(node.port, *paths[:4])
    why, _ = completed(node)
    assert "7 are here" in why
    assert instance_count(node) == 7


def test_a_pacs_that_never_had_the_study_does_not_complete_it(
    pacs: Any, start_node: Callable[..., Any], written: Callable[..., Path]
) -> None:
    node = start_node(pacs)
    send(node.port, written(1))
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        assert complete_due(node.database, LONG, datetime.now(UTC), node.grounds) == []
        time.sleep(0.1)
    with node.database.read() as session:
        (study,) = revisions.receiving_studies(session)
        history = " ".join(entry.what for entry in queries.why(session, STUDY).history)
    assert "states 0 instances in 0 series, 1 are here" in history
    soon = CompletenessPolicy(timedelta(seconds=1), timedelta(minutes=1))
    (done,) = complete_due(node.database, soon, datetime.now(UTC), node.grounds)
    assert done.study_instance_uid == study.study_instance_uid
    assert "states 0 instances" in done.why


def test_a_move_to_a_destination_that_the_pacs_does_not_know_is_named(
    pacs: Any, written: Callable[..., Path]
) -> None:
    path = written(1)
    pacs.keep(path)
    source = DimseSource(pacs.peer, "NOBODY", retrieve="move")
    with pytest.raises(QueryFailed, match=r"C-MOVE|rejected|not offer"):
        source.fetch(STUDY, f"{STUDY}.1", [parcel(path).sop_instance_uid], lambda instance: 0)

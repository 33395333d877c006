"""A PACS that lies, or cannot deliver: the study is screened all the same, and its account says on what grounds."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import wait
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.presentation import build_context

from scp.completeness import CompletenessPolicy, complete_due
from scp.gap_check import GapCheck
from scp.grounds import Grounds
from scp.pacs_query.asking import Asker
from scp.pacs_query.dimse import FIND, MOVE, DimseSource
from scp.peer import Timeouts
from store import queries
from store.database import Database
from store.states import StudyState

STUDY, SERIES = "1.2.3", "1.2.3.1"
POLICY = CompletenessPolicy(timedelta(seconds=30), timedelta(minutes=30), timedelta(seconds=5))


@pytest.fixture
def pacs_that_states(start_server: Any) -> Callable[[int], Any]:
    """A PACS that says how many images the series has, lists ten, and knows no destination of C-MOVE."""

    def start(count: int) -> Any:
        def find(event: evt.Event) -> Any:
            level = event.identifier.QueryRetrieveLevel
            for number in range(10 if level == "IMAGE" else 1):
                match = Dataset()
                match.QueryRetrieveLevel = level
                match.StudyInstanceUID, match.SeriesInstanceUID, match.Modality = STUDY, SERIES, "CT"
                if level == "IMAGE":
                    match.SOPInstanceUID = f"{SERIES}.{number + 1}"
                else:
                    match.NumberOfSeriesRelatedInstances = str(count)
                yield 0xFF00, match

        def move(event: evt.Event) -> Any:
            yield None, None  # pynetdicom then answers 0xA801, move destination unknown

        return start_server(
            [build_context(FIND), build_context(MOVE)], [(evt.EVT_C_FIND, find), (evt.EVT_C_MOVE, move)]
        )

    return start


def completed(database: Database, clock: Any, tmp_path: Path, asker: Asker) -> tuple[str, float]:
    """Let time pass until the study is complete; on what grounds, and after how many seconds."""
    grounds = Grounds(database, GapCheck(database, tmp_path), asker, timedelta(seconds=5), clock)
    for second in range(60):
        if done := complete_due(database, POLICY, clock(), grounds):
            assert done[0].state is StudyState.COMPLETE
            return done[0].why, second
        wait([i.running for i in asker._inquiries.values() if i.running is not None], timeout=20)
        clock.forward(1)
    raise AssertionError("the study is never complete")


def history(database: Database) -> str:
    with database.read() as session:
        return "\n".join(entry.what for entry in queries.why(session, STUDY).history)


@pytest.mark.parametrize("count", [12, 3])
def test_counts_that_never_agree_end_with_the_quiet_time(
    record: Any, pacs_that_states: Any, database: Database, clock: Any, tmp_path: Path, count: int
) -> None:
    for number in range(1, 11):
        record(number)
    source = DimseSource(pacs_that_states(count).peer, "NODE", timeouts=Timeouts(5, 5, 5))
    why, seconds = completed(database, clock, tmp_path, Asker(database, source, clock))
    assert seconds == 30
    assert "no instance for 30 s" in why
    assert f"states {count} instances in 1 series, 10 are here" in why
    assert why in history(database)


def test_a_move_to_a_destination_that_is_unknown_ends_with_the_quiet_time(
    record: Any, pacs_that_states: Any, database: Database, clock: Any, tmp_path: Path
) -> None:
    for number in range(1, 9):
        record(number)
    source = DimseSource(pacs_that_states(10).peer, "NODE", retrieve="move", timeouts=Timeouts(5, 5, 5))
    asker = Asker(database, source, clock, receive=lambda instance: 0)
    why, seconds = completed(database, clock, tmp_path, asker)
    assert seconds == 30
    assert "states 10 instances in 1 series, 8 are here" in why
    assert "status 0xA801 (move destination unknown" in history(database)

"""Asking a query source: agreement, fetching, a source that lies, is away, or never agrees."""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest

from scp.evidence import Evidence, Strength
from scp.gap_check import GapCheck
from scp.grounds import Grounds
from scp.pacs_query.asking import MAX_FETCHES, Asker
from scp.pacs_query.source import QueryFailed, Receive, SeriesStatement
from store import holdings, queries, revisions
from store.database import Database

STUDY, SERIES = "1.2.3", "1.2.3.1"


class Source:
    """A scripted PACS. lie: how many more instances it states than it lists."""

    name = "PACS"

    def __init__(self, numbers: Collection[int], deliver: Callable[[int], object] = lambda n: None) -> None:
        self.numbers = list(numbers)
        self.lie = 0
        self.broken = ""
        self.asked = 0
        self.fetches = 0
        self._deliver = deliver

    def series(self, study_instance_uid: str) -> tuple[SeriesStatement, ...]:
        self.asked += 1
        if self.broken:
            raise QueryFailed(self.broken)
        return (SeriesStatement(SERIES, "CT", len(self.numbers) + self.lie),)

    def instances(self, study_instance_uid: str, series_instance_uid: str) -> frozenset[str]:
        return frozenset(f"{SERIES}.{n}" for n in self.numbers)

    def fetch(self, study: str, series: str, uids: Collection[str], receive: Receive) -> None:
        self.fetches += 1
        for uid in sorted(uids):
            self._deliver(int(uid.rpartition(".")[2]))


@pytest.fixture
def ask(database: Database, clock: Any) -> Callable[..., Evidence | None]:
    def ask(source: Source, asker: Asker) -> Evidence | None:
        with database.read() as session:
            (study,) = revisions.receiving_studies(session)
        asker.evidence(study)
        running = [i.running for i in asker._inquiries.values() if i.running is not None]
        wait(running, timeout=20)
        with database.read() as session:
            (study,) = revisions.receiving_studies(session)
        return asker.evidence(study)

    return ask


def history(database: Database) -> str:
    with database.read() as session:
        return "\n".join(entry.what for entry in queries.why(session, STUDY).history)


def test_counts_that_agree_are_sure(record: Any, ask: Any, database: Database, clock: Any) -> None:
    for n in (1, 2, 3):
        record(n)
    found = ask(source := Source([1, 2, 3]), Asker(database, source, clock))
    assert found is not None and found.strength is Strength.SURE
    assert found.why == "PACS states 3 instances in 1 series, 3 are here"


def test_what_is_missing_is_fetched(record: Any, ask: Any, database: Database, clock: Any) -> None:
    record(1)
    source = Source([1, 2, 3], deliver=record)
    found = ask(source, Asker(database, source, clock, receive=lambda instance: 0))
    assert found is not None and found.strength is Strength.SURE
    assert found.instance_count == 3
    assert "2 fetched" in found.why
    assert "fetching what is missing" in history(database)


def test_without_fetching_the_difference_is_named(
    record: Any, ask: Any, database: Database, clock: Any
) -> None:
    record(1)
    found = ask(source := Source([1, 2]), Asker(database, source, clock))
    assert found is not None and found.strength is Strength.NONE
    assert "states 2 instances in 1 series, 1 are here" in history(database)


def test_a_pacs_that_lies_about_its_counts_is_not_asked_to_deliver_for_ever(
    record: Any, ask: Any, database: Database, clock: Any
) -> None:
    record(1)
    source = Source([1, 2], deliver=lambda n: None)
    source.lie = 1
    asker = Asker(database, source, clock, receive=lambda instance: 0)
    for _ in range(10):
        found = ask(source, asker)
        clock.forward(60)
    assert source.fetches == MAX_FETCHES
    assert found.strength is Strength.NONE
    assert "could not be fetched" in found.why


def test_a_source_that_is_away_gives_no_evidence_and_one_remark(
    record: Any, ask: Any, database: Database, clock: Any
) -> None:
    record(1)
    source = Source([1])
    source.broken = "PACS could not be reached"
    asker = Asker(database, source, clock)
    for _ in range(5):
        assert ask(source, asker) is None
        clock.forward(60)
    assert history(database).count("PACS could not be reached") == 1
    source.broken = ""
    assert ask(source, asker).strength is Strength.SURE


def test_questions_come_less_often_until_something_changes(
    record: Any, ask: Any, database: Database, clock: Any
) -> None:
    record(1)
    source = Source([1, 2])
    asker = Asker(database, source, clock)
    for _ in range(100):
        ask(source, asker)
        clock.forward(1)
    assert 5 <= source.asked <= 12
    before = source.asked
    record(2)
    assert ask(source, asker).strength is Strength.SURE
    assert source.asked == before + 1


def test_grounds_go_by_slices_where_nobody_can_be_asked(
    record: Any, database: Database, clock: Any, tmp_path: Path
) -> None:
    from datetime import timedelta

    for n in range(1, 13):
        record(n)
    grounds = Grounds(database, GapCheck(database, tmp_path), None, timedelta(seconds=5), clock)
    with database.read() as session:
        (study,) = revisions.receiving_studies(session)
    assert grounds.evidence(study) is None, "headers are read after the short quiet time only"
    clock.forward(5)
    found = grounds.evidence(study)
    assert found is not None and found.strength is Strength.LIKELY
    record(14)
    with database.read() as session:
        (study,) = revisions.receiving_studies(session)
    clock.forward(5)
    found = grounds.evidence(study)
    assert found is not None and found.strength is Strength.NONE
    assert "instance numbers 1 to 14 have 13 values" in found.why


def test_an_announcement_that_names_what_is_here_is_enough(
    record: Any, database: Database, clock: Any, tmp_path: Path
) -> None:
    from datetime import timedelta

    uid = record(1)
    with database.write() as session:
        holdings.announce(
            session,
            kind="MPPS",
            sop_instance_uid="1.9",
            study_instance_uid=STUDY,
            instances=[uid],
            who="CT1",
            now=clock(),
        )
    grounds = Grounds(database, GapCheck(database, tmp_path), None, timedelta(seconds=5), clock)
    with database.read() as session:
        (study,) = revisions.receiving_studies(session)
    found = grounds.evidence(study)
    assert found is not None and found.strength is Strength.SURE

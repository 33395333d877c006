"""Routing rules at the end of reception: priority, series, destinations and the way out."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from node.routing.deciding import Router
from node.routing.rules import Rules
from scp.completeness import CompletenessPolicy, complete_due
from store import admin, claims, queries
from store.database import Database
from store.priorities import Priority
from store.states import StudyState

STUDY = "1.2.3"
POLICY = CompletenessPolicy(timedelta(seconds=2), timedelta(minutes=30))


@pytest.fixture
def complete(database: Database, tmp_path: Path, clock: Any) -> Any:
    def complete(*rules: dict[str, Any]) -> Any:
        router = Router(database, tmp_path, TypeAdapter(Rules).validate_python(rules))
        (done,) = complete_due(database, POLICY, clock.forward(2), route=router.route)
        return done

    return complete


def claim(database: Database, now: Any) -> claims.Claim | None:
    with database.write() as session:
        return claims.claim_next(session, worker="w", lease=timedelta(minutes=1), max_attempts=3, now=now)


def test_a_rule_gives_priority_series_packages_and_destinations(
    record: Any, complete: Any, database: Database, clock: Any
) -> None:
    thin = {record(n) for n in (1, 2, 3)}
    record(1, series=f"{STUDY}.2")
    rule = {
        "name": "three-slices",
        "when": {"tags": {"Modality": "CT"}, "instances": {"min": 2}},
        "then": {"priority": "urgent", "destinations": ["er"], "packages": ["jcs-full", "m3-full"]},
    }
    done = complete(rule, {"name": "rest", "then": {"screen": False}})
    assert "rule three-slices: urgent, 1 of 2 series" in done.why or done.state is StudyState.COMPLETE
    held = claim(database, clock())
    assert held is not None and held.routing is not None
    assert {i.sop_instance_uid for i in held.instances} == thin
    assert held.routing.destinations == ("er",)
    assert held.routing.packages == ("jcs-full", "m3-full")
    with database.read() as session:
        assert "rule three-slices: urgent" in " ".join(e.what for e in queries.why(session, STUDY).history)


def test_a_study_that_the_rules_keep_out_is_skipped_with_the_reason(
    record: Any, complete: Any, database: Database, clock: Any
) -> None:
    record(1)
    done = complete({"name": "research", "then": {"screen": False, "reason": "research stays out"}})
    assert done.state is StudyState.SKIPPED
    with database.read() as session:
        assert "rule research: research stays out" in queries.why(session, STUDY).study.reason
    with database.write() as session:
        admin.retry(session, STUDY, who="admin", now=clock())
    held = claim(database, clock())
    assert held is not None and len(held.instances) == 1, "an administrator overrules the rules"


def test_without_rules_nothing_is_restricted(
    record: Any, complete: Any, database: Database, clock: Any
) -> None:
    record(1)
    complete()
    held = claim(database, clock())
    assert held is not None and held.routing is None


def test_rules_that_match_nothing_screen_the_study_as_without_rules_and_say_so(
    record: Any, complete: Any, database: Database, clock: Any
) -> None:
    record(1)
    complete(
        {"name": "heads", "when": {"tags": {"BodyPartExamined": "HEAD"}}, "then": {"priority": "urgent"}}
    )
    held = claim(database, clock())
    assert held is not None and held.routing is not None
    assert (held.routing.packages, held.routing.destinations, held.priority) == (None, None, Priority.NORMAL)
    with database.read() as session:
        assert "rule (no rule): normal" in " ".join(e.what for e in queries.why(session, STUDY).history)


def test_a_flood_of_urgent_studies_starves_nobody(
    record: Any, complete: Any, database: Database, clock: Any
) -> None:
    stat = {
        "name": "stat",
        "when": {"tags": {"StudyInstanceUID": {"regex": "^1.9"}}},
        "then": {"priority": "urgent"},
    }
    night = {
        "name": "night",
        "when": {"tags": {"StudyInstanceUID": "1.7"}},
        "then": {"priority": "background"},
    }
    for study in ("1.7", "1.8"):
        record(1, at=clock(), study=study, series=f"{study}.1")
        complete(stat, night)
    order = []
    for number in range(32):  # one urgent study every five minutes, and time for one study every five minutes
        clock.forward(298)
        record(1, at=clock(), study=f"1.9.{number}", series=f"1.9.{number}.1")
        complete(stat, night)
        held = claim(database, clock())
        assert held is not None
        with database.write() as session:
            claims.skip(session, held, why="done", now=clock())
        order.append(held.study_instance_uid)
    assert order.index("1.8") <= 3, "a normal study gives way for ten minutes"
    assert order.index("1.7") <= 25, "a background study for two hours"
    assert order[0].startswith("1.9")


def test_urgent_studies_are_claimed_first_though_they_came_later(
    record: Any, complete: Any, database: Database, clock: Any
) -> None:
    by_sender = [
        {"name": "stat", "when": {"tags": {"StudyInstanceUID": "1.9"}}, "then": {"priority": "urgent"}},
        {"name": "night", "when": {"tags": {"StudyInstanceUID": "1.7"}}, "then": {"priority": "background"}},
    ]
    for study in ("1.7", "1.8", "1.9"):
        record(1, at=clock(), study=study, series=f"{study}.1")
        complete(*by_sender)
    claimed = [claim(database, clock()) for _ in range(3)]
    assert [c.study_instance_uid for c in claimed if c is not None] == ["1.9", "1.8", "1.7"]
    assert [c.routing.priority for c in claimed if c is not None and c.routing] == [
        Priority.URGENT,
        Priority.NORMAL,
        Priority.BACKGROUND,
    ]

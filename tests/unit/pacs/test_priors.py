"""The change since an earlier screening, and the comparisons that are refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from node.priors import NotComparable, Occasion, Person, change, different_person, prior_of, since_prior
from store import claims, results, revisions
from store.database import Database

ANNA = Person("19500101", "F", "Doe^Anna")


def occasion(
    uid: str = "1.1",
    day: date | None = date(2026, 3, 1),
    person: Person = ANNA,
    lesion: float = 40.0,
    lungs: float = 4000.0,
) -> Occasion:
    summary = {
        "lesion_volume_ml": lesion,
        "lung_volume_ml": lungs,
        "lung_involvement_percent": 100 * lesion / lungs,
    }
    return Occasion(uid, person, day, summary)


BEFORE = occasion("1.0", date(2026, 2, 1), lesion=100.0)


def test_the_change_in_numbers() -> None:
    found = change(occasion(), BEFORE)
    assert found["study_instance_uid"] == "1.0"
    assert found["days_between"] == 28
    assert found["lesion_volume_change_ml"] == pytest.approx(-60.0)
    assert found["lung_involvement_change_points"] == pytest.approx(-1.5)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (replace(BEFORE, person=replace(ANNA, birth_date="19500102")), "different birth dates"),
        (replace(BEFORE, person=replace(ANNA, sex="M")), "different sexes"),
        (replace(BEFORE, person=Person("", "", "")), "names differ or are missing"),
        (replace(BEFORE, summary={}), "without volumes"),
        (replace(BEFORE, day=None), "study date is missing"),
        (replace(BEFORE, day=date(2026, 3, 2)), "the later one"),
        (occasion("1.0", date(2026, 2, 1), lungs=2000.0), "lungs covered differ: 2000 ml and 4000 ml"),
    ],
)
def test_comparisons_that_are_refused(other: Occasion, why: str) -> None:
    with pytest.raises(NotComparable, match=why):
        change(occasion(), other)


def test_a_name_counts_where_there_is_no_birth_date_and_a_changed_one_does_not_where_there_is() -> None:
    assert different_person(ANNA, replace(ANNA, name="Smith^Anna")) is None
    assert different_person(replace(ANNA, birth_date=""), replace(ANNA, name="DOE^ANNA^^")) is None
    assert different_person(replace(ANNA, birth_date=""), replace(ANNA, name="Smith^Anna")) is not None


def test_the_newest_that_can_be_compared_is_taken_and_the_others_say_why() -> None:
    stranger = occasion("1.2", date(2026, 2, 20), replace(ANNA, birth_date="19990101"))
    older = occasion("1.3", date(2025, 1, 1))
    found = since_prior(occasion(), [older, stranger, BEFORE])
    assert found is not None and found["study_instance_uid"] == "1.0"
    assert [r["study_instance_uid"] for r in found["refused"]] == ["1.2"]
    assert since_prior(occasion(), []) is None
    only_stranger = since_prior(occasion(), [stranger])
    assert only_stranger is not None and "days_between" not in only_stranger


def test_priors_are_found_in_the_store(database: Database, tmp_path: Path, record: Any, clock: Any) -> None:
    held = []
    for study in ("1.7", "1.8"):
        record(1, study=study, series=f"{study}.1")
        with database.write() as session:
            (receiving,) = revisions.receiving_studies(session)
            revisions.complete_study(session, receiving.study_id, who="t", why="t", now=clock())
        with database.write() as session:
            claim = claims.claim_next(
                session, worker="w", lease=timedelta(minutes=1), max_attempts=3, now=clock()
            )
            assert claim is not None
            held.append(claim)
        if study == "1.7":
            with database.write() as session:
                results.record_results(
                    session,
                    claim,
                    [],
                    destinations={},
                    settings_digest="a" * 64,
                    summary=occasion().summary,
                    now=clock(),
                )
    assert prior_of(database, tmp_path, held[0], occasion().summary) is None
    found = prior_of(database, tmp_path, held[1], occasion().summary)
    assert found is not None
    (refused,) = found["refused"]
    assert refused == {"study_instance_uid": "1.7", "why": "a study date is missing"}

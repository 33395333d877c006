"""The change since an earlier screening, and the comparisons that are refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from engine.findings import PneumoniaClass
from node.priors import (
    NO_PRIORS,
    NotComparable,
    Occasion,
    Priors,
    Refusal,
    compare,
    newest_comparable,
    priors_of,
)
from scp.patients import Person, different_person
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
        "lesion_count": 3,
        "jcs": {"positive": True},
        "m3lung": {"label": "covid19"},
        "packages": [{"name": "n", "version": "1", "system": "jcs", "sha256": "0" * 64}],
    }
    return Occasion(uid, person, day, summary)


BEFORE = occasion("1.0", date(2026, 2, 1), lesion=100.0)


def test_the_change_in_numbers() -> None:
    found = compare(occasion(), BEFORE)
    assert (found.study_instance_uid, found.days_between) == ("1.0", 28)
    assert (found.jcs_positive, found.m3lung_label) == (True, PneumoniaClass.COVID19)
    told = Priors(found).as_summary(occasion().summary)
    assert told is not None
    assert told["lesion_volume_change_ml"] == pytest.approx(-60.0)
    assert told["lung_involvement_change_points"] == pytest.approx(-1.5)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (replace(BEFORE, person=replace(ANNA, birth_date="19500102")), "different birth dates"),
        (replace(BEFORE, person=replace(ANNA, sex="M")), "different sexes"),
        (replace(BEFORE, person=Person("", "", "")), "names differ or are missing"),
        (replace(BEFORE, summary={}), "without volumes or verdicts"),
        (replace(BEFORE, day=None), "study date is missing"),
        (replace(BEFORE, day=date(2026, 3, 2)), "the later one"),
        (replace(BEFORE, day=date(2026, 3, 1), time="1200"), "the later one"),
        (occasion("1.0", date(2026, 2, 1), lungs=2000.0), "lungs covered differ: 2000 ml and 4000 ml"),
    ],
)
def test_comparisons_that_are_refused(other: Occasion, why: str) -> None:
    with pytest.raises(NotComparable, match=why):
        compare(replace(occasion(), time="1100"), other)


def test_a_name_counts_where_there_is_no_birth_date_and_a_changed_one_does_not_where_there_is() -> None:
    assert different_person(ANNA, replace(ANNA, name="Smith^Anna")) is None
    assert different_person(replace(ANNA, birth_date=""), replace(ANNA, name="DOE^ANNA^^")) is None
    assert different_person(replace(ANNA, birth_date=""), replace(ANNA, name="Smith^Anna")) is not None


def test_the_newest_that_can_be_compared_is_taken_and_the_others_say_why() -> None:
    stranger = occasion("1.2", date(2026, 2, 20), replace(ANNA, birth_date="19990101"))
    older = occasion("1.3", date(2025, 1, 1))
    found = newest_comparable(occasion(), [older, stranger, BEFORE])
    assert found.comparison is not None and found.comparison.study_instance_uid == "1.0"
    assert [r.study_instance_uid for r in found.refused] == ["1.2"]
    assert newest_comparable(occasion(), []) == NO_PRIORS
    assert NO_PRIORS.as_summary(occasion().summary) is None and NO_PRIORS.account == ""
    only_stranger = newest_comparable(occasion(), [stranger])
    assert only_stranger.comparison is None
    assert (
        only_stranger.account == "not compared with 1.2: the patients have one id but different birth dates"
    )


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
    assert priors_of(database, tmp_path, held[0], occasion().summary) == NO_PRIORS
    found = priors_of(database, tmp_path, held[1], occasion().summary)
    assert found.refused == (Refusal("1.7", "a study date is missing"),)

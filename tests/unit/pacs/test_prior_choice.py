"""Which studies of a PACS may be the prior of a study, and which of their series show a chest."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from scp.pacs_query.prior_choice import CurrentStudy, candidates, chest_series, unsearchable
from scp.pacs_query.source import SeriesStatement, StudyStatement
from scp.patients import Person

ANNA = Person("19500101", "F", "Doe^Anna")
NOW = CurrentStudy("1.9", "P1", "HOSPITAL", ANNA, "20260301", "1000")
BEFORE = StudyStatement("1.1", "P1", "HOSPITAL", ANNA, "20260201", "0900", "CT Thorax")
YEARS = timedelta(days=1095)


def test_earlier_studies_of_the_patient_the_newest_first() -> None:
    older = replace(BEFORE, study_instance_uid="1.2", date="20250201")
    same_day = replace(BEFORE, study_instance_uid="1.3", date="20260301", time="0930")
    itself = replace(BEFORE, study_instance_uid="1.9")
    found = candidates(NOW, [older, itself, BEFORE, same_day], YEARS)
    assert [s.study_instance_uid for s in found.studies] == ["1.3", "1.1", "1.2"]
    assert found.refused == ()


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (replace(BEFORE, patient_id="P10"), "another patient id"),
        (replace(BEFORE, issuer="ELSEWHERE"), "another issuer"),
        (replace(BEFORE, person=replace(ANNA, birth_date="19991231")), "different birth dates"),
        (replace(BEFORE, person=replace(ANNA, sex="M")), "different sexes"),
        (replace(BEFORE, person=Person("", "", "Roe^Richard")), "names differ"),
        (replace(BEFORE, date=""), "no study date"),
        (replace(BEFORE, date="20260302"), "not earlier"),
        (replace(BEFORE, date="20260301", time="1001"), "not earlier"),
        (replace(BEFORE, date="20200101"), "more than 1095 days earlier"),
    ],
)
def test_studies_that_cannot_be_the_prior(other: StudyStatement, why: str) -> None:
    found = candidates(NOW, [other], YEARS)
    assert found.studies == ()
    (refused,) = found.refused
    assert why in refused


@pytest.mark.parametrize(
    ("current", "why"),
    [
        (replace(NOW, patient_id=""), "no patient id"),
        (replace(NOW, patient_id="P*"), "pattern"),
        (replace(NOW, patient_id="A\\B"), "pattern"),
        (replace(NOW, date="2026"), "no study date"),
    ],
)
def test_studies_whose_prior_cannot_be_asked_for(current: CurrentStudy, why: str) -> None:
    assert why in (unsearchable(current) or "")


def test_a_study_whose_prior_can_be_asked_for() -> None:
    assert unsearchable(NOW) is None


def series(uid: str, count: int | None = 200, body_part: str = "", description: str = "") -> SeriesStatement:
    return SeriesStatement(uid, "CT", count, body_part, description)


@pytest.mark.parametrize(
    ("study", "stated", "taken"),
    [
        ("", [series("1", body_part="CHEST"), series("2", body_part="HEAD")], ["1"]),
        ("", [series("1", description="Lung 1.0"), series("2")], ["1"]),
        ("CT Thorax", [series("1", description="1.0 soft"), series("2", 3)], ["1"]),
        ("", [series("1"), series("2", body_part="ABDOMEN")], ["1"]),
        ("CT Abdomen", [series("1", body_part="ABDOMEN")], []),
        ("CT Thorax", [series("1", None)], ["1"]),
        ("CT Thorax", [replace(series("1"), modality="SR")], []),
    ],
)
def test_series_that_may_show_a_chest(study: str, stated: list[SeriesStatement], taken: list[str]) -> None:
    chosen = chest_series(replace(BEFORE, description=study), stated, fewest=20)
    assert [s.series_instance_uid for s in chosen] == taken

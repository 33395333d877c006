"""Rules against series: conditions, the first match, one decision for a study, and the account of it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from node.routing.facts import LONGEST_VALUE, SeriesFacts, values_at
from node.routing.matching import route_series, route_study
from node.routing.rules import UNROUTED, Rule, Rules, check_names
from store.priorities import Priority

MONDAY_NIGHT = datetime(2026, 1, 5, 23, 30)
TUESDAY_MORNING = datetime(2026, 1, 6, 5, 0)


def rules(*content: dict[str, Any]) -> tuple[Rule, ...]:
    return TypeAdapter(Rules).validate_python(content)


def facts(
    uid: str = "1.2", ae: str | None = "CT1", at: datetime = MONDAY_NIGHT, n: int = 200, **tags: Any
) -> SeriesFacts:
    sample = Dataset()
    for keyword, value in tags.items():
        setattr(sample, keyword, value)
    return SeriesFacts(uid, sample, n, ae, at)


def matches(when: dict[str, Any], series: SeriesFacts) -> bool:
    return route_series(rules({"name": "r", "when": when}), series).rule == "r"


def tag_matches(condition: Any, **tags: Any) -> bool:
    (keyword,) = tags
    return matches({"tags": {keyword: condition}}, facts(**{k: v for k, v in tags.items() if v is not None}))


@pytest.mark.parametrize(
    ("condition", "value", "holds"),
    [
        ("CT", "CT", True),
        ("CT", "MR", False),
        (["CT", "PT"], "PT", True),
        ({"in": ["CT"]}, "MR", False),
        ({"regex": "^C"}, "CT", True),
        ({"regex": "^T"}, "CT", False),
        ({"not": "CT"}, "CT", False),
        ({"not": "CT"}, None, True),
        ({"not": ["MR", "US"]}, "CT", True),
        ({"present": False}, None, True),
        ({"present": True}, None, False),
        ("CT", None, False),
    ],
)
def test_conditions_on_text(condition: Any, value: str | None, holds: bool) -> None:
    assert tag_matches(condition, Modality=value) is holds


@pytest.mark.parametrize(
    ("value", "holds"), [("1.5", True), ("3", True), ("3.01", False), ("0.5", False), (None, False)]
)
def test_a_range_includes_its_bounds(value: str | None, holds: bool) -> None:
    assert tag_matches({"min": 1, "max": 3}, SliceThickness=value) is holds


@pytest.mark.parametrize(("age", "adult"), [("045Y", True), ("017Y", False), ("011M", False), ("300M", True)])
def test_ages_count_in_years(age: str, adult: bool) -> None:
    assert tag_matches({"min": 18}, PatientAge=age) is adult


def test_a_value_that_is_no_number_is_in_no_range() -> None:
    assert not tag_matches({"min": 0}, StudyDescription="thorax")


def test_one_of_several_values_is_enough() -> None:
    assert tag_matches("PRIMARY", ImageType=["ORIGINAL", "PRIMARY", "AXIAL"])


def test_a_value_inside_a_sequence() -> None:
    item = Dataset()
    item.RequestedProcedurePriority = "STAT"
    series = facts(RequestAttributesSequence=Sequence([item]))
    path = "RequestAttributesSequence.RequestedProcedurePriority"
    assert matches({"tags": {path: "STAT"}}, series)
    assert not matches({"tags": {path: "STAT"}}, facts())


def test_attributes_by_number() -> None:
    assert matches({"tags": {"0008,0060": "CT"}}, facts(Modality="CT"))


def test_calling_ae_and_number_of_instances() -> None:
    assert matches({"calling_ae": ["CT1", "CT2"], "instances": {"min": 100}}, facts())
    assert not matches({"calling_ae": "CT2"}, facts())
    assert not matches({"calling_ae": "CT1"}, facts(ae=None))


@pytest.mark.parametrize(
    ("days", "at", "holds"),
    [
        ([], MONDAY_NIGHT, True),
        ([], TUESDAY_MORNING, True),
        (["mon"], TUESDAY_MORNING, True),
        (["tue"], TUESDAY_MORNING, False),
        (["mon"], MONDAY_NIGHT, True),
        ([], datetime(2026, 1, 5, 12, 0), False),
        ([], datetime(2026, 1, 5, 6, 0), False),
        ([], datetime(2026, 1, 5, 22, 0), True),
    ],
)
def test_a_night_belongs_to_the_day_on_which_it_began(days: list[str], at: datetime, holds: bool) -> None:
    assert matches({"time": {"from": "22:00", "until": "06:00", "days": days}}, facts(at=at)) is holds


def test_the_first_match_wins_and_the_trials_say_why() -> None:
    three = rules(
        {"name": "mr", "when": {"tags": {"Modality": "MR"}}, "then": {"screen": False}},
        {"name": "ct", "when": {"tags": {"Modality": "CT"}}, "then": {"priority": "urgent"}},
        {"name": "rest"},
    )
    route = route_series(three, facts(Modality="CT"))
    assert (route.rule, route.then.priority) == ("ct", Priority.URGENT)
    assert [(t.rule, t.matched) for t in route.trials] == [("mr", False), ("ct", True)]
    check = route.trials[0].checks[0]
    assert (check.asked, check.seen, check.held) == ("Modality = MR", "CT", False)


def test_a_series_that_no_rule_matches_is_screened_at_normal_priority() -> None:
    route = route_study(rules({"name": "mr", "when": {"tags": {"Modality": "MR"}}}), [facts(Modality="CT")])
    assert route.screened == ("1.2",)
    assert (route.packages, route.destinations, route.priority) == (None, None, Priority.NORMAL)
    assert UNROUTED in route.why


def test_the_most_urgent_rule_decides_for_a_study() -> None:
    two = rules(
        {"name": "thick", "when": {"tags": {"SliceThickness": {"min": 3}}}, "then": {"destinations": ["a"]}},
        {"name": "thin", "then": {"priority": "urgent", "destinations": ["b"]}},
    )
    route = route_study(two, [facts("1.1", SliceThickness="5"), facts("1.2", SliceThickness="1")])
    assert route.screened == ("1.2",)
    assert (route.destinations, route.priority) == (("b",), Priority.URGENT)
    assert "thick also matched" in route.why


def test_a_study_that_rules_keep_out_has_the_reason() -> None:
    out = rules({"name": "research", "then": {"screen": False, "reason": "research studies stay out"}})
    route = route_study(out, [facts()])
    assert route.screened == ()
    assert route.why == "rule research: research studies stay out"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"name": "a"}, {"name": "b"}], "can never match"),
        ([{"name": "a", "when": {"calling_ae": "X"}}, {"name": "a"}], "given to two rules"),
        ([{"name": "a", "when": {"tags": {"SliceThickness": {"min": 3, "max": 1}}}}], "min 3 is above max 1"),
        (
            [{"name": "a", "when": {"tags": {"Modality": {"equals": "CT", "in": ["MR"]}}}}],
            "no value can be both",
        ),
        ([{"name": "a", "when": {"tags": {"Modality": {}}}}], "at least one of equals"),
        ([{"name": "a", "when": {"tags": {"Modalty": "CT"}}}], "no DICOM attribute"),
        ([{"name": "a", "when": {"tags": {"Modality": {"regex": "("}}}}], "no regular expression"),
        ([{"name": "a", "then": {"screen": False, "priority": "urgent"}}], "screen: false"),
        ([{"name": "a", "then": {"priority": "soon"}}], "priority"),
        (
            [{"name": "a", "when": {"tags": {"Modality": {"present": False, "equals": "CT"}}}}],
            "no attribute can",
        ),
    ],
)
def test_rules_that_contradict_are_refused(content: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValidationError, match=message.replace("(", r"\(")):
        rules(*content)


def test_names_that_are_not_configured_are_refused() -> None:
    there = rules({"name": "a", "then": {"destinations": ["archive"]}})
    check_names(there, destinations=["archive"], packages=[])
    with pytest.raises(ValueError, match="destination 'archive'; allowed: pacs"):
        check_names(there, destinations=["pacs"], packages=[])


def test_hostile_values_are_cut() -> None:
    series = facts(StudyDescription="a" * 100_000)
    assert len(values_at(series.sample, "StudyDescription")[0]) == LONGEST_VALUE


@given(
    value=st.text(max_size=64), condition=st.sampled_from(["CT", {"min": 1}, {"regex": "^a*$"}, ["a", "b"]])
)
def test_not_is_the_opposite_for_a_single_value(value: str, condition: Any) -> None:
    series = facts()
    series.sample.StudyDescription = value
    once = matches({"tags": {"StudyDescription": condition}}, series)
    assert matches({"tags": {"StudyDescription": {"not": condition}}}, series) is not once

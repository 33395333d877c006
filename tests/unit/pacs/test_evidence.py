"""Counts, announcements and gaps as grounds for completeness."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scp.completeness import CompletenessPolicy, decide
from scp.evidence import (
    Evidence,
    Slice,
    Strength,
    announced_evidence,
    compare,
    gap_free_evidence,
    gap_in,
)
from scp.pacs_query.source import SeriesStatement
from store.revisions import ReceivingStudy

START = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
POLICY = CompletenessPolicy(timedelta(seconds=30), timedelta(minutes=30), timedelta(seconds=5))


def study(associations: int = 0, count: int = 10) -> ReceivingStudy:
    return ReceivingStudy(1, "1.2", START, START, associations, count)


def stated(**series: int) -> list[SeriesStatement]:
    return [SeriesStatement(uid, "CT", count) for uid, count in series.items()]


def test_counts_that_agree() -> None:
    agreement = compare(stated(a=5, b=3), {"a": 5, "b": 3}, whole_study=True)
    assert agreement.agrees
    assert agreement.words == "states 8 instances in 2 series, 8 are here"


@pytest.mark.parametrize("whole_study", [True, False])
def test_a_series_that_nobody_sent(whole_study: bool) -> None:
    agreement = compare(stated(a=5, b=3), {"a": 5}, whole_study=whole_study)
    assert agreement.missing == (("b",) if whole_study else ())


def test_results_in_the_pacs_do_not_count() -> None:
    results = [SeriesStatement("s", "SEG", 1), SeriesStatement("r", "SR", 4)]
    assert compare([*stated(a=5), *results], {"a": 5}, whole_study=True).agrees


@pytest.mark.parametrize("there", [[], stated(a=4)])
def test_a_pacs_that_knows_less_than_we_is_behind(there: list[SeriesStatement]) -> None:
    agreement = compare(there, {"a": 5}, whole_study=True)
    assert agreement.behind and not agreement.agrees


@given(
    there=st.dictionaries(st.sampled_from("abcd"), st.integers(0, 5)),
    here=st.dictionaries(st.sampled_from("abcd"), st.integers(1, 5), min_size=1),
)
def test_agreement_means_equal_counts_in_every_series(there: dict[str, int], here: dict[str, int]) -> None:
    agreement = compare(stated(**there), here, whole_study=True)
    nonzero = {uid: count for uid, count in there.items() if count}
    assert agreement.agrees == (nonzero == here)


def test_an_announcement_counts_once_everything_it_names_is_here() -> None:
    said = [("MPPS", "CT1", frozenset({"1", "2"}))]
    assert announced_evidence(said, frozenset({"1"})) is None
    found = announced_evidence(said, frozenset({"1", "2", "3"}))
    assert found is not None and found.strength is Strength.SURE
    assert found.why == "MPPS of CT1 names 2 instances, all here"
    assert announced_evidence([("IAN", "P", frozenset())], frozenset({"1"})) is None


def slices(count: int, step: float = 2.0) -> list[Slice]:
    return [Slice(n * step, n + 1) for n in range(count)]


def test_a_series_without_gap() -> None:
    assert gap_in(slices(40)) is None


@pytest.mark.parametrize("gone", [1, 17, 38])
def test_a_missing_slice_is_seen(gone: int) -> None:
    whole = slices(40)
    assert "instance numbers 1 to 40" in (gap_in(whole[:gone] + whole[gone + 1 :]) or "")
    unnumbered = [Slice(s.position, n) for n, s in enumerate(whole[:gone] + whole[gone + 1 :])]
    assert "mm apart" in (gap_in(unnumbered) or "")


def test_too_few_slices_tell_nothing() -> None:
    assert gap_in(slices(3)) is not None
    assert gap_free_evidence({}, 0).strength is Strength.NONE


def evidence(strength: Strength, count: int = 10) -> Evidence:
    return Evidence(strength, "the grounds", count)


def test_sure_evidence_completes_at_once_and_says_why() -> None:
    decision = decide(study(), POLICY, START, evidence(Strength.SURE))
    assert decision.complete and decision.why == "the grounds"


def test_likely_evidence_shortens_the_quiet_time() -> None:
    likely = evidence(Strength.LIKELY)
    assert not decide(study(), POLICY, START + timedelta(seconds=4.9), likely).complete
    decision = decide(study(), POLICY, START + timedelta(seconds=5), likely)
    assert decision.complete and "the grounds" in decision.why


def test_counts_that_never_agree_end_with_the_quiet_time_and_are_named() -> None:
    never = evidence(Strength.NONE)
    assert not decide(study(), POLICY, START + timedelta(seconds=29), never).complete
    decision = decide(study(), POLICY, START + timedelta(seconds=30), never)
    assert decision.complete and decision.why.endswith("; the grounds")


@pytest.mark.parametrize("strength", list(Strength))
def test_no_evidence_ends_a_study_that_is_being_sent(strength: Strength) -> None:
    assert not decide(
        study(associations=1), POLICY, START + timedelta(minutes=5), evidence(strength)
    ).complete


def test_evidence_for_another_number_of_instances_is_void() -> None:
    assert not decide(study(count=11), POLICY, START, evidence(Strength.SURE)).complete

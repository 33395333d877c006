"""When a study is complete."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from scp.completeness import CompletenessPolicy, decide
from store.revisions import ReceivingStudy

START = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
POLICY = CompletenessPolicy(quiet=timedelta(seconds=30), max_wait=timedelta(minutes=30))
seconds = st.floats(-4000, 4000).map(lambda s: timedelta(seconds=s))


def study(last: timedelta = timedelta(0), associations: int = 0) -> ReceivingStudy:
    return ReceivingStudy(1, "1.2.3", START, START + last, associations, 10)


def test_quiet_long_enough() -> None:
    assert not decide(study(), POLICY, START + timedelta(seconds=29.9)).complete
    assert decide(study(), POLICY, START + timedelta(seconds=30)).complete


def test_an_open_association_holds_it_back() -> None:
    decision = decide(study(associations=1), POLICY, START + timedelta(minutes=29))
    assert not decision.complete
    assert "open association" in decision.why


def test_but_not_for_ever() -> None:
    decision = decide(study(associations=1), POLICY, START + timedelta(minutes=30))
    assert decision.complete
    assert "maximum wait" in decision.why


def test_every_instance_begins_the_quiet_time_anew() -> None:
    later = timedelta(seconds=20)
    assert not decide(study(last=later), POLICY, START + timedelta(seconds=45)).complete
    assert decide(study(last=later), POLICY, START + timedelta(seconds=50)).complete


def test_a_clock_that_was_set_back_counts_as_no_time() -> None:
    decision = decide(study(), POLICY, START - timedelta(hours=2))
    assert not decision.complete
    assert decision.again_at == START - timedelta(hours=2) + POLICY.quiet


@given(last=seconds, passed=seconds, associations=st.integers(0, 2))
def test_it_is_decided_at_last_and_never_asked_in_the_past(
    last: timedelta, passed: timedelta, associations: int
) -> None:
    now = START + passed
    decision = decide(study(last, associations), POLICY, now)
    assert decision.again_at >= now or associations
    assert decide(study(last, associations), POLICY, START + POLICY.max_wait).complete
